"""Public corpora: a short table of well-known ones, and a download that survives a bad connection.

What it is. `get` fetches one file from its public home and turns it into what `data.corpus` reads:

    python -m data.download list
    python -m data.download get tinystories-small --to corpora
    python -m data.corpus corpora/tinystories-small.jsonl.gz

Why so. What has arrived stands in a `.part` file, and the next attempt asks the server for the rest only, if the file
there is still the same one (HTTP `Range` with `If-Range`). A file gets its final name when its length and sha256 are
right, so a half or a damaged file is never read. Where the hash is known it stands in the table; elsewhere the first
download is trusted and its hash recorded beside it, so that a later one can be compared.

What it leaves out. Several connections at once, mirrors (`--url` takes any address of the same file), log-ins. Nothing
else in this project needs a download: the built-in corpus is the default everywhere.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import http.client
import importlib.util
import re
import shutil
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from configs import UserError, run_main
from data.conversion import read, write_jsonl
from data.files import full_disk_explained

ATTEMPTS = 5
TIMEOUT_SECONDS = 30
BLOCK = 1 << 20
USER_AGENT = "Mozilla/5.0 (compatible; zhiling)"  # some homes refuse the name of Python's own client


@dataclass(frozen=True)
class Source:
    """A public corpus: one file at `url`, kept as `file`; `kind` says how it becomes documents ("": it is one)."""

    url: str
    file: str
    size: int  # bytes, as far as known; shown in the list
    licence: str
    about: str
    kind: str = ""
    sha256: str = ""
    requires: str = ""  # a package that the conversion needs beyond our own dependencies


HUGGING_FACE = "https://huggingface.co/datasets"
SOURCES = {
    "shakespeare": Source(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "tinyshakespeare.txt",
        1_115_394,
        "public domain",
        "plays in one text of 1.1 MB, the usual first corpus",
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "tinystories": Source(
        f"{HUGGING_FACE}/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-train.txt",
        "TinyStoriesV2-GPT4-train.txt",
        2_230_000_000,
        "CDLA-Sharing-1.0",
        "short stories in the words of small children, written by GPT-4",
        kind="separated",
    ),
    "tinystories-small": Source(
        f"{HUGGING_FACE}/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-valid.txt",
        "TinyStoriesV2-GPT4-valid.txt",
        22_500_000,
        "CDLA-Sharing-1.0",
        "the validation part of the same: a hundredth of it",
        kind="separated",
    ),
    "wikitext-103": Source(
        "https://wikitext.smerity.com/wikitext-103-raw-v1.zip",
        "wikitext-103-raw-v1.zip",
        191_984_949,
        "CC BY-SA 3.0",
        "good and featured articles of the English Wikipedia, the training part",
        kind="wikitext",
        sha256="91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794",
    ),
    "fineweb-edu": Source(
        f"{HUGGING_FACE}/HuggingFaceFW/fineweb-edu/resolve/main/sample/10BT/000_00000.parquet",
        "fineweb-edu-10BT-000.parquet",
        2_150_000_000,
        "ODC-By 1.0",
        "educational web pages: the first file of the sample of 10 billion tokens",
        kind="parquet",
        requires="pyarrow",
    ),
    "wikipedia-zh": Source(
        "https://dumps.wikimedia.org/zhwiki/latest/zhwiki-latest-pages-articles.xml.bz2",
        "zhwiki-latest-pages-articles.xml.bz2",
        3_200_000_000,
        "CC BY-SA 4.0",
        "the Chinese Wikipedia of this month",
        kind="wikipedia",
    ),
}


def get(name: str, folder: str | Path, url: str | None = None, progress: bool = False) -> Path:
    """Download and convert one corpus of the table; returns the file to give to `data.corpus`.

    What is already there is not fetched or converted again. Raises `UserError` for an unknown name, a missing package,
    and whatever `fetch` and the conversion refuse.
    """
    if name not in SOURCES:
        raise UserError(f"there is no corpus {name!r} in the table; it has {', '.join(SOURCES)}")
    source, folder = SOURCES[name], Path(folder)
    result = folder / (f"{name}.jsonl.gz" if source.kind else source.file)
    if source.kind and result.exists():
        return result
    if source.requires and importlib.util.find_spec(source.requires) is None:
        raise UserError(f"{name} comes as {source.kind}; run `pip install {source.requires}` first, then this again")
    folder.mkdir(parents=True, exist_ok=True)
    raw = folder / source.file
    fetch(url or source.url, raw, source.sha256, progress)
    if source.kind:
        texts = tqdm(read(raw, source.kind), f"converting {raw.name}", unit=" documents", disable=not progress)
        write_jsonl(texts, result)
    return result


def fetch(url: str, path: Path, sha256: str = "", progress: bool = False, wait: float = 1.0) -> None:
    """Download `url` to `path`, going on with what an earlier attempt left.

    `sha256` is the expected hash; without it the one recorded in `path.sha256` counts, and without that one the hash of
    this first download is recorded there. After a broken connection or a server error (5xx) it tries again, until
    `ATTEMPTS` in a row brought nothing, after `wait`, 2 `wait`, 4 `wait` ... seconds. Raises `UserError`, and leaves
    nothing under the final name, when the server cannot be reached or refuses, the disk is full, or the hash differs.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"{url} is no http or https address; give one with --url")
    record = path.with_name(path.name + ".sha256")
    wanted = sha256 or (record.read_text("utf-8").split()[0] if record.exists() else "")
    if path.exists():
        found = _hash(path)
        if wanted not in ("", found):
            raise UserError(f"{path} is damaged: its sha256 is {found}, not {wanted}; delete it and run this again")
    else:
        part = path.with_name(path.name + ".part")
        _fetch_whole(url, part, progress, wait)
        found = _hash(part)
        if wanted not in ("", found):
            part.unlink()
            origin = "in the table" if sha256 else f"recorded in {record}; delete that if you trust the new file"
            raise UserError(f"{url} gave a file of sha256 {found}, now deleted, not {wanted} as {origin}")
        part.replace(path)
        _version(part).unlink(missing_ok=True)
    record.write_text(f"{found}  {path.name}\n", "utf-8")


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_whole(url: str, part: Path, progress: bool, wait: float) -> None:
    """Attempt it until `part` is complete, or `ATTEMPTS` in a row brought nothing."""
    failures, size = 0, 0
    while True:
        try:
            with full_disk_explained(part):
                _fetch_rest(url, part, progress)
            return
        except _Broken as broken:
            before, size = size, part.stat().st_size if part.exists() else 0
            failures = 1 if size > before else failures + 1
            if failures == ATTEMPTS:
                raise UserError(
                    f"{url} could not be fetched ({broken}); check the network and run the same command again: it goes "
                    "on where it stopped"
                ) from None
        time.sleep(wait * 2 ** (failures - 1))


