"""Health: figures that show when learning from feedback goes wrong, and rules that stop it and say why.

    health = Health(HealthConfig())
    problem = health.check({"reward": 0.41, "kl": 2.3, "length": 9.1, ...})    # None, or one sentence

Losses of preference and policy-gradient learning say little: they fall while the chosen answers become less likely,
answers grow, repeat themselves, or satisfy the reward and nobody else, and where no group of answers has a better and a
worse one, nothing is learnt at all and nothing says so. So both kinds of stages measure, as often as they can,

    reward               mean reward of sampled answers
    right                share of them that are right, where the reward says something else and a program knows better
    kl                   divergence from the reference, in nats an answer
    entropy              mean -log p of a sampled token, in nats
    length               mean number of tokens of an answer
    repetition           share of an answer's trigrams that occurred before in it
    unfinished           share of answers that were cut off
    silent               share of groups whose answers all have the same reward
    chosen, rejected     mean log-probability of chosen and rejected answers, in nats
    chosen_drift         change of the first since the reference, as a share of its size; below 0: less likely

A figure that is absent is not judged. A rule stops a run when it has been broken `patience` checks in a row, or at once
by a figure that is no number. All that a `Health` remembers follows from the figures that it has seen: a resumed run
shows it those of its records again (`replay`), and it judges as if there had been no interruption.

What it leaves out: whether answers are any good where no program knows it. That is for people.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from configs import check


@dataclass(frozen=True)
class HealthConfig:
    """Limits; 0 switches a rule off. Figures are those of the head of `train.health`.

    kl            the largest divergence
    entropy       the smallest entropy. Off: where one answer is right, a certain model is what is wanted
    growth        how many times longer, or shorter, than at the first check answers may be
    repetition, unfinished, silent    the largest shares
    drift         how much less likely chosen answers may become, as a share
    fall          how far the reward may fall below the best mean of `window` checks in a row, in its own units
    right         how far the share of right answers may fall below its best such mean, as a share of that mean
    patience      checks in a row that break a rule until it stops the run
    window        checks that are averaged for `fall` and `right`
    """

    kl: float = 50.0
    entropy: float = 0.0
    growth: float = 4.0
    repetition: float = 0.5
    unfinished: float = 0.5
    silent: float = 0.98
    drift: float = 0.3
    fall: float = 0.3
    right: float = 0.25
    patience: int = 10
    window: int = 10

    def __post_init__(self):
        limits = ("kl", "entropy", "growth", "repetition", "unfinished", "silent", "drift", "fall", "right")
        problems = [f"{n} must not be negative, got {getattr(self, n)}" for n in limits if not getattr(self, n) >= 0]
        problems += [
            f"{n} must be a share, at most 1, got {getattr(self, n)}"
            for n in ("repetition", "unfinished", "silent", "right")
            if getattr(self, n) > 1
        ]
        if 0 < self.growth <= 1:
            problems.append(f"growth must be above 1, or 0 for no limit, got {self.growth}")
        problems += [
            f"{n} must be positive, got {getattr(self, n)}" for n in ("patience", "window") if getattr(self, n) < 1
        ]
        check(problems)


FIGURES = ("reward", "right", "kl", "entropy", "length", "repetition", "unfinished", "silent")
FIGURES += ("chosen", "rejected", "chosen_drift")


class _Broken(NamedTuple):
    """A rule that is broken: what was found, and what to try."""

    found: str
    remedy: str


class Health:
    """Judges the figures of a run, one check after the other. Ranks that see the same figures judge alike."""

    def __init__(self, config: HealthConfig):
        self.config = config
        self.first_length: float | None = None
        self.means = {name: _Means(config.window) for name in ("reward", "right")}
        self.broken: dict[str, int] = {}  # how many checks in a row each rule has been broken

    def check(self, figures: Mapping[str, Any]) -> str | None:
        """None while all is well; else one sentence: which figure, beyond which limit, and what to try."""
        known = {name: float(figures[name]) for name in FIGURES if figures.get(name) is not None}
        for name, value in known.items():
            if not math.isfinite(value):
                return f"{name} is {value}: the model gives no numbers any more; lower optimizer.lr"
        broken = self._broken(known)
        self.broken = {rule: self.broken.get(rule, 0) + 1 for rule in broken}
        for rule, found in broken.items():
            if self.broken[rule] >= self.config.patience:
                checks = f"for {self.broken[rule]} checks in a row" if self.broken[rule] > 1 else "now"
                return f"{found.found} (health.{rule} = {getattr(self.config, rule):g}), {checks}: {found.remedy}"
        return None

    def replay(self, records: Iterable[Mapping[str, Any]], kind: str) -> None:
        """See the records of this kind in a run's metrics (`train.run.read_metrics`) again, oldest first."""
        for record in records:
            if record.get("kind") == kind:
                self.check(record)

    def _broken(self, known: Mapping[str, float]) -> dict[str, _Broken]:
        """The rules that these figures break; remembers what later checks compare with."""
        limits, broken = self.config, {}
        above = {
            "kl": "the model has left its reference: raise the weight of the divergence, or lower optimizer.lr",
            "repetition": "answers repeat themselves: raise the weight of the divergence, or lower optimizer.lr",
            "unfinished": "answers do not come to an end: allow more tokens, or start from a model that stops",
            "silent": "groups give no signal: use easier or harder questions, larger groups, or another reward",
        }
        for name, remedy in above.items():
            limit = getattr(limits, name)
            if limit and known.get(name, -math.inf) > limit:
                broken[name] = _Broken(f"{name} is {known[name]:.3g}, above its limit", remedy)
        if known.get("entropy", math.inf) < limits.entropy:
            remedy = "the model samples one answer only: lower optimizer.lr, or raise the weight of the divergence"
            broken["entropy"] = _Broken(f"entropy is {known['entropy']:.3g}, below its limit", remedy)
        if limits.drift and known.get("chosen_drift", 0.0) < -limits.drift:
            found = f"chosen_drift is {known['chosen_drift']:.3g}, chosen answers became less likely than allowed"
            broken["drift"] = _Broken(found, "add a likelihood anchor, or lower optimizer.lr")
        return broken | self._length(known) | self._falls(known)

    def _length(self, known: Mapping[str, float]) -> dict[str, _Broken]:
        if "length" not in known or not self.config.growth:
            return {}
        length = max(known["length"], 1.0)
        if self.first_length is None:
            self.first_length = length
        ratio = length / self.first_length
        if 1 / self.config.growth <= ratio <= self.config.growth:
            return {}
        found = f"length is {length:.3g} tokens, {ratio:.2g} times that of the first check"
        return {"growth": _Broken(found, "the reward may prefer length: normalise by a constant, or change the reward")}

    def _falls(self, known: Mapping[str, float]) -> dict[str, _Broken]:
        rules = {
            "fall": ("reward", "lower optimizer.lr, or go back to an earlier checkpoint"),
            "right": ("right", "the reward is being outwitted: mend it, or raise the weight of the divergence"),
        }
        broken = {}
        for rule, (name, remedy) in rules.items():
            limit, means = getattr(self.config, rule), self.means[name]
            if not limit or name not in known or (mean := means.add(known[name])) is None:
                continue
            allowed = limit * means.best if rule == "right" else limit
            if mean < means.best - allowed:
                broken[rule] = _Broken(f"{name} is {mean:.3g}, and was {means.best:.3g} at best", remedy)
        return broken


class _Means:
    """Means of the last so many values, and the best one."""

    def __init__(self, window: int):
        self.window, self.recent, self.best = window, [], -math.inf

    def add(self, value: float) -> float | None:
        """The mean with this value; None while there are too few."""
        self.recent = [*self.recent, value][-self.window :]
        if len(self.recent) < self.window:
            return None
        mean = sum(self.recent) / self.window
        self.best = max(self.best, mean)
        return mean


def repetition(ids: Sequence[int], size: int = 3) -> float:
    """The share of the n-grams of a text that occurred before in it; 0 for texts too short to have any."""
    found = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
    return 1 - len(set(found)) / len(found) if found else 0.0
