"""The reward model: a number for an answer, learnt from which answers were preferred, or from their scores.

    python -m train.reward configs/demo/reward.toml [section.key=value ...]
    python -m train.reward configs/demo/reward.toml data.paths=['pairs.jsonl']
    torchrun --standalone --nproc_per_node=2 -m train.reward configs/demo/reward.toml

The trunk is that of `init`; a linear layer on the last token is new (`model.heads.Scorer`, used by `model.reward`). The
judgements come from files (`data.preferences`: pairs, or scores) or, when none is named, from the world, as those of
`train.prefer` do.

    pairs    -log s(r_c - r_j - margin) + centring (r_c + r_j)^2, s the logistic function
    scores   (r - score)^2

The first is the likelihood of Bradley and Terry (1952): s(r_c - r_j) is the probability that c is preferred. The
margin, where a pair states one and `use_margin` is set, asks for a larger difference (Touvron et al. 2023, Llama 2).
Pairs only fix differences; centring holds the rewards near 0 (Eisenstein et al. 2023).

What is measured on held-out prompts: `accuracy` (the chosen answer has the larger reward; ties half), `margin` (mean
difference), `mean` and `spread` of the rewards; and whether the probabilities can be believed: of comparisons that are
called with confidence max(p, 1 - p), p = s(difference), which share is right? RUN/report.json has the reliability
table; `ece` is the mean distance of confidence and share, weighted by the comparisons (Guo et al. 2017). Of scores:
`loss`, `correlation`.

What it leaves out: labels without scores (`train.prefer` with loss.kind=kto learns from them), ensembles.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from configs import UserError, check, run_main
from data.answers import AnswerRows, fit_answers
from data.batches import Batch
from data.preferences import Labelled, Preference, is_paired, read_labelled, read_preferences, write_preferences
from model.heads import Scorer
from model.load import LoadedModel, load_run, model_files
from model.lora import LoraConfig
from model.reward import row_scores, scored_rows
from train.distributed import Ranks
from train.objectives import LossTerms
from train.optim import OptimizerConfig, ScheduleConfig
from train.parallel import with_adapters
from train.prefer import BATCH_TOKENS, PAIRS, PreferenceData, world_pairs
from train.preference_data import Judged, divided
from train.run import RunFolder, TrainState, write_text
from train.stage import stage_main
from train.texts import in_epochs
from train.trainer import TrainConfig, Trainer

REPORT = "report.json"
BINS = 10  # of the reliability table, over confidences from one half to 1


@dataclass(frozen=True)
class RewardConfig:
    """A run of a reward model.

    init        run folder (or checkpoint folder) of the model whose trunk is tuned
    epochs      passes over the data; 0: `train.steps` decides
    centring    weight of the squared sum of the rewards of a pair
    use_margin  whether the margins that pairs state are asked for
    lora        adapters that are trained instead of the trunk
    """

    run: str = "runs/reward"
    init: str = "runs/sft"
    seed: int = 0
    epochs: float = 0.0
    centring: float = 0.01
    use_margin: bool = True
    data: PreferenceData = field(default_factory=PreferenceData)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self):
        problems = [] if self.init else ["init must name the run folder of a model"]
        problems += [
            f"{name} must not be negative, got {getattr(self, name)}"
            for name in ("epochs", "centring")
            if getattr(self, name) < 0
        ]
        check(problems)


# Losses --------------------------------------------------------------------------------------------------------------


def pair_rewards_loss(rewards: Tensor, margins: Tensor, centring: float) -> Tensor:
    """The losses (B,) of rewards (B, 2), that of the chosen answer in front, and margins (B,)."""
    difference = rewards[:, 0] - rewards[:, 1]
    return -logsigmoid(difference - margins) + centring * rewards.sum(1).square()


def score_loss(rewards: Tensor, scores: Tensor) -> Tensor:
    """The losses (B,) of rewards (B, 1) and scores (B,)."""
    return (rewards[:, 0] - scores).square()


class RewardObjective:
    """An objective for the trainer. wanted (rows,): the margins of pairs, or the scores of answers, of all rows."""

    def __init__(self, wanted: Tensor, centring: float):
        self.wanted, self.centring = wanted, centring

    def __call__(self, model: nn.Module, batch: Batch) -> LossTerms:
        return self.terms(row_scores(model, batch), self.wanted[batch.samples])

    def terms(self, rewards: Tensor, wanted: Tensor) -> LossTerms:
        """Sum and number of the losses of rewards (B, K) with what is wanted of them (B,)."""
        paired = rewards.shape[1] == 2
        losses = pair_rewards_loss(rewards, wanted, self.centring) if paired else score_loss(rewards, wanted)
        return LossTerms(losses.sum(), losses.new_tensor(len(losses)))


# Data ----------------------------------------------------------------------------------------------------------------


def read_rated(paths: Sequence[str]) -> list[Judged]:
    """Pairs, or scored answers, of the files. Raises UserError for labels, and for both together."""
    found: list[Judged] = []
    for path in paths:
        rated = read_preferences(path) if is_paired(path) else read_labelled(path)
        if found and type(found[0]) is not type(rated[0]):
            raise UserError(f"{path} and {paths[0]} rate in different ways: give either pairs or scores")
        found += rated
    unscored = next((each for each in found if isinstance(each, Labelled) and each.score is None), None)
    if unscored:
        raise UserError(f"{unscored.origin}: a label is no score; learn from it with train.prefer and loss.kind=kto")
    return found


def rated_rows(found: Sequence[Judged], loaded: LoadedModel, use_margin: bool) -> tuple[AnswerRows, Tensor, int]:
    """Rows, the margins or scores (rows,) that are wanted of them, and how many did not fit.

    Raises UserError when none fits.
    """
    context, groups, wanted = loaded.model.config.context, [], []
    for each in found:
        paired = isinstance(each, Preference)
        said = (each.chosen, each.rejected) if paired else (each.completion,)
        if group := fit_answers(each.prompt, said, loaded.tokenizer, loaded.chat, context, each.origin):
            groups.append(group)
            wanted.append((use_margin and each.margin) or 0.0 if paired else each.score)
    if not groups:
        raise UserError(
            f"none of {len(found)} judgements fits into a context of {context} tokens: use a larger context"
        )
    return scored_rows(groups, context, loaded.tokenizer.pad), torch.tensor(wanted), len(found) - len(groups)


# Measuring -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def reward_table(model: Scorer, rows: AnswerRows, ranks: Ranks) -> Tensor:
    """The rewards (rows, K) of all answers, float32, on the device; each rank computes its part."""
    model.eval()
    mine = range(ranks.rank, len(rows), ranks.world)
    found = torch.zeros(len(rows), rows.size, device=ranks.device)
    for batch in rows.batches(mine, max(1, BATCH_TOKENS // (rows.context * rows.size)), ranks.device):
        found[batch.samples] = row_scores(model, batch).float()
    return ranks.sum(found)


def reliability(differences: Tensor) -> list[dict[str, float]]:
    """Of comparisons with these differences of rewards (N,), chosen minus rejected: by confidence, how many there are
    ("pairs"), their mean "confidence", and the share that is "right". Ties are half right.
    """
    p = torch.sigmoid(differences)
    confidence, right = torch.maximum(p, 1 - p), (differences > 0) + 0.5 * (differences == 0)
    place = ((confidence - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    table = []
    for number in place.unique().tolist():
        here = place == number
        low = 0.5 + number / (2 * BINS)
        figures = {"confidence": float(confidence[here].mean()), "right": float(right[here].mean())}
        table.append({"from": round(low, 4), "to": round(low + 0.5 / BINS, 4), "pairs": int(here.sum()), **figures})
    return table


def calibration_error(table: Sequence[dict[str, float]]) -> float:
    """The expected calibration error of a reliability table."""
    pairs = sum(row["pairs"] for row in table)
    return sum(row["pairs"] * abs(row["confidence"] - row["right"]) for row in table) / max(pairs, 1)


def report_of(objective: RewardObjective, rewards: Tensor, wanted: Tensor) -> dict[str, Any]:
    """All figures of held-out rewards (rows, K); of pairs with their reliability table."""
    rewards, wanted = rewards.double().cpu(), wanted.double().cpu()
    total, weight = objective.terms(rewards, wanted)
    figures = {"loss": float(total / weight), "mean": float(rewards.mean()), "spread": float(rewards.std(correction=0))}
    if rewards.shape[1] == 1:
        both = torch.stack([rewards[:, 0], wanted])
        varies = len(wanted) > 1 and (both.std(1) > 0).all()
        return {**figures, "correlation": float(torch.corrcoef(both)[0, 1]) if varies else 0.0}
    differences = rewards[:, 0] - rewards[:, 1]
    table = reliability(differences)
    accuracy = ((differences > 0) + 0.5 * (differences == 0)).mean()
    figures |= {"accuracy": float(accuracy), "margin": float(differences.mean()), "ece": calibration_error(table)}
    return {**figures, "pairs": len(differences), "reliability": table}


# The run -------------------------------------------------------------------------------------------------------------


def build_trainer(config: RewardConfig, ranks: Ranks, fresh: bool = False) -> Trainer:
    """Everything a run needs, from its configuration."""
    loaded = load_run(config.init)
    run = RunFolder(config.run, ranks.is_main)
    run.check(config, fresh)
    data = config.data
    found = read_rated(data.paths) if data.paths else world_pairs(data, config.seed, loaded, run, fresh, ranks)
    parts = divided(found, data.validation, ", ".join(data.paths) or "the pairs of the world")
    (rows, wanted, dropped), (held_rows, held_wanted, more) = (
        rated_rows(part, loaded, config.use_margin) for part in parts
    )
    torch.manual_seed(config.seed)
    model = Scorer(loaded.model.config)
    model.trunk.load_state_dict(loaded.model.trunk.state_dict())
    with_adapters(model, config.lora, config.train.parallel, config.seed, ranks)
    run.open(config, fresh)
    if ranks.is_main:
        print(f"{len(rows)} judgements to train on, {len(held_rows)} held out, {dropped + more} dropped (too long)")
        if not data.paths:
            write_preferences(run.path / PAIRS, found)
    ranks.barrier()
    objective = RewardObjective(wanted.to(ranks.device), config.centring)

    def evaluate() -> dict[str, float]:
        report = report_of(objective, reward_table(model, held_rows, ranks), held_wanted)
        if ranks.is_main:
            write_text(run.path / REPORT, json.dumps(report, indent=1) + "\n")
        return {name: value for name, value in report.items() if isinstance(value, float)}

    return Trainer(
        config=in_epochs(config.train, config.epochs, len(rows)),
        optimizer=config.optimizer,
        schedule=config.schedule,
        model=model,
        objective=objective,
        rows=rows,
        run=run,
        ranks=ranks,
        files=lambda: model_files(model, loaded.tokenizer, loaded.chat),
        evaluate=evaluate,
        seed=config.seed,
    )


def train_reward(config: RewardConfig, ranks: Ranks, fresh: bool = False) -> TrainState:
    """Train one reward model as `config` says; returns the state that was reached."""
    return build_trainer(config, ranks, fresh).fit()


def main(argv: list[str]) -> None:
    stage_main(argv, "reward", RewardConfig, train_reward, "Train a reward model on judged answers.")


if __name__ == "__main__":
    run_main(main)
