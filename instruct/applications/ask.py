"""Question answering over a folder of documents: find the paragraph, answer from it, say where it stands.

    python -m instruct.applications.ask RUN FOLDER "What is the capital of France?" [--embedder RUN] [--json]

Text files (.txt, .md) are cut into paragraphs at blank lines. For each question one paragraph is found, by BM25
(Robertson and Zaragoza 2009) over words and pairs of Chinese characters, or by an embedder; the model then answers with
the paragraph as its input. So what a document says is data: it can be quoted wrongly, but it cannot give instructions.

Refused is a question for which nothing is found. By BM25 a paragraph counts where it holds enough of the question: the
share of its terms, each weighted by how rare it is. By an embedder the cosine has to be high enough.

What it leaves out. Answers that need several paragraphs, formats other than plain text, and a check that the answer
follows from the paragraph.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from configs import UserError, run_main
from instruct.answer import Asked
from instruct.embed import Encoder
from instruct.execute import DEFAULT, add_arguments, execute_all, settings_of
from instruct.retrieval import BM25
from instruct.strategies import Embedder, Known, Settings, asking
from model.load import LoadedModel, load_run

SUFFIXES = (".txt", ".md")
LONGEST = 400  # characters of a paragraph; longer ones are cut at ends of sentences
LEAST = 0.4
_TERM = re.compile(r"[^\W_\u4e00-\u9fff]+|[\u4e00-\u9fff]+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


@dataclass(frozen=True)
class Paragraph:
    """A text with its place: the file, and which paragraph of it, counted from 1."""

    text: str
    source: str
    number: int


@dataclass(frozen=True)
class Answer:
    """What is answered from which paragraph (None: nothing was found). `score`: how well it fits, from 0 to 1."""

    question: str
    answer: str
    paragraph: Paragraph | None
    score: float
    confidence: float | None
    refusal: str


def read_folder(folder: str | Path, longest: int = LONGEST) -> list[Paragraph]:
    """All paragraphs of the text files in a folder and in those under it, files in the order of their names.

    Raises UserError where there is none, and for a file that is not UTF-8.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{folder} is no folder; give one with {' or '.join(SUFFIXES)} files")
    found = []
    for path in sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        try:
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8 text; convert it, or take it out of the folder") from None
        source = path.relative_to(root).as_posix()
        for number, block in enumerate(filter(str.strip, re.split(r"\n\s*\n", text)), 1):
            found += [Paragraph(part, source, number) for part in _parts(" ".join(block.split()), longest)]
    if not found:
        raise UserError(f"there is no text in {folder}; it needs {' or '.join(SUFFIXES)} files")
    return found


def _parts(text: str, longest: int) -> list[str]:
    """Whole sentences, as many as fit into `longest` characters; a longer sentence is cut."""
    parts = [""]
    for sentence in _SENTENCE.split(text):
        space = "" if not parts[-1] or parts[-1][-1] in "。！？" else " "
        joined = parts[-1] + space + sentence
        if len(joined) <= longest:
            parts[-1] = joined
        else:
            parts += [sentence[i : i + longest] for i in range(0, len(sentence), longest)]
    return [part.strip() for part in parts if part.strip()]


# Finding -------------------------------------------------------------------------------------------------------------


class Finder(Protocol):
    def find(self, questions: Sequence[str]) -> list[tuple[int, float]]:
        """The number of the best paragraph for each question, and how well it fits, at most 1."""


def terms(text: str) -> list[str]:
    """Words in lower case; of Chinese, which has no spaces, pairs of characters (single ones that stand alone)."""
    found = []
    for run in _TERM.findall(text.lower()):
        pairs = [run[i : i + 2] for i in range(len(run) - 1)] if run[0] >= "\u4e00" and len(run) > 1 else [run]
        found += pairs
    return found


