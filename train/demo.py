"""The demo: from text to a model that answers, in one command.

    make demo          (or: python -m train.demo [--out runs/demo] [--configs configs/demo])

It trains a tokenizer on the documentation of your own Python, pretrains a Transformer on that text, tunes it on
instructions made from the same documentation, and asks it held-out questions. Then a second model learns the embedded
world, constructs instructions of its own, has them judged by a program and learns from those that hold. It writes
`report.md`, `report.json`, `answers.jsonl` and pictures. Nothing is downloaded. Stages that are finished are not
repeated: after an interruption the same command goes on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs import load, run_main
from configs.machine import machine
from data.corpus import builtin_documents
from data.prepare import PreparedData, describe, prepare
from instruct.documentation import baseline, construct
from instruct.questions import TASKS
from model.chat import Session
from model.count import count_parameters, training_flops
from model.generation import generate
from model.load import LoadedModel, load_run
from model.sampling import Sampling
from model.storage import newest_intact
from train.answers import Answer, accuracies, answer_all
from train.demo_construct import construction
from train.distributed import setup
from train.ngram import WittenBell, stream_documents
from train.pretrain import PretrainConfig, instruction_text, pretrain
from train.report import summary, write_report
from train.rounds import RoundsConfig
from train.run import STATE, TrainState, read_metrics
from train.sft import SftConfig, fine_tune, questions_of, read_instructions

NGRAM_ORDER = 5
CONTINUED = ("function json.dumps(obj)\n\n", "Return a list of", "The built-in exception")


def stage(title: str) -> None:
    print(f"\n=== {title}", flush=True)


def final_state(run: str) -> TrainState:
    """The state in the newest checkpoint of a run."""
    _, files = newest_intact(run, [STATE])
    return TrainState.from_json(files[STATE])


def tokenizer_facts(data: PreparedData) -> dict[str, Any]:
    train = data.manifest["splits"]["train"]
    held_out = data.manifest["splits"]["validation"]
    return {
        "vocab_size": data.tokenizer.vocab_size,
        "sha256": data.tokenizer.sha256,
        "documents": train["documents"] + held_out["documents"],
        "text_bytes": train["bytes"] + held_out["bytes"],
        "bytes_per_token": train["bytes"] / train["tokens"],
        "heldout_bytes_per_token": held_out["bytes"] / held_out["tokens"],
    }


def ngram_facts(data: PreparedData) -> float:
    """Bits per byte of the n-gram baseline: trained on the training split, measured on the held-out one."""
    train, held_out = (stream_documents(data.stream(split), data.tokenizer) for split in ("train", "validation"))
    return WittenBell(train, NGRAM_ORDER).bits_per_byte(held_out)


def run_facts(run: str) -> dict[str, Any]:
    """Steps, time and speed of a finished run, and its last evaluation."""
    state, metrics = final_state(run), read_metrics(run)
    last = [record for record in metrics if record["kind"] == "evaluation"][-1]
    rates = [record["tokens_per_second"] for record in metrics if record["kind"] == "train"]
    figures = {key: value for key, value in last.items() if key not in ("kind", "step")}
    return {
        **figures,
        "steps": state.step,
        "seconds": state.seconds,
        "tokens": state.targets_seen,
        "tokens_per_second": statistics.median(rates),
        "skipped_steps": state.skipped,
    }


def pretrain_facts(config: PretrainConfig, ngram: float) -> dict[str, Any]:
    loaded = load_run(config.run)
    model = loaded.model.config
    return {
        **run_facts(config.run),
        "ngram_order": NGRAM_ORDER,
        "ngram_bits_per_byte": ngram,
        "parameters": count_parameters(model).total,
        "training_flops_per_token": training_flops(model, model.context),
    }


def sft_facts(config: SftConfig, answers: Sequence[Answer]) -> dict[str, Any]:
    """Held-out accuracy: of all questions, of each task, and of the reading tasks, beside the best constant answers."""
    counts = accuracies(answers)
    right, asked = counts.pop("all")
    made = construct(builtin_documents(), config.seed, config.data.train_per_task, config.data.heldout_per_task)
    constants = baseline(made)
    tasks = {
        name: {
            "accuracy": hits / total,
            "asked": total,
            "constant": constants[name].accuracy if name in constants else 0.0,
            "reading": not TASKS[name].knowledge,
        }
        for name, (hits, total) in counts.items()
    }
    reading = [answer for answer in answers if not TASKS[answer.task].knowledge]
    return {
        **run_facts(config.run),
        "heldout_accuracy": right / asked,
        "heldout_asked": asked,
        "reading_accuracy": sum(answer.right for answer in reading) / max(len(reading), 1),
        "constant_accuracy": sum(t["constant"] * t["asked"] for t in tasks.values()) / asked,
        "tasks": tasks,
    }


def continuations(loaded: LoadedModel) -> list[dict[str, str]]:
    """What the pretrained model writes."""
    tokenizer, model = loaded.tokenizer, loaded.model
    prompts = [[tokenizer.bos, *tokenizer.encode(text)] for text in CONTINUED]
    written = generate(model, prompts, 60, Sampling(temperature=0.7, top_p=0.9), [tokenizer.eos])
    return [
        {"kind": "continuation", "prompt": text, "text": tokenizer.decode(ids)} for text, ids in zip(CONTINUED, written)
    ]


def dialogue(answers: Sequence[Answer], loaded: LoadedModel) -> list[dict[str, str]]:
    """Held-out questions with the model's answers, the first of each task and language; asked anew through
    `model.chat`.
    """
    chosen: dict[tuple[str, bool], Answer] = {}
    for answer in answers:
        chosen.setdefault((answer.task, answer.question.isascii()), answer)
    rows = []
    for answer in chosen.values():
        session = Session(loaded, Sampling(), new_tokens=48)
        rows.append(
            {
                "kind": "dialogue",
                "task": answer.task,
                "prompt": answer.question,
                "text": "".join(session.say(answer.question)),
                "expected": answer.expected,
            }
        )
    return rows


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m train.demo", description="From text to a model that answers.")
    parser.add_argument("--configs", default="configs/demo", help="folder with pretrain.toml, sft.toml and rounds.toml")
    parser.add_argument("--out", default="runs/demo", help="where the report goes")
    arguments = parser.parse_args(argv)
    started, out = time.perf_counter(), Path(arguments.out)
    pretrain_config = load(PretrainConfig, Path(arguments.configs) / "pretrain.toml")
    sft_config = load(SftConfig, Path(arguments.configs) / "sft.toml")
    rounds_config = load(RoundsConfig, Path(arguments.configs) / "rounds.toml")
    out.mkdir(parents=True, exist_ok=True)
    ranks = setup(pretrain_config.train.device, pretrain_config.train.threads)

    stage("1. tokenizer and token shards")
    data = prepare(
        pretrain_config.data, instruction_text() if pretrain_config.instruction_text else None, progress=True
    )
    print(describe(data))
    stage(f"2. baseline: byte {NGRAM_ORDER}-gram model")
    ngram = ngram_facts(data)
    print(f"{ngram:.3f} bits per byte on held-out documents")
    stage("3. pretraining")
    if not pretrain(pretrain_config, ranks).finished:
        return
    stage("4. instruction tuning")
    if not fine_tune(sft_config, ranks).finished:
        return
    stage("5. held-out questions")
    loaded = load_run(sft_config.run)
    _, held_out = read_instructions(sft_config.data, sft_config.seed)
    answers = answer_all(loaded.model, loaded.tokenizer, loaded.chat, questions_of(held_out), sft_config.answer_tokens)
    stage("6. constructing instructions")
    constructed = construction(rounds_config, ranks)
    if constructed is None:
        return
    report = {
        "tokenizer": tokenizer_facts(data),
        "pretrain": pretrain_facts(pretrain_config, ngram),
        "sft": sft_facts(sft_config, answers),
        "construct": constructed,
        "samples": [*continuations(load_run(pretrain_config.run)), *dialogue(answers, loaded)],
        "machine": machine(),
        "seconds_of_this_command": time.perf_counter() - started,
    }
    write_report(out, report, answers, [pretrain_config.run, sft_config.run])
    print(summary(report))
    for name in sorted(path.name for path in out.glob("report.*")):
        print(f"{out / name}")


if __name__ == "__main__":
    run_main(main)
