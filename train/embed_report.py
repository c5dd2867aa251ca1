"""How good an instruction embedding is: a table beside word overlap and an untrained model, and a picture.

    python -m train.embed_report runs/embed --out results [--count 10000] [--queries 2000]

Writes `embed.json` ({"embedding": {"recall_at_1", "mrr", "auc", ...}, "bm25": ..., "rouge_l": ..., "untrained": ...}),
`embed.md` and, with matplotlib, `embed.png`: two principal components, families coloured.

What is searched. `count` texts of the run's world, in both languages, of behaviours that were taught and of behaviours
that were not (pairs of operations that were held out, and chains of three). None of the texts was trained on; their
words were.

What is asked, each overall, within a language and from one language to the other, and for taught and new behaviours:
- *wordings*: other held-out texts, of the same words; a hit is a text of the same behaviour. The headline.
- *words*: texts that have a phrase which no training text has, where a model from nothing must guess from the rest.

What else is measured: `auc`, whether a text of the same behaviour scores higher than one of another; `agreement`, the
rank correlation of cosine and behaviour over pairs of programs of one type (the share of the probe inputs, on which
one of them has an output, with equal outputs); `v_measure`, of k-means clusters with the families of single
operations, k of them. Word overlap has no vectors: there a text is its scores with all others.

What it leaves out: texts that people wrote, which the grammar does not say.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from configs import UserError, load, run_main
from configs.machine import machine
from data.files import whole_file
from instruct.curriculum import Course
from instruct.embed import Encoder
from instruct.paraphrases import Collection, Phrased, behaviours, collection
from instruct.retrieval import BM25, auc, k_means, project, relevant_ranks, retrieval_figures, spearman, v_measure
from instruct.rouge import Pool
from instruct.world.program import Program
from model.embedder import Embedder, embed, text_ids
from train.embed import EmbedConfig, course_of
from train.plots import can_plot, figure_of

LIKE = Callable[[Sequence[str], Sequence[str]], np.ndarray]  # (Q texts, N texts) -> (Q, N) scores
LANGUAGE_PAIRS = {"en": ("en", "en"), "zh": ("zh", "zh"), "en_to_zh": ("en", "zh"), "zh_to_en": ("zh", "en")}
CLUSTERED = 1500  # texts that are clustered and drawn, at most
PAIRS = 2000  # of programs, whose agreement is compared with the cosine
OTHERS = 200  # texts of other behaviours for each query of the AUC
TITLES = {
    "embedding": "this model",
    "bm25": "BM25",
    "rouge_l": "ROUGE-L",
    "untrained": "untrained, mean",
}


@dataclass(frozen=True)
class Exam:
    """What is asked of every method."""

    wordings: Collection
    words: Collection
    known: frozenset[str]  # behaviours that were taught
    pairs: list[tuple[str, str, float]]  # two texts, and how much their programs agree
    singles: list[Phrased]
    families: list[str]  # of the singles


# The exam ------------------------------------------------------------------------------------------------------------


def make_exam(course: Course, count: int, queries: int, seed: int = 0) -> Exam:
    """A collection of `count` texts, and what belongs to it, the same for the same seed."""
    programs = behaviours(course)
    everything = {**programs.known, **programs.new}
    wordings = collection(course, everything, count, queries, seed)
    words = collection(course, everything, count, queries, seed, held_out=True)
    singles = [each for each in wordings.pool if len(each.program) == 1][:CLUSTERED]
    families = [course.world.by_name[each.program.steps[0].name].family for each in singles]
    known = frozenset(programs.known.values())
    return Exam(wordings, words, known, agreeing_pairs(course, wordings.pool, PAIRS, seed), singles, families)


def agreement(course: Course, one: Program, other: Program) -> float | None:
    """The share of probes with an output of one of them, at least, on which both give the same; None without any."""
    pairs = list(zip(course.behaviour.outputs(one), course.behaviour.outputs(other)))
    defined = [pair for pair in pairs if pair != (None, None)]
    return sum(a == b for a, b in defined) / len(defined) if defined else None


def agreeing_pairs(course: Course, texts: Sequence[Phrased], count: int, seed: int) -> list[tuple[str, str, float]]:
    """Pairs of texts in one language whose different programs take and give the same types, with their agreement."""
    groups: dict[tuple, list[Phrased]] = {}
    for each in texts:
        groups.setdefault((*course.world.signature(each.program), each.language), []).append(each)
    usable = [group for group in groups.values() if len({each.program for each in group}) > 1]
    rng, found = Random(f"agreement {seed}"), []
    for _ in range(4 * count if usable else 0):
        if len(found) == count:
            break
        one, other = rng.sample(rng.choices(usable, [len(group) for group in usable])[0], 2)
        share = agreement(course, one.program, other.program)
        if one.program != other.program and share is not None:
            found.append((one.text, other.text, share))
    return found


# Methods: scores (Q, N) of texts with texts --------------------------------------------------------------------------


def by_bm25(queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    index = BM25(texts)
    return np.stack([index.scores(query) for query in queries]).astype(np.float32)


def by_rouge(queries: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    pool = Pool(texts)
    return np.stack([pool.scores(query) for query in queries]).astype(np.float32)


def by_vectors(encode: Callable[[Sequence[str]], np.ndarray], queries: Sequence[str], texts: Sequence[str]):
    return encode(queries) @ encode(texts).T


class Remembered:
    """An encoder that makes each vector once."""

    def __init__(self, encode: Callable[[Sequence[str]], np.ndarray]):
        self.encode, self.known = encode, {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            self.known.update(zip(new, self.encode(new)))
        return np.stack([self.known[text] for text in texts])


def untrained(encoder: Encoder, seed: int = 0) -> Callable[[Sequence[str]], np.ndarray]:
    """The mean of an architecture like that of the encoder before it learnt anything, with its tokenizer."""
    torch.manual_seed(seed)
    model, tokenizer = Embedder(encoder.loaded.model.config), encoder.loaded.tokenizer
    return lambda texts: embed(model, text_ids(texts, tokenizer, model.config.context), tokenizer.pad).numpy()


# Measuring -----------------------------------------------------------------------------------------------------------


def measure(exam: Exam, like: LIKE, vectors: Callable[[Sequence[str]], np.ndarray] | None) -> dict[str, Any]:
    """All figures of one method."""
    scores, relevant = scored(exam.wordings, like)
    found: dict[str, Any] = ranked(exam.wordings, exam.known, scores, relevant)
    found["auc"] = separation(scores, relevant)
    found["words"] = ranked(exam.words, exam.known, *scored(exam.words, like))
    ones, others, shares = zip(*exam.pairs) if exam.pairs else ((), (), ())
    found["agreement"] = spearman(np.diag(like(ones, others)), np.array(shares)) if exam.pairs else 0.0
    texts = [each.text for each in exam.singles]
    points = vectors(texts) if vectors else like(texts, texts)
    points = points / np.linalg.norm(points, axis=1, keepdims=True).clip(min=1e-9)
    found["v_measure"] = v_measure(exam.families, k_means(points, len(set(exam.families))).tolist())
    return found


def scored(found: Collection, like: LIKE) -> tuple[np.ndarray, np.ndarray]:
    """Scores (Q, N), and which texts of the pool are relevant (Q, N) bool."""
    names = np.array([each.behaviour for each in found.pool])
    relevant = np.array([each.behaviour for each in found.queries])[:, None] == names
    return like([each.text for each in found.queries], [each.text for each in found.pool]), relevant


def ranked(found: Collection, known: frozenset[str], scores: np.ndarray, relevant: np.ndarray) -> dict[str, Any]:
    """Retrieval figures: overall, for pairs of languages, for behaviours that were taught and that were not."""
    asked = np.array([each.language for each in found.queries])
    there = np.array([each.language for each in found.pool])
    taught = np.array([each.behaviour in known for each in found.queries])

    def figures(rows: np.ndarray, columns: np.ndarray) -> dict[str, float]:
        chosen = np.flatnonzero(rows)
        return retrieval_figures([relevant_ranks(scores[i, columns], relevant[i, columns]) for i in chosen])

    everywhere = np.ones(len(there), bool)
    whole: dict[str, Any] = figures(np.ones(len(asked), bool), everywhere)
    for name, (source, target) in LANGUAGE_PAIRS.items():
        whole[name] = figures(asked == source, there == target)
    whole["taught"], whole["new"] = figures(taught, everywhere), figures(~taught, everywhere)
    return whole


def separation(scores: np.ndarray, relevant: np.ndarray, seed: int = 0) -> float:
    """AUC over all pairs of a query and a relevant text, and `OTHERS` others of each query."""
    rng, others = np.random.default_rng(seed), []
    for row, right in zip(scores, relevant):
        wrong = np.flatnonzero(~right)
        others.append(row[rng.permutation(wrong)[:OTHERS]])
    return auc(scores[relevant], np.concatenate(others))


# The report ----------------------------------------------------------------------------------------------------------


def report(run: str, count: int, queries: int) -> tuple[dict[str, Any], Exam, Remembered]:
    """The figures of a run and its rivals; the exam and the vectors, for a picture."""
    path = Path(run) / "config.toml"
    if not path.is_file():
        raise UserError(f"there is no {path}; give the run folder of an embedder (python -m train.embed)")
    config = load(EmbedConfig, path)
    encoder = Encoder.load(run)
    course = course_of(config.data, config.seed)
    exam = make_exam(course, count, queries)
    vectors, before = Remembered(encoder.encode), Remembered(untrained(encoder))
    parameters = sum(each.numel() for each in encoder.loaded.model.parameters())
    found: dict[str, Any] = {
        "run": run,
        "parameters": parameters,
        "world": course.splits.digest,
        "texts": len(exam.wordings.pool),
        "embedding": measure(exam, partial(by_vectors, vectors), vectors),
        "bm25": measure(exam, by_bm25, None),
        "rouge_l": measure(exam, by_rouge, None),
        "untrained": measure(exam, partial(by_vectors, before), before),
    }
    sizes = sorted({*config.loss.sizes, encoder.size})
    found["sizes"] = {str(size): at_size(exam, encoder, size) for size in sizes}
    return found, exam, vectors


def at_size(exam: Exam, encoder: Encoder, size: int) -> dict[str, float]:
    """The headline of the first `size` dimensions."""
    scores, relevant = scored(exam.wordings, partial(by_vectors, partial(encoder.encode, size=size)))
    found = retrieval_figures([relevant_ranks(*row) for row in zip(scores, relevant)])
    return {"recall_at_1": found["recall_at_1"], "mrr": found["mrr"]}


def as_markdown(found: dict[str, Any]) -> str:
    """The same as tables."""
    methods = [name for name in TITLES if name in found]
    head = ["", *(TITLES[name] for name in methods)]
    lines = [
        "# Instruction embeddings",
        "",
        f"`{found['command']}`; " + ", ".join(f"{key} {value}" for key, value in found["machine"].items()),
        "",
        f"{found['parameters']:,} parameters, {found['texts']:,} texts to search in, world {found['world']}.",
        "",
        *_row(head),
        "|" + "---|" * len(head),
    ]
    figures = ("recall_at_1", "recall_at_5", "mrr", "ndcg_at_10", "auc", "agreement", "v_measure")
    for name in figures:
        lines += _row([name.replace("_", " "), *(f"{found[method][name]:.3f}" for method in methods)])
    parts = {"en": "English", "zh": "Chinese", "en_to_zh": "English to Chinese", "zh_to_en": "Chinese to English"}
    parts |= {"taught": "taught behaviours", "new": "new behaviours"}
    for prefix, title, table in (
        ("", "wordings", lambda method: found[method]),
        ("unseen words: ", "words", lambda method: found[method]["words"]),
    ):
        if title == "words":
            lines += _row([f"{prefix}recall at 1", *(f"{table(each)['recall_at_1']:.3f}" for each in methods)])
        for part, name in parts.items():
            values = [f"{table(each)[part]['recall_at_1']:.3f}" for each in methods]
            lines += _row([f"{prefix}recall at 1, {name}", *values])
    lines += ["", *_row(["dimensions", "recall at 1", "mrr"]), "|---|---|---|"]
    for size, each in found["sizes"].items():
        lines += _row([size, f"{each['recall_at_1']:.3f}", f"{each['mrr']:.3f}"])
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def draw(exam: Exam, vectors: Callable[[Sequence[str]], np.ndarray], path: Path) -> None:
    """Single operations in two dimensions, a colour for each family; dots are English, crosses Chinese."""
    figure = figure_of(8, 6.5)
    axes = figure.subplots()
    points = project(vectors([each.text for each in exam.singles]))
    names = sorted(set(exam.families))
    from matplotlib import colormaps

    for number, name in enumerate(names):
        colour = colormaps["tab20"](number % 20)
        for language, marker in (("en", "o"), ("zh", "x")):
            pairs = zip(exam.singles, exam.families)
            chosen = [i for i, (each, family) in enumerate(pairs) if family == name and each.language == language]
            label = name if language == "en" else None
            axes.scatter(*points[chosen].T, color=colour, marker=marker, s=16, linewidths=0.8, label=label)
    axes.set(title="Instructions by family (dots English, crosses Chinese)", xticks=[], yticks=[])
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=130)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m train.embed_report", description="Measure an embedder beside word overlap."
    )
    parser.add_argument("run", help="run folder of an embedder that was trained on the world")
    parser.add_argument("--out", default="results", help="folder for embed.json, embed.md and embed.png (results)")
    parser.add_argument("--count", type=int, default=10_000, help="texts to search in (10000)")
    parser.add_argument("--queries", type=int, default=2000, help="texts to search for, at most (2000)")
    arguments = parser.parse_args(argv)
    for name in ("count", "queries"):
        if getattr(arguments, name) < 2:
            raise UserError(f"--{name} must be at least 2, got {getattr(arguments, name)}")
    found, exam, vectors = report(arguments.run, arguments.count, arguments.queries)
    found = {"command": f"python -m train.embed_report {' '.join(argv)}", "machine": machine(), **found}
    out, text = Path(arguments.out), as_markdown(found)
    for name, content in (("embed.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n"), ("embed.md", text)):
        with whole_file(out / name) as file:
            file.write(content.encode())
    if can_plot():
        draw(exam, vectors, out / "embed.png")
    print(text, end="")


if __name__ == "__main__":
    run_main(main)
