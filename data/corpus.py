"""Corpora: a stream of documents from files, folders, or the documentation inside your own Python installation.

What it is. A document is one text and the place that it came from. Everything that learns from text (tokenizer, token
shards, instructions made from documentation) reads documents, and nothing else:

    for document in documents(CorpusConfig(paths=("notes/", "stories.jsonl.gz"))):
        print(document.origin, len(document.text))

- a text file (.txt .md .rst .py ..., or the same with .gz) is one document;
- a JSONL file (.jsonl, .jsonl.gz) is one document a line: the string under `text_field`;
- a folder is all such files in it, however deep, in sorted order; other files and hidden ones are passed over;
- no path at all is the **built-in corpus**: the docstrings of the running interpreter's standard library and the
  topics of its language reference. Megabytes of real English that every user already has, so that the first
  experiment needs no download; nothing of it is copied into this repository.

Why so. The order is sorted, so two runs see the same stream. Memory is bounded by one document: files are read one at
a time and JSONL line by line. Bad input is never dropped: it is an error that names the file and the line, because a
corpus that lost a third of its lines trains without complaint. (Texts of nothing but white space are passed over.)
The library is read with `ast`, as text: no module is imported, so nothing in it can run.

Run it:  python -m data.corpus [PATHS...]     counts documents and bytes, and shows one

What it leaves out. Parquet, zip and zstandard (see `data.download` for conversions), language detection, quality
filters, near-duplicates.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import importlib
import itertools
import json
import os
import sysconfig
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from configs import UserError, check, run_main

TEXT_SUFFIXES = frozenset(
    (".txt", ".text", ".md", ".rst", ".tex", ".py", ".c", ".h", ".cpp", ".js", ".ts", ".java", ".go", ".rs", ".sh")
)
MAX_DOCUMENT_BYTES = 256 << 20  # what "memory is bounded by one document" means for a file that is one document
TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
SKIPPED_FOLDERS = TEST_FOLDERS | {"site-packages", "dist-packages", "pydoc_data", "__pycache__"}


@dataclass(frozen=True)
class Document:
    """One text and where it came from, such as `notes/a.md`, `stories.jsonl:12` or `stdlib/json:dumps`."""

    text: str
    origin: str


@dataclass(frozen=True)
class CorpusConfig:
    """Which text to read: files and folders in this order, or the built-in corpus when there are none."""

    paths: tuple[str, ...] = ()
    text_field: str = "text"

    def __post_init__(self):
        check([] if self.text_field else ["text_field must name the key that holds the text of a JSONL line"])


def documents(config: CorpusConfig | None = None) -> Iterator[Document]:
    """Stream the documents of a corpus; call again to read it again, in the same order.

    Missing paths and unknown kinds of file raise `UserError` here, at once; what is wrong inside a file (bytes that
    are not UTF-8, a broken line of JSONL, a damaged .gz) raises it when the reader comes there, as does a corpus that
    turns out to hold no text.
    """
    config = config or CorpusConfig()
    if not config.paths:
        return (Document(render(entry), f"stdlib/{entry.module}:{entry.name}") for entry in builtin_documents())
    return _file_documents(corpus_files(config.paths), config)


# Files ---------------------------------------------------------------------------------------------------------------


def corpus_files(paths: tuple[str, ...]) -> list[Path]:
    """The files that `paths` stand for, in reading order. Raises `UserError` for one that is missing or unreadable."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(_walk(path))
            if not inside:
                raise UserError(f"the folder {path} holds no text to read; the corpus reads {_readable()}")
            files += inside
        elif not path.exists():
            raise UserError(f"there is no file or folder {path}; check the path of the corpus")
        elif _kind(path) is None:
            raise UserError(f"{path} is of a kind that cannot be read; the corpus reads {_readable()}")
        else:
            files.append(path)
    return files


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith(".") and _kind(Path(name)))


def _raise(error: OSError) -> None:
    raise error  # os.walk would pass over a folder that may not be read


def _kind(path: Path) -> Literal["jsonl", "text"] | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = (suffixes[:-1] if suffixes[-1:] == [".gz"] else suffixes)[-1:]
    if suffix == [".jsonl"]:
        return "jsonl"
    return "text" if suffix and suffix[0] in TEXT_SUFFIXES else None


def _readable() -> str:
    return f"folders, .jsonl and {' '.join(sorted(TEXT_SUFFIXES))}, each also with .gz"


def _file_documents(files: list[Path], config: CorpusConfig) -> Iterator[Document]:
    found = False
    for path in files:
        read = _jsonl_documents if _kind(path) == "jsonl" else _text_document
        try:
            with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
                for document in read(path, file, config):
                    if document.text and not document.text.isspace():
                        found = True
                        yield document
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise UserError(f"{path} is damaged ({error}); make or download it again") from None
    if not found:
        raise UserError(f"the corpus is empty: no text in {', '.join(config.paths)}; give files that hold some")


def _text_document(path: Path, file: BinaryIO, config: CorpusConfig) -> Iterator[Document]:
    yield Document(_decode(_read_limited(path, file.read), f"{path}"), f"{path}")