class ByWords:
    """The paragraph that BM25 ranks first; how well it fits is the share of the question that it holds."""

    def __init__(self, texts: Sequence[str]):
        self.index = BM25(texts, terms)

    def find(self, questions: Sequence[str]) -> list[tuple[int, float]]:
        best = [int(self.index.scores(question).argmax()) for question in questions]
        return [(i, self.index.coverage(question, i)) for question, i in zip(questions, best)]


class ByEmbedding:
    """The paragraph whose vector is nearest."""

    def __init__(self, embedder: Embedder, texts: Sequence[str]):
        self.known = Known(embedder, texts)

    def find(self, questions: Sequence[str]) -> list[tuple[int, float]]:
        return self.known.nearest(questions)


# Answering -----------------------------------------------------------------------------------------------------------


def answer_all(
    loaded: LoadedModel,
    paragraphs: Sequence[Paragraph],
    finder: Finder,
    questions: Sequence[str],
    least: float = LEAST,
    settings: Settings = DEFAULT,
) -> list[Answer]:
    """Each question from the best paragraph that `finder` finds among `paragraphs`, or why not."""
    found = finder.find(questions)
    asked = [
        Asked(question, paragraphs[i].text, asking(question).language) for question, (i, _) in zip(questions, found)
    ]
    enough = [i for i, (_, score) in enumerate(found) if score >= least]
    done = dict(zip(enough, execute_all(loaded, [asked[i] for i in enough], "direct", settings)))
    answers = []
    for i, (question, (place, score)) in enumerate(zip(questions, found)):
        if i not in done:
            answers.append(Answer(question, "", None, score, None, "no document says anything about it"))
            continue
        sure = done[i].steps[-1].confidence if done[i].steps else None
        answers.append(Answer(question, done[i].answer, paragraphs[place], score, sure, done[i].refusal))
    return answers


def show(answer: Answer, trace: bool = False) -> str:
    place = f"{answer.paragraph.source}, paragraph {answer.paragraph.number}" if answer.paragraph else "nowhere"
    said = f"refused: {answer.refusal}" if answer.refusal else f"{answer.answer}\n   from {place}"
    more = f"\n   {answer.score:.2f}: {answer.paragraph.text}" if trace and answer.paragraph else ""
    return said + more


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m instruct.applications.ask",
        description="Answer questions from a folder of documents, with the place of the answer.",
        epilog="exit status: 0 all answered, 1 at least one refused, 2 wrong use",
    )
    parser.add_argument("run", help="run folder or checkpoint folder of the model that answers")
    parser.add_argument("folder", help="documents: .txt and .md files")
    parser.add_argument("question", help='"-": one a line from the standard input')
    parser.add_argument("--embedder", metavar="RUN", help="find paragraphs by this embedder; by BM25 without it")
    parser.add_argument("--least", type=float, default=LEAST, help=f"how well a paragraph has to fit, 0 to 1 ({LEAST})")
    parser.add_argument("--longest", type=int, default=LONGEST, help=f"characters of a paragraph ({LONGEST})")
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.longest < 1:
        raise UserError(f"--longest must be positive, got {arguments.longest}")
    lines = sys.stdin.read().splitlines() if arguments.question == "-" else [arguments.question]
    questions = [line.strip() for line in lines if line.strip()]
    if not questions:
        raise UserError("there is no question; write one, or one a line on the standard input")
    paragraphs = read_folder(arguments.folder, arguments.longest)
    texts = [paragraph.text for paragraph in paragraphs]
    finder = ByEmbedding(Encoder.load(arguments.embedder), texts) if arguments.embedder else ByWords(texts)
    loaded = load_run(arguments.run, arguments.device)
    answers = answer_all(loaded, paragraphs, finder, questions, arguments.least, settings_of(arguments))
    for each in answers:
        print(json.dumps(asdict(each), ensure_ascii=False) if arguments.json else show(each, arguments.trace))
    return 1 if any(each.refusal for each in answers) else 0


if __name__ == "__main__":
    run_main(main)
