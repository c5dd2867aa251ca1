"""Downloads, against a server on this machine: what is kept is whole and right, what broke off is gone on with."""

import errno
import gzip
import hashlib
import http.server
import json
import shutil
import threading
from collections import namedtuple

import pytest

from configs import UserError
from data import download
from data.conversion import READERS
from data.corpus import CorpusConfig, documents
from data.download import ATTEMPTS, SOURCES, Source, fetch, get, main, table

CONTENT = bytes(range(256)) * 4000  # about 1 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """A file server that knows `Range` and `If-Range`, with faults to order through `self.server.plan`."""

    def do_GET(self):
        plan = self.server.plan
        self.server.ranges.append(self.headers.get("Range"))
        if plan["statuses"]:
            self.send_error(plan["statuses"].pop(0))
            return
        start = self.start_of_range(plan)
        if start is not None and start >= len(plan["content"]):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(plan['content'])}")
            self.end_headers()
            return
        body = plan["content"][start or 0 :]
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(plan['content']) - 1}/{len(plan['content'])}")
        if plan["etag"]:
            self.send_header("ETag", plan["etag"])
        if plan["length"]:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: plan["breaks"].pop(0)] if plan["breaks"] else body)

    def start_of_range(self, plan):
        wanted = self.headers.get("Range")
        if not wanted or not plan["ranges"] or self.headers.get("If-Range") != plan["etag"]:
            return None
        return int(wanted.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.plan = {"content": CONTENT, "etag": '"v1"', "length": True, "ranges": True, "breaks": [], "statuses": []}
        server.ranges = []
        server.url = f"http://127.0.0.1:{server.server_port}/file"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Whole files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [True, False], ids=["with length", "without"])