class _Broken(Exception):
    """The connection failed in a way that another attempt may mend."""


def _fetch_rest(url: str, part: Path, progress: bool) -> None:
    """One attempt: ask for what `part` lacks and append it. Raises `_Broken` when it ends too early."""
    have = part.stat().st_size if part.exists() else 0
    response = _open(url, part, have)
    if response is None:  # the server has no bytes after those that we have
        return
    with response:
        if response.status != 206:  # the whole file comes: the server knows no ranges, or the file there has changed
            have = 0
            part.unlink(missing_ok=True)
            _version(part).write_text(_strong_validator(response), "utf-8")
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise _Broken("the server sent another part of the file than the one asked for")
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - have > free:
            raise OSError(errno.ENOSPC, f"{total - have:,} bytes are needed, {free:,} are free")
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=not progress)
        with part.open("ab") as file, bar:
            for block in _blocks(response):
                file.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size < total:
        raise _Broken(f"the connection broke off at {part.stat().st_size:,} of {total:,} bytes")


def _open(url: str, part: Path, have: int) -> http.client.HTTPResponse | None:
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    validator = _version(part).read_text("utf-8") if have and _version(part).exists() else ""
    if have and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and re.fullmatch(rf"bytes \*/{have}", error.headers.get("Content-Range", "")):
                return None
            if error.code == 416:
                part.unlink()
            if error.code == 416 or error.code >= 500:
                raise _Broken(f"the server answered {error.code} {error.reason}") from None
            raise UserError(
                f"{url} answered {error.code} {error.reason}; find the new address of the file and give it with --url"
            ) from None
    except (http.client.InvalidURL, ValueError) as error:  # such as a port that is no number
        raise UserError(f"{url} is no valid address ({error}); correct it") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, socket.gaierror):
            raise UserError(f"the host of {url} is not known ({reason.strerror}); is there a network?") from None
        raise _Broken(reason) from None


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            block = response.read(BLOCK)
        except http.client.IncompleteRead as error:
            yield error.partial
            raise _Broken("the connection broke off") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(error) from None
        if not block:
            return
        yield block


def _version(part: Path) -> Path:
    """Beside a `.part` file: what names the version of the file at the server."""
    return part.with_name(part.name + ".version")


def _strong_validator(response: http.client.HTTPResponse) -> str:
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


# Command -------------------------------------------------------------------------------------------------------------


def table() -> str:
    """The table of `list`, for people."""
    lines = [f"{'name':<20}{'size':>9}  {'licence':<18}what"]
    for name, source in SOURCES.items():
        size = f"{source.size / 1e6:,.0f} MB" if source.size >= 1e7 else f"{source.size / 1e6:.1f} MB"
        needs = f" (needs {source.requires})" if source.requires else ""
        lines.append(f"{name:<20}{size:>9}  {source.licence:<18}{source.about}{needs}")
        lines.append(f"{'':<49}{source.url}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.download", description="Fetch public corpora.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show the table of corpora")
    one = commands.add_parser("get", help="download one, going on where an earlier attempt stopped, and convert it")
    one.add_argument("name", metavar="NAME", help=", ".join(SOURCES))
    one.add_argument("--to", default="corpora", metavar="DIR", help="folder to put it in (default: corpora)")
    one.add_argument("--url", help="another address of the same file")
    arguments = parser.parse_args(argv)
    if arguments.command == "list":
        print(table())
        return
    source = SOURCES.get(arguments.name)
    if source:
        print(f"{arguments.name}: {source.about}; licence {source.licence}", file=sys.stderr)
    print(get(arguments.name, arguments.to, arguments.url, progress=True))


if __name__ == "__main__":
    run_main(main)
