"""The proof: do instructions that a model wrote itself make it better, at equal compute, and which judge do they need?

    python -m train.proof configs/construct.toml --seeds 5 --out results [--arms verified,seeds] [--people FOLDER]

Every arm of `train.rounds` is run for every seed: the same base, the same number of steps and tokens in every round.
The marks of the last round, compared between arms within a seed, are the gain. Then `train.evidence` measures what the
base writes, the filters against the truth, kept items by another road, induction; and ROUGE-L its speed. Writes
`construct.json`, `construct.md` and pictures; what is finished is not repeated, so that the command can be interrupted
at any time; `--finished` reports what there is.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs import UserError, load, run_main
from configs.machine import machine
from instruct.construct import ARMS
from instruct.curriculum import Course
from instruct.exam import KINDS, PLANNED
from instruct.records import read_records
from instruct.verify import audit_summary
from model.load import WEIGHTS, load_run
from model.storage import read_manifest
from train.distributed import Ranks, setup, teardown
from train.evaluation import interval
from train.evidence import filter_table, free_writing, induction_table, people_table, recheck
from train.plots import can_plot
from train.proof_report import draw, markdown
from train.rounds import RoundsConfig, arm_folder, marks_of, run
from train.run import write_text

HEADLINE = "open"  # kinds of question: not in the seeds, free to be discovered. "compositions" stay out of all training
EVIDENCE = "evidence.json"
INDUCED = 300  # tasks of induction of each kind, at most


def configured(config: RoundsConfig, seed: int, arm: str) -> RoundsConfig:
    """The configuration of one seed and arm; all arms of a seed lie in one run folder."""
    propose = replace(config.construct.propose, seed=seed)
    return replace(
        config, seed=seed, run=f"{config.run}/seed{seed}", construct=replace(config.construct, arm=arm, propose=propose)
    )


def audited(config: RoundsConfig, course: Course) -> list[dict[str, Any]]:
    """For each round of an arm, what it kept, and what the truth about that is (which the arm may not have known)."""
    rounds = []
    for number in range(1, config.rounds + 1):
        records = list(read_records(arm_folder(config) / f"round{number}" / "records.jsonl"))
        kept = [record for record in records if record.kept]
        verdicts = [
            course.verifier.judge(record.instruction, each.input, each.output)
            for record in kept
            for each in record.instances
        ]
        read = [course.verifier.judge(record.instruction) for record in kept]
        rounds.append(
            {
                "written": len(records),
                "kept": len(kept),
                "instances": len(verdicts),
                "right": sum(bool(verdict.right) for verdict in verdicts) / max(len(verdicts), 1),
                "readable": sum(verdict.program is not None for verdict in read) / max(len(read), 1),
                "behaviours": len({verdict.behaviour for verdict in read if verdict.behaviour}),
                "held_out": sum(v.decision is not None and v.decision.code == "test split" for v in read),
            }
        )
    return rounds


def arms_table(
    config: RoundsConfig, seeds: int, arms: Sequence[str], ranks: Ranks, finished: bool = False
) -> dict[str, dict[str, dict[int, Any]]]:
    """{arm: {"marks": {seed: by round}, "rounds": {seed: by round}}}. What is missing is run, or, with `finished`, left
    out."""
    table: dict[str, dict[str, dict[int, Any]]] = {arm: {"marks": {}, "rounds": {}} for arm in arms}
    for seed in range(seeds):
        for arm in arms:
            one = configured(config, seed, arm)
            if marks_of(one) is None:
                if finished:
                    continue
                if ranks.is_main:
                    print(f"\n=== seed {seed}, {arm}", flush=True)
                run(one, ranks)
            marks = marks_of(one)
            if marks is None:
                raise UserError(f"{one.run}: interrupted; the same command goes on")
            table[arm]["marks"][seed] = marks
            if arm != "seeds":
                table[arm]["rounds"][seed] = audited(one, Course(one.curriculum, one.seed))
    return {arm: found for arm, found in table.items() if found["marks"]}


# Figures -------------------------------------------------------------------------------------------------------------


def gain(table: Mapping[str, Mapping[str, Mapping[int, Any]]]) -> dict[str, Any]:
    """The headline: points of the verified arm over the seeds alone, and every arm by kind, way and round. Arms are
    compared within the seeds that they have in common."""
    figures: dict[str, Any] = {"headline": HEADLINE, "arms": {}}
    for arm, found in table.items():
        figures["arms"][arm] = {
            kind: {
                way: [[one[kind][way] for one in marks] for marks in found["marks"].values()]
                for way in (("direct", "plan") if kind in PLANNED else ("direct",))
            }
            for kind in KINDS
        }
        figures["arms"][arm] |= {"seeds": list(found["marks"]), "rounds": list(found["rounds"].values())}

    def over_seeds(arm: str, kind: str, needed: Sequence[str]) -> list[float]:
        """Points of an arm over the seeds alone after the last round, of each seed that all needed arms have."""
        seeds = set.intersection(*({*table[name]["marks"]} for name in needed))
        last = [[table[name]["marks"][seed][-1][kind]["direct"] for seed in sorted(seeds)] for name in (arm, "seeds")]
        return [100 * (one - other) for one, other in zip(*last)]

    for arm in table if "seeds" in table else ():
        if shared := len(over_seeds(arm, HEADLINE, [arm, "seeds"])):
            points = {kind: statistics.mean(over_seeds(arm, kind, [arm, "seeds"])) for kind in KINDS}
            figures["arms"][arm] |= {"points": points, "shared_seeds": shared}
    for kind in KINDS if {"verified", "seeds"} <= table.keys() else ():
        points = over_seeds("verified", kind, ["verified", "seeds"])
        if not points:
            continue
        figures[kind] = {
            "points": statistics.mean(points),
            "interval": list(interval(points)),
            "seeds": len(points),
            "seeds_positive": sum(each > 0 for each in points),
            "recovered_fraction": None,
            "recovered_seeds": 0,
        }
        if "interpreter" in table:
            three = ["verified", "seeds", "interpreter"]
            ours, ceiling = (over_seeds(arm, kind, three) for arm in ("verified", "interpreter"))
            figures[kind]["recovered_seeds"] = len(ours)
            figures[kind]["recovered_fraction"] = sum(ours) / sum(ceiling) if sum(ceiling) > 0 else None
    return figures | figures.get(HEADLINE, {})


# Evidence ------------------------------------------------------------------------------------------------------------


def evidence(config: RoundsConfig, written: int, searched: int, people: Path | None) -> dict[str, Any]:
    """What `train.evidence` measures, of the first seed: of its base, and of its last verified model. Kept in the run
    folder, and measured anew only where something else is asked for."""
    path = Path(config.run) / EVIDENCE
    asked = {"written": written, "searched": searched, "people": people and people.name, "weights": weights_of(config)}
    if path.exists() and (found := json.loads(path.read_text("utf-8")))["asked"] == asked:
        return found["figures"]
    figures = measured(config, written, searched, people)
    write_text(path, json.dumps({"asked": asked, "figures": figures}, ensure_ascii=False) + "\n")
    return figures


def judged_runs(config: RoundsConfig) -> tuple[Path, Path]:
    """The base of the first seed, and its last verified model."""
    one = configured(config, 0, "verified")
    return Path(one.run) / "base", arm_folder(one) / f"round{one.rounds}" / "train"


def weights_of(config: RoundsConfig) -> list[str]:
    """Hashes of the weights of the models that are judged."""
    return [read_manifest(load_run(run).folder)[WEIGHTS][1] for run in judged_runs(config)]


def measured(config: RoundsConfig, written: int, searched: int, people: Path | None) -> dict[str, Any]:
    one = configured(config, 0, "verified")
    course = Course(one.curriculum, one.seed)
    seeds = list(read_records(Path(one.run) / "seeds.jsonl"))
    base, last = map(load_run, judged_runs(config))
    figures, judged = free_writing(base, course, seeds, written, 1.0, one.seed)
    kept = [
        record
        for number in range(1, one.rounds + 1)
        for record in read_records(arm_folder(one) / f"round{number}" / "records.jsonl")
        if record.kept
    ]
    programs = {"single operations": course.splits.singles, "held-out compositions": course.splits.held_out}
    induced = {
        name: induction_table(last, course, sorted(group, key=str)[:INDUCED], searched, 8, one.seed)
        for name, group in programs.items()
    }
    if people is not None:
        induced["people"] = people_table(last, people)
    return {
        "yield": figures | {"recheck": recheck(kept)},
        "filters": filter_table(base, course, seeds, judged, one.seed),
        "induction": induced,
    }


def audited_file(path: Path) -> dict[str, Any]:
    """What the audit finds in public data; places without the folder."""
    found = audit_summary(str(path))
    faults = [{**fault, "place": fault["place"].replace(str(path), path.name)} for fault in found["faults"]]
    return {**found, "file": f"{path.parent.name}/{path.name}", "faults": faults}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train.proof", description="Measure the gain of own instructions.")
    parser.add_argument("config", help="TOML file of train.rounds, for example configs/construct.toml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="replace settings of the file")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default 5)")
    parser.add_argument("--arms", default=",".join(ARMS), help="which, with commas between (default all)")
    parser.add_argument("--finished", action="store_true", help="run no arm: report those that are finished")
    parser.add_argument("--out", default="results", help="folder of construct.json, .md, .png (default results)")
    parser.add_argument("--written", type=int, default=20_000, help="samples for yield and filters (default 20,000)")
    parser.add_argument("--searched", type=int, default=40, help="tasks of induction with search (default 40)")
    parser.add_argument("--people", type=Path, help="folder of the public instruction-induction tasks")
    parser.add_argument("--audit", type=Path, action="append", default=[], help="public data to audit; may be repeated")
    parser.add_argument("--world", type=Path, help="figures of instruct.world.check, to be shown too")
    parser.add_argument("--rouge", type=Path, help="figures of instruct.rouge_bench, to be shown too")
    arguments = parser.parse_intermixed_args(argv)
    config = load(RoundsConfig, arguments.config, arguments.overrides)
    arms = arguments.arms.split(",")
    if unknown := sorted(set(arms) - set(ARMS)):
        raise UserError(f"unknown arm {', '.join(unknown)}: arms are {', '.join(ARMS)}")
    if arguments.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {arguments.seeds}")
    named = [*arguments.audit, arguments.world, arguments.rouge, arguments.people]
    if missing := [str(path) for path in named if path and not path.exists()]:
        raise UserError(f"there is no {', no '.join(missing)}; name files that are there, before hours are spent")
    ranks = setup(config.train.device, config.train.threads)
    try:
        table = arms_table(config, arguments.seeds, arms, ranks, arguments.finished)
        if not ranks.is_main:
            return
        report: dict[str, Any] = {
            "command": f"python -m train.proof {' '.join(argv)}",
            "machine": machine(),
            "gain": gain(table),
        }
        if marks_of(configured(config, 0, "verified")) is not None:
            report |= evidence(config, arguments.written, arguments.searched, arguments.people)
        report |= {
            name: json.loads(path.read_text("utf-8"))
            for name, path in (("world", arguments.world), ("rouge", arguments.rouge))
            if path
        }
        if arguments.audit:
            report["audit"] = [audited_file(path) for path in arguments.audit]
        write(report, Path(arguments.out))
    finally:
        teardown()


def write(report: Mapping[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "construct.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    pictures = can_plot()
    if pictures:
        draw(report["gain"], out / "construct.png")
    write_text(out / "construct.md", markdown(report, pictures))
    print(f"{out / 'construct.json'}, {out / 'construct.md'}")


if __name__ == "__main__":
    run_main(main)