def _jsonl_documents(path: Path, file: BinaryIO, config: CorpusConfig) -> Iterator[Document]:
    for number in itertools.count(1):
        line = _read_limited(path, file.readline)
        if not line:
            return
        if not line.isspace():
            place = f"{path}, line {number}"
            yield Document(_text_of_line(_decode(line, place), place, config.text_field), f"{path}:{number}")


def _read_limited(path: Path, read) -> bytes:
    data = read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise UserError(
            f"{path} holds a document of more than {MAX_DOCUMENT_BYTES >> 20} MiB; cut it into several files, or make "
            "it JSONL with one document a line"
        )
    return data


def _decode(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8-sig")  # a byte order mark is not text
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _text_of_line(line: str, place: str, field: str) -> str:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{place} is not valid JSON ({error}); correct or delete that line") from None
    if not isinstance(record, dict):
        raise UserError(f"{place} is not a JSON object; each line must look like {{{json.dumps(field)}: ...}}")
    text = record.get(field)
    if not isinstance(text, str):
        has = ", ".join(map(repr, record)) or "nothing"
        raise UserError(f"{place} has no string under {field!r}; it has {has}: name the right key with text_field")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place} holds half of a surrogate pair (character {error.start} of {field!r}), which is no text; "
            "correct or delete that line"
        ) from None
    return text


# The built-in corpus -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One documented thing of the standard library, or one topic of the language reference.

    `name` is qualified within the module (`JSONDecoder.decode`), and "" for the module itself; a topic's module is
    `topics`. `signature` is what stands in the source, such as `(self, s, _w=...)`, and "" where there is none.
    """

    module: str
    name: str
    kind: Literal["module", "class", "function", "method", "topic"]
    signature: str
    text: str

    @property
    def qualified_name(self) -> str:
        """The full dotted name, `json.decoder.JSONDecoder.decode`; of a topic, its name."""
        return self.name if self.kind == "topic" else ".".join(filter(None, (self.module, self.name)))


def render(entry: Entry) -> str:
    """An entry as one document: a heading of kind, full name and signature, an empty line, the text."""
    return f"{entry.kind} {entry.qualified_name}{entry.signature}\n\n{entry.text}\n"


def builtin_documents() -> Iterator[Entry]:
    """The documentation of the running interpreter: modules in sorted order, then the topics. Equal texts come once.

    Raises `UserError` when this installation carries none (some distributions strip it).
    """
    seen: set[str] = set()
    for entry in itertools.chain(_library(), _topics()):
        if entry.text not in seen:
            seen.add(entry.text)
            yield entry


def _library() -> Iterator[Entry]:
    root = Path(sysconfig.get_path("stdlib"))
    found = False
    for path in sorted(_module_files(root)):
        source = path.read_bytes()
        if b'"""' not in source and b"'''" not in source:
            continue  # reading is cheap, parsing is not
        parts = path.relative_to(root).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for entry in _entries_of(source, module):
            found = True
            yield entry
    if not found:
        raise UserError(f"this Python has no documentation in {root}; install its standard library, or give text files")


def _module_files(root: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        yield from (Path(parent, name) for name in names if name.endswith(".py"))


def _entries_of(source: bytes, module: str) -> Iterator[Entry]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        try:
            tree = ast.parse(source)
        except SyntaxError:
            return  # a template or a file for another version: no module of this interpreter
    text = ast.get_docstring(tree)
    if text:
        yield Entry(module, "", "module", "", text)
    yield from _entries_in(tree, module, "", "function")


def _entries_in(node: ast.AST, module: str, prefix: str, kind: Literal["function", "method"]) -> Iterator[Entry]:
    """Documented classes, functions and methods below `node`, through `if` and `try`, but not inside functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            if text := ast.get_docstring(child):
                yield Entry(module, prefix + child.name, "class", "", text)
            yield from _entries_in(child, module, f"{prefix}{child.name}.", "method")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(child):
                yield Entry(module, prefix + child.name, kind, f"({ast.unparse(child.args)})", text)
        elif isinstance(child, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            yield from _entries_in(child, module, prefix, kind)


def _topics() -> Iterator[Entry]:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise UserError("this Python lacks pydoc_data (its reference); install it, or give text files") from None
    for name in sorted(topics):
        yield Entry("topics", name, "topic", "", topics[name].strip())


# Command -------------------------------------------------------------------------------------------------------------


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.corpus", description="Count the documents of a corpus.")
    parser.add_argument("paths", nargs="*", help="files and folders; none: the documentation of this Python")
    parser.add_argument("--text-field", default="text", help="key of the text in JSONL lines (default: text)")
    arguments = parser.parse_args(argv)
    count = characters = size = 0
    example = None
    for document in documents(CorpusConfig(tuple(arguments.paths), arguments.text_field)):
        count += 1
        characters += len(document.text)
        size += len(document.text.encode())
        if example is None or len(document.text) <= 600 < 2 * len(document.text):
            example = document
    print(f"{count:,} documents, {characters:,} characters, {size:,} bytes\n\n{example.origin}\n\n{example.text}")


if __name__ == "__main__":
    run_main(main)
