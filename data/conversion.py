"""From the formats that public corpora come in to JSONL with one document a line, which `data.corpus` reads.

What it is. One generator of texts for each format: files of stories with a separator, WikiText's zip of one long text,
the XML dump of a Wikipedia, parquet. All of them stream: memory is bounded by one document.

Why so. A corpus in one long file has no documents, and then nothing can be split, shuffled or held out fairly.

Run it:  python -m data.download get NAME

What it leaves out. Wikipedia's markup is a programming language; `plain_text` keeps prose and headings and drops
templates, tables, references, pictures and formulas. Parquet needs pyarrow, which is not one of our dependencies.
"""

from __future__ import annotations

import bz2
import gzip
import html
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from configs import UserError
from data.files import whole_file

READ_CHARACTERS = 1 << 20


def write_jsonl(texts: Iterable[str], path: Path) -> int:
    """Write `{"text": ...}` lines, gzipped; the file appears whole or not at all. Returns how many there are."""
    count = 0
    with whole_file(path) as raw, gzip.GzipFile("", "wb", compresslevel=3, fileobj=raw, mtime=0) as file:
        for text in texts:
            if text.strip():
                file.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
                count += 1
        if not count:
            raise UserError(f"no document was found for {path.name}; is the downloaded file the right one?")
    return count


def read(path: Path, kind: str) -> Iterator[str]:
    """The documents of a downloaded file of a kind in `READERS`. Raises `UserError` when it is damaged."""
    try:
        yield from READERS[kind](path)
    except UserError:
        raise
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and download it again") from None


def read_separated(path: Path, separator: str = "<|endoftext|>") -> Iterator[str]:
    """A text file whose documents are divided by a separator."""
    rest = ""
    with path.open(encoding="utf-8", newline="") as file:
        while block := file.read(READ_CHARACTERS):
            *whole, rest = (rest + block).split(separator)
            yield from (text.strip() for text in whole)
    yield rest.strip()


def read_wikitext(path: Path) -> Iterator[str]:
    """The training part of WikiText's zip, cut at the titles of articles: ` = Title = ` between empty lines."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("wiki.train.raw")]
        if not names:
            raise UserError(f"{path} holds no wiki.train.raw; delete it and download wikitext-103 again")
        article: list[str] = []
        with archive.open(names[0]) as file:
            for line in io.TextIOWrapper(file, encoding="utf-8"):
                if re.fullmatch(r" = [^=](?:.*[^=])? = \n", line) and (not article or not article[-1].strip()):
                    yield "".join(article).strip()
                    article = []
                article.append(line)
        yield "".join(article).strip()


def read_parquet(path: Path) -> Iterator[str]:
    """The column `text` of a parquet file."""
    from pyarrow.parquet import ParquetFile  # only here: it is not one of our dependencies

    for batch in ParquetFile(path).iter_batches(columns=["text"], batch_size=256):
        yield from (text or "" for text in batch.column(0).to_pylist())


def read_wikipedia(path: Path) -> Iterator[str]:
    """The articles of a Wikipedia dump (pages-articles.xml.bz2): title, empty line, prose."""
    with bz2.open(path, "rb") as file:
        events = ElementTree.iterparse(file, events=("start", "end"))
        _, root = next(events)
        for event, element in events:
            if event == "end" and element.tag.endswith("}page"):
                page = {child.tag.rpartition("}")[2]: child for child in element.iter()}
                if page["ns"].text == "0" and "redirect" not in page:
                    text = plain_text(page["text"].text or "")
                    yield f"{page['title'].text}\n\n{text}" if text else ""
                root.clear()  # else the tree of the whole dump grows in memory


READERS = {
    "separated": read_separated,
    "wikitext": read_wikitext,
    "parquet": read_parquet,
    "wikipedia": read_wikipedia,
}

# Wikipedia's markup --------------------------------------------------------------------------------------------------

DROPPED = re.compile(
    r"<!--.*?-->|<(ref|math|gallery|timeline|score|syntaxhighlight|source)\b[^<>]*?(?:/>|>.*?</\1\s*>)",
    re.S | re.I,
)
TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
TABLE = re.compile(r"\{\|(?:(?!\{\||\|\}).)*\|\}", re.S)
LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
NOT_PROSE = re.compile(r":?\s*(file|image|category|media|文件|檔案|档案|图像|圖像|分类|分類)\s*:", re.I)
VARIANT = re.compile(r"-\{([^{}]*)\}-")  # Chinese: -{zh-hans:...; zh-hant:...}-


def plain_text(markup: str) -> str:
    """The prose of a page in Wikipedia's markup, with its headings as plain lines."""
    text = _until_stable(DROPPED, "", markup)
    text = VARIANT.sub(_simplified, text)
    text = _until_stable(TEMPLATE, "", text)
    text = _until_stable(TABLE, "", text)
    text = _until_stable(LINK, _link_text, text)
    text = re.sub(r"\[(?:https?:)?//[^\s\]]*\s*([^\]]*)\]", r"\1", text)
    text = re.sub(r"'{2,}|__[A-Z]+__|</?[a-zA-Z][^<>]*>", "", text)
    text = re.sub(r"^(=+)\s*(.*?)\s*\1\s*$", r"\2", text, flags=re.M)
    text = re.sub(r"^[*#:;]+[ \t]*", "", text, flags=re.M)
    return html.unescape(re.sub(r"[ \t]*\n(?:[ \t]*\n)+", "\n\n", text)).strip()


def _until_stable(pattern: re.Pattern, replacement, text: str) -> str:
    """Replace the innermost again and again, because markup nests."""
    count = 1
    while count:
        text, count = pattern.subn(replacement, text)
    return text


def _link_text(match: re.Match) -> str:
    return "" if NOT_PROSE.match(match[1]) else match[1].rpartition("|")[2]


def _simplified(match: re.Match) -> str:
    """Of the variants of a word the one for the mainland, else the first; flags such as `T|` are no text."""
    variants = dict(re.findall(r"\s*(zh[\w-]*)\s*:\s*([^;]*)", match[1]))
    for name in ("zh-hans", "zh-cn", *variants):
        if name in variants:
            return variants[name].strip()
    return "" if "|" in match[1] else match[1]
