"""The demo's report: `report.json` for machines, `report.md` and pictures for people, `answers.jsonl` to check them
by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.answers import Answer
from train.demo_answer import answering_page
from train.demo_construct import construction_page, points
from train.plots import can_plot, draw_tasks, draw_training
from train.run import read_metrics, write_text


def write_report(out: Path, report: Mapping[str, Any], answers: Sequence[Answer], runs: Sequence[str]) -> None:
    """Write everything into `out`. `runs` are the folders of pretraining and tuning."""
    rows = [{**vars(answer), "right": answer.right} for answer in answers]
    write_text(out / "answers.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_text(out / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    pictures = can_plot()
    if pictures:
        pretraining, tuning = map(read_metrics, runs)
        baseline = (f"{report['pretrain']['ngram_order']}-gram", report["pretrain"]["ngram_bits_per_byte"])
        draw_training(pretraining, "bits_per_byte", "bits per byte", baseline, out / "pretrain.png")
        draw_training(tuning, "accuracy", "accuracy", None, out / "sft.png")
        draw_tasks(report["sft"]["tasks"], out / "tasks.png")
    else:
        print("no pictures: they need matplotlib, pip install 'zhiling[plot]'")
    write_text(out / "report.md", markdown(report, pictures))


def summary(report: Mapping[str, Any]) -> str:
    """The demo in some lines."""
    pretrain, sft = report["pretrain"], report["sft"]
    return (
        f"\npretraining: {pretrain['bits_per_byte']:.3f} bits per byte on held-out documents "
        f"(byte {pretrain['ngram_order']}-gram: {pretrain['ngram_bits_per_byte']:.3f})\n"
        f"tuning: {sft['heldout_accuracy']:.1%} of {sft['heldout_asked']} held-out questions answered exactly, "
        f"{sft['reading_accuracy']:.1%} of those that can be read off the prompt "
        f"(best constant answers: {sft['constant_accuracy']:.1%})\n"
        f"construction: {points(report['construct']):+.1f} points on compositions that the seeds do not hold, by "
        f"{sum(report['construct']['funnel']['kept'].values()):,} instructions of its own\n"
        f"{_answers(report['construct'].get('answering'))}"
        f"this command took {report['seconds_of_this_command']:.0f} s"
    )


def _answers(facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return ""
    said = [f"{turn['question']} {turn['sentence'] or turn['answer'] or '-'}" for turn in facts["dialogue"]]
    line = " ".join("; ".join(said).split())
    return f"answering: {line} ({facts['construct']:.1%} of {facts['asked']:,} such questions right)\n"


def markdown(report: Mapping[str, Any], pictures: bool) -> str:
    """The report as a page."""
    tokenizer, pretrain, sft = report["tokenizer"], report["pretrain"], report["sft"]
    lines = [
        "# From text to a model that answers",
        "",
        summary(report).strip().replace("\n", "  \n"),
        "",
        "## Tokenizer",
        "",
        f"{tokenizer['vocab_size']:,} pieces, trained on {tokenizer['documents']:,} documents "
        f"({tokenizer['text_bytes'] / 1e6:.2f} MB): the documentation of this Python. One token stands for "
        f"{tokenizer['heldout_bytes_per_token']:.2f} bytes of held-out text.",
        "",
        "## Pretraining",
        "",
        f"{pretrain['parameters']:,} parameters, {pretrain['steps']:,} steps, {pretrain['tokens']:,} tokens in "
        f"{pretrain['seconds']:.0f} s ({pretrain['tokens_per_second']:,.0f} tokens/s, median of the logged steps).",
        "",
        "| held-out documents | bits per byte |",
        "|---|---|",
        f"| this model | **{pretrain['bits_per_byte']:.3f}** |",
        f"| byte {pretrain['ngram_order']}-gram, Witten-Bell | {pretrain['ngram_bits_per_byte']:.3f} |",
        "",
        *(["![pretraining](pretrain.png)", ""] if pictures else []),
        "## Instruction tuning",
        "",
        f"{sft['steps']:,} steps, {sft['tokens']:,} supervised tokens in {sft['seconds']:.0f} s. Questions about "
        "entries that no training instruction mentions; right means equal to the expected answer. *Reading* tasks have "
        "all that is needed in the prompt; *knowledge* tasks must be recalled from pretraining, which a model of this "
        "size mostly cannot.",
        "",
        "| task | kind | asked | right | best constant answer |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {'reading' if task['reading'] else 'knowledge'} | {task['asked']} | {task['accuracy']:.1%} "
            f"| {task['constant']:.1%} |"
            for name, task in sft["tasks"].items()
        ),
        f"| all | | {sft['heldout_asked']} | **{sft['heldout_accuracy']:.1%}** | {sft['constant_accuracy']:.1%} |",
        "",
        *(["![tasks](tasks.png)", "", "![tuning](sft.png)", ""] if pictures else []),
        "Every answer is in `answers.jsonl`.",
        "",
        "## What it writes",
        "",
    ]
    for sample in report["samples"]:
        if sample["kind"] == "continuation":
            lines += ["Pretrained model, continuing:", "", *_quoted(sample["prompt"] + "▸" + sample["text"]), ""]
    lines += ["## Held-out dialogue", ""]
    for sample in report["samples"]:
        if sample["kind"] == "dialogue":
            right = sample["text"].split() == sample["expected"].split()
            lines += [f"**{sample['task']}**", "", *_quoted(sample["prompt"]), "", *_quoted(f"→ {sample['text']}")]
            lines += ["", "right" if right else f"wrong, expected: `{sample['expected']}`", ""]
    lines += construction_page(report["construct"])
    lines += ["## Machine", "", *(f"- {key}: {value}" for key, value in report["machine"].items()), ""]
    if "answering" in report["construct"]:
        lines += answering_page(report["construct"]["answering"])
    return "\n".join(lines)


def _quoted(text: str) -> list[str]:
    """Text as a Markdown code block, whatever it holds."""
    return ["~~~~text", *text.replace("~~~~", "~ ~ ~").splitlines(), "~~~~"]
