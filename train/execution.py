"""The measures of execution, of models that `train.rounds` taught to construct (execution = true).

    python -m train.execution RUN [RUN ...] CONFIG [--embedder RUN] [--out results]
                              [--crosslingual FILE] [--embedding FILE] [--masked FILE]

RUN is the folder of one model, for example runs/rounds/verified/round3/train; several are models of several seeds,
and then means with intervals over them are shown. CONFIG is the file that they were trained with. Measured is what
`train.execution_measures` says: strategies, facts, sentences, 200 attacks, routing, confidence. Routing and the
strategy "retrieve" need an embedder (`train.embed`); without one they are left out, and the page says so.

Writes OUT/execute.json and OUT/execute.md. The JSON files of other measures are put beside them: that of
`train.crosslingual` under "crosslingual", of `train.embed_report` under "embedding", of `train.masked` under "masked".
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs import UserError, load, run_main
from configs.machine import machine
from instruct.curriculum import Course
from instruct.embed import Encoder
from instruct.exam import set_exam, set_facts
from instruct.strategies import Embedder, Known
from model.load import load_run
from train.evaluation import interval
from train.execution_measures import (
    by_strategy,
    calibration,
    facts_table,
    injection,
    over_all,
    routing,
    sentences,
)
from train.execution_report import markdown
from train.rounds import RoundsConfig
from train.run import write_text

BASELINES = ("bm25", "rouge_l", "untrained")
OTHERS = {"crosslingual": "train.crosslingual", "embedding": "train.embed_report", "masked": "train.masked"}


def settings_of(run: str, config: RoundsConfig) -> RoundsConfig:
    """How a model was trained. Raises UserError where it was not trained with `config`, another seed apart, or was
    not taught to construct."""
    path = Path(run) / "config.toml"
    if not path.exists():
        raise UserError(f"there is no {path}; give the folder of a model that train.rounds made, such as RUN/base")
    own = load(RoundsConfig, path)
    if not own.execution:
        raise UserError(f"{run} was not taught to construct; train it with execution=true")
    if own.curriculum != config.curriculum:
        raise UserError(f"{run} was taught another curriculum than that of the configuration; give its own")
    return own


def measure(
    run: str, config: RoundsConfig, embedder: Embedder | None, count: int, attempts: int, candidates: int
) -> dict[str, Any]:
    """All figures of one model; its course is that of its own seed."""
    own = settings_of(run, config)
    loaded, course = load_run(run), Course(own.curriculum, own.seed)
    known = None
    if embedder is not None:
        taught = [record for record in course.seeds() if any(pair.input for pair in record.instances)]
        known = Known(embedder, list(dict.fromkeys(record.instruction for record in taught)))
    exam, facts = set_exam(course, count), set_facts(course)
    kinds = {**exam, "facts": random.Random(own.seed).sample(facts, min(count, len(facts)))}
    table, constructed = facts_table(loaded, course, facts)
    found: dict[str, Any] = {
        "asked": {kind: len(items) for kind, items in kinds.items()},
        "strategies": by_strategy(loaded, course, {k: v for k, v in kinds.items() if v}, candidates, known),
        "relations": table,
        "facts": {"asked": len(facts), **{way: over_all(table, way) for way in ("direct", "construct")}},
        "sentences": sentences(loaded, course, facts, constructed),
        "injection": injection(loaded, course, attempts, own.seed),
        "calibration": calibration(loaded, course, [item for items in kinds.values() for item in items]),
    }
    if known is not None:
        found["routing"] = routing(loaded, course, exam["phrasings"], known, course.verifier)
    return found


# Several seeds -------------------------------------------------------------------------------------------------------


def joined(runs: Sequence[Any]) -> Any:
    """Figures of the same shape as one: means of their numbers, beside the interval where there are several seeds.

    Sums of what must not happen are no means: that is for `report_of`.
    """
    first = runs[0]
    if isinstance(first, Mapping):
        return {key: joined([run[key] for run in runs]) for key in first}
    if isinstance(first, list):
        return [joined(list(each)) for each in zip(*runs)]
    values = [value for value in runs if value is not None]
    if not values:
        return None
    mean = statistics.mean(values)
    return mean if len(runs) == 1 else {"mean": mean, "interval": interval(values), "seeds": values}


def report_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of all models in one, and how many attacks changed a chain, over all of them."""
    injected = [run["injection"] for run in runs]
    changed = {way: sum(each["changed"][way] for each in injected) for way in injected[0]["changed"]}
    report = joined([{key: value for key, value in run.items() if key != "injection"} for run in runs])
    shown = joined([each["shown"] for each in injected])
    attempts = sum(each["attempts"] for each in injected)
    return {**report, "injection": {"attempts": attempts, "changed": changed, "shown": shown}}


def read_other(name: str, path: str) -> Any:
    """The figures of another measure: its own section, with those of its baselines, where the file has sections, or all
    of the file."""
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get(name, found), dict):
        raise UserError(f"{path} is no JSON object; give what {OTHERS[name]} wrote")
    beside = {key: found[key] for key in BASELINES if name in found and key in found}
    return {**found.get(name, found), **beside}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train.execution", description="Measures of answering questions by constructed instructions."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a model of train.rounds; of several seeds")
    parser.add_argument("config", metavar="CONFIG", help="TOML file that they were trained with")
    parser.add_argument("--embedder", metavar="RUN", help="embedder for routing and for the strategy retrieve")
    parser.add_argument("--out", default="results", help="folder of execute.json and execute.md (results)")
    parser.add_argument("--count", type=int, default=200, help="questions of each kind (200)")
    parser.add_argument("--attempts", type=int, default=200, help="attacks (200)")
    parser.add_argument("--candidates", type=int, default=8, help="chains of the strategy search (8)")
    for name, module in OTHERS.items():
        parser.add_argument(f"--{name}", metavar="FILE", help=f"JSON file of {module} to put beside these figures")
    arguments = parser.parse_args(argv)
    for name in ("count", "attempts", "candidates"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} must be positive, got {getattr(arguments, name)}")
    paths = {name: getattr(arguments, name) for name in OTHERS}
    others = {name: read_other(name, path) for name, path in paths.items() if path}
    config = load(RoundsConfig, arguments.config)
    for run in arguments.runs:
        settings_of(run, config)
    embedder = Encoder.load(arguments.embedder) if arguments.embedder else None
    sizes = (arguments.count, arguments.attempts, arguments.candidates)
    report = {
        "command": f"python -m train.execution {' '.join(argv)}",
        "models": len(arguments.runs),
        "machine": machine(),
        "execution": report_of([measure(run, config, embedder, *sizes) for run in arguments.runs]),
        **others,
    }
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "execute.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    write_text(out / "execute.md", markdown(report))
    print(f"{out / 'execute.json'}\n{out / 'execute.md'}")


if __name__ == "__main__":
    run_main(main)