def test_a_file_arrives_whole_and_its_hash_is_recorded(server, tmp_path, length):
    server.plan["length"] = length
    fetch(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert (tmp_path / "a.sha256").read_text("utf-8") == f"{SHA256}  a\n"
    assert names(tmp_path) == ["a", "a.sha256"], "no .part is left"
    fetch(server.url, tmp_path / "a")
    assert server.ranges == [None], "what is there is not fetched again"


def test_a_broken_connection_is_gone_on_with(server, tmp_path):
    server.plan["breaks"] = [300_000, 200_000]
    fetch(server.url, tmp_path / "a", SHA256, wait=0)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_run_goes_on_where_the_first_stopped(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.plan["breaks"] = [123_456]
    with pytest.raises(UserError, match=r"broke off at 123,456 of 1,024,000 bytes\); .*goes on"):
        fetch(server.url, tmp_path / "a", wait=0)
    assert "a" not in names(tmp_path) and (tmp_path / "a.part").stat().st_size == 123_456
    fetch(server.url, tmp_path / "a")
    assert server.ranges[-1] == "bytes=123456-" and (tmp_path / "a").read_bytes() == CONTENT
    assert names(tmp_path) == ["a", "a.sha256"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    """The halves of two versions must never be joined."""
    server.plan["breaks"] = [400_000]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError):
        patch.setattr(download, "ATTEMPTS", 1)
        fetch(server.url, tmp_path / "a", wait=0)
    server.plan |= {"content": CONTENT[::-1], "etag": '"v2"'}
    fetch(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("fault", [{"ranges": False}, {"etag": None}], ids=["no ranges", "no validator"])
def test_a_server_that_cannot_resume_sends_all_again(server, tmp_path, fault):
    server.plan |= {"breaks": [400_000], **fault}
    fetch(server.url, tmp_path / "a", SHA256, wait=0)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_download_that_was_complete_but_not_named_is_finished(server, tmp_path):
    (tmp_path / "a.part").write_bytes(CONTENT)
    (tmp_path / "a.part.version").write_text('"v1"', "utf-8")
    fetch(server.url, tmp_path / "a", SHA256)
    assert server.ranges == ["bytes=1024000-"] and names(tmp_path) == ["a", "a.sha256"]


def test_too_long_a_part_is_thrown_away(server, tmp_path):
    (tmp_path / "a.part").write_bytes(CONTENT + b"more")
    (tmp_path / "a.part.version").write_text('"v1"', "utf-8")
    fetch(server.url, tmp_path / "a", SHA256, wait=0)
    assert (tmp_path / "a").read_bytes() == CONTENT


# What goes wrong -----------------------------------------------------------------------------------------------------


def test_server_errors_are_tried_again_and_no_others(server, tmp_path):
    server.plan["statuses"] = [503, 500]
    fetch(server.url, tmp_path / "a", wait=0)
    assert len(server.ranges) == 3
    server.plan["statuses"] = [503] * 99
    with pytest.raises(UserError, match="503"):
        fetch(server.url, tmp_path / "b", wait=0)
    assert len(server.ranges) == 3 + ATTEMPTS
    server.plan["statuses"] = [404]
    with pytest.raises(UserError, match=r"404 Not Found; .*--url"):
        fetch(server.url, tmp_path / "b", wait=0)
    assert len(server.ranges) == 4 + ATTEMPTS and names(tmp_path) == ["a", "a.sha256"]


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(UserError, match=f"sha256 {SHA256}, now deleted, not {'0' * 64} as in the table"):
        fetch(server.url, tmp_path / "a", "0" * 64)
    assert not [name for name in names(tmp_path) if name in ("a", "a.part", "a.sha256")]


def test_a_later_download_must_equal_the_first(server, tmp_path):
    fetch(server.url, tmp_path / "a")
    (tmp_path / "a").unlink()
    server.plan["content"] = CONTENT[:-1]
    with pytest.raises(UserError, match=r"recorded in .*a\.sha256"):
        fetch(server.url, tmp_path / "a")
    (tmp_path / "a.sha256").unlink()
    fetch(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT[:-1]


def test_a_file_that_was_damaged_later_is_noticed(server, tmp_path):
    fetch(server.url, tmp_path / "a")
    (tmp_path / "a").write_bytes(b"bit rot")
    with pytest.raises(UserError, match="is damaged"):
        fetch(server.url, tmp_path / "a")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://127.0.0.1:9/file", "could not be fetched"),
        ("http://no-such-host.invalid/file", "is there a network"),
        ("http://127.0.0.1:port/file", "no valid address"),
        ("file:///etc/hostname", "no http or https address"),
    ],
)
def test_unreachable_addresses(tmp_path, url, complaint):
    with pytest.raises(UserError, match=complaint):
        fetch(url, tmp_path / "a", wait=0)
    assert names(tmp_path) == []


def test_a_full_disk_is_noticed_before_and_while_writing(server, tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "test", Source(server.url, "a.txt", 0, "", ""))
    usage = namedtuple("usage", "free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: usage(1000))
        with pytest.raises(UserError, match=r"no space left to write .*1,024,000 bytes are needed, 1,000 are free"):
            get("test", tmp_path)
    assert "a.txt" not in names(tmp_path)

    def full(response):
        yield CONTENT[:5000]
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "_blocks", full)
        with pytest.raises(UserError, match="no space left"):
            get("test", tmp_path)
    assert (tmp_path / "a.txt.part").stat().st_size == 5000, "what has arrived is kept"
    assert get("test", tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=5000-"


# The table and the command -------------------------------------------------------------------------------------------


def test_get_converts_once_and_the_corpus_reads_it(server, tmp_path, monkeypatch):
    server.plan["content"] = "One.\n<|endoftext|>\nTwo: 中.\n<|endoftext|>\n".encode()
    monkeypatch.setitem(SOURCES, "test", Source(server.url, "raw.txt", 0, "", "", kind="separated"))
    path = get("test", tmp_path)
    assert path == tmp_path / "test.jsonl.gz"
    assert [document.text for document in documents(CorpusConfig((str(path),)))] == ["One.", "Two: 中."]
    assert [json.loads(line) for line in gzip.open(path)] == [{"text": "One."}, {"text": "Two: 中."}]
    (tmp_path / "raw.txt").unlink()
    assert get("test", tmp_path) == path and len(server.ranges) == 1, "what was converted is not fetched again"


def test_a_failed_conversion_leaves_no_result(server, tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "test", Source(server.url, "raw.zip", 0, "", "", kind="wikitext"))
    with pytest.raises(UserError, match=r"raw\.zip cannot be read \(File is not a zip file\)"):
        get("test", tmp_path)
    assert names(tmp_path) == ["raw.zip", "raw.zip.sha256"]


def test_a_missing_package_is_named_before_the_download(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "test", Source("http://127.0.0.1:9/x", "a", 0, "", "", "parquet", requires="no_such"))
    with pytest.raises(UserError, match="pip install no_such"):
        get("test", tmp_path / "new")
    assert names(tmp_path) == []


def test_the_table_is_complete():
    shown = table()
    for name, source in SOURCES.items():
        assert name in shown and source.licence in shown and source.url in shown
        assert source.url.startswith("https://") and source.size > 0
        assert source.sha256 == "" or len(bytes.fromhex(source.sha256)) == 32
        assert source.kind in ("", *READERS)


def test_command(server, tmp_path, monkeypatch, capsys):
    main(["list"])
    assert "tinystories" in capsys.readouterr().out
    monkeypatch.setitem(SOURCES, "test", Source("http://127.0.0.1:9/gone", "a.txt", 0, "free", "a test"))
    main(["get", "test", "--to", str(tmp_path), "--url", server.url])
    assert capsys.readouterr().out == f"{tmp_path / 'a.txt'}\n"
    with pytest.raises(UserError, match="no corpus 'tinystory' in the table; it has shakespeare"):
        main(["get", "tinystory"])
