"""Token shards: documents come back as written, splits are honest, damage and a full disk are one clear sentence."""

import errno
import io
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from data import shards
from data.corpus import Document
from data.files import whole_folder
from data.shards import SplitConfig, TokenStream, main, read_manifest, split_document, write_shards
from tests.small import invented_texts

CORPUS = [Document(text, str(i)) for i, text in enumerate(invented_texts(40))]


def streams(folder):
    manifest = read_manifest(folder, verify=True)
    return {name: TokenStream(folder, name, manifest) for name in ("train", "validation")}


@pytest.mark.parametrize("shard_tokens", [1, 100, 10**6])
def test_documents_come_back_as_written(tmp_path, small_tokenizer, shard_tokens):
    """Each as <bos> text <eos>, in order, wherever the files are cut; the counts of the manifest are true."""
    config = SplitConfig(0.3, shard_tokens=shard_tokens)
    write_shards(CORPUS, small_tokenizer, tmp_path / "out", config)
    parts = [part for document in CORPUS for part in split_document(document, config)]
    for name, stream in streams(tmp_path / "out").items():
        texts = [text for split, text in parts if split == name]
        ids = stream.read(0, stream.tokens)
        assert ids.dtype == np.int64 and ids.tolist() == [
            i for text in texts for i in (small_tokenizer.bos, *small_tokenizer.encode(text), small_tokenizer.eos)
        ]
        assert stream.documents == len(texts) and stream.bytes == sum(len(text.encode()) for text in texts)
        assert stream.starts[-1] == stream.tokens
        for start, end, text in zip(stream.starts, stream.starts[1:], texts):
            assert small_tokenizer.decode(stream.read(start, end - start)) == text
    sizes = [file["tokens"] for file in read_manifest(tmp_path / "out")["splits"]["train"]["files"]]
    assert min(sizes[:-1], default=shard_tokens) >= shard_tokens and (len(sizes) == 1) == (shard_tokens == 10**6)


@given(data=st.data())
def test_any_stretch_of_the_stream_can_be_read(shard_folder, data):
    """Stretches that begin, end and run over the ends of files."""
    stream = TokenStream(shard_folder, "train", read_manifest(shard_folder))
    whole = np.concatenate([np.fromfile(path, stream.dtype) for path in sorted(shard_folder.glob("train-*.tokens"))])
    start = data.draw(st.integers(0, stream.tokens))
    length = data.draw(st.integers(0, stream.tokens - start))
    assert np.array_equal(stream.read(start, length), whole[start : start + length])


def test_large_vocabularies_take_four_bytes(tmp_path, small_tokenizer):
    """Ids beyond 65,535 survive."""

    class LargeVocabulary:
        vocab_size, bos, eos, sha256 = 70_000, 2, 69_999, small_tokenizer.sha256
        save = staticmethod(small_tokenizer.save)

        @staticmethod
        def encode_batch(texts):
            return [[66_000 + len(text)] for text in texts]

    write_shards(CORPUS, LargeVocabulary(), tmp_path / "out", SplitConfig(0.3))
    stream = streams(tmp_path / "out")["train"]
    assert stream.dtype == np.dtype("<u4")
    assert stream.read(0, 3)[0] == 2 and stream.read(0, 3)[1] > 66_000 and stream.read(0, 3)[2] == 69_999


def test_memory_stays_bounded(tmp_path, small_tokenizer):
    """Twice the corpus takes no more memory (but for the progress of a few counters)."""

    def peak(count):
        corpus = (Document(f"{i} " + "kato miren " * 400, str(i)) for i in range(count))
        tracemalloc.start()
        write_shards(corpus, small_tokenizer, tmp_path / f"{count}", SplitConfig(0.3, shard_tokens=1 << 14))
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return reached

    original, shards.ENCODE_CHARACTERS = shards.ENCODE_CHARACTERS, 1 << 14
    try:
        assert peak(400) < 1.2 * peak(200)
    finally:
        shards.ENCODE_CHARACTERS = original


# Splits --------------------------------------------------------------------------------------------------------------


def test_equal_texts_fall_on_one_side():
    """Whatever their place in the corpus; so nothing that is held out is trained on as a duplicate."""
    config = SplitConfig(0.5)
    sides = {text: split_document(Document(text, "a"), config) for text in invented_texts(50)}
    assert {side for ((side, _),) in sides.values()} == {"train", "validation"}
    for text, side in sides.items():
        assert split_document(Document(text, "elsewhere"), config) == side


def test_share_of_documents_is_as_asked():
    """Of 2,000 texts about 20 %: within six standard deviations, failing by chance with probability below 1e-8."""
    held_out = sum(
        split_document(Document(f"text {i}", ""), SplitConfig(0.2))[0][0] == "validation" for i in range(2000)
    )
    assert abs(held_out - 400) < 6 * (2000 * 0.2 * 0.8) ** 0.5


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.floats(0.01, 0.99))
def test_tail_split_cuts_each_text_once(text, share):
    parts = split_document(Document(text, ""), SplitConfig(share, by="tail"))
    assert "".join(part for _, part in parts) == text
    assert [name for name, _ in parts] in (["train", "validation"], ["train"], ["validation"])
    held_out = sum(len(part) for name, part in parts if name == "validation")
    assert abs(held_out - share * len(text)) <= 1


def test_empty_split_is_refused_and_nothing_stays(tmp_path, small_tokenizer):
    for corpus in (CORPUS[:1], []):
        with pytest.raises(UserError, match=f"split is empty \\({len(corpus)} documents in the corpus\\); give more"):
            write_shards(corpus, small_tokenizer, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"validation": 0.0}, {"validation": 1.0}, {"shard_tokens": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        SplitConfig(**wrong)


# Whole or not at all -------------------------------------------------------------------------------------------------


def test_an_error_in_the_corpus_leaves_the_old_shards(tmp_path, small_tokenizer):
    write_shards(CORPUS, small_tokenizer, tmp_path / "out", SplitConfig(0.3))
    before = read_manifest(tmp_path / "out")

    def broken():
        yield from CORPUS[:30]
        raise UserError("corpus.jsonl, line 31 is not valid JSON")

    with pytest.raises(UserError, match="line 31"):
        write_shards(broken(), small_tokenizer, tmp_path / "out", SplitConfig(0.3))
    assert read_manifest(tmp_path / "out", verify=True) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class FullDisk(io.FileIO):
    """A file on a disk that has no room."""

    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("buffer_size", [16, 1 << 20])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, small_tokenizer, monkeypatch, buffer_size):
    """Whether it is met while writing or when the buffers are emptied at the end."""
    original = open

    def full(path, mode="r", **options):
        if ".tokens" in str(path) and "w" in mode:
            return io.BufferedWriter(FullDisk(path, mode), buffer_size)
        return original(path, mode, **options)

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(UserError, match=r"no space left to write .*out .*; free some, or choose a folder"):
        write_shards(CORPUS, small_tokenizer, tmp_path / "out", SplitConfig(0.3))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_not_replaced(tmp_path, small_tokenizer):
    """`python -m data.shards notes/` must not delete the notes."""
    (tmp_path / "note.txt").write_text("keep me", "utf-8")
    with pytest.raises(UserError, match="holds something else than token shards and is not replaced"):
        write_shards(CORPUS, small_tokenizer, tmp_path, SplitConfig(0.3))
    assert (tmp_path / "note.txt").read_text("utf-8") == "keep me"


def test_of_two_writers_the_first_wins(tmp_path, small_tokenizer):
    """The second one finishes while the first one's folder is there already: nothing is touched, nothing left over."""
    folder = tmp_path / "out"

    def slower():
        yield from CORPUS
        write_shards(CORPUS[::-1], small_tokenizer, folder, SplitConfig(0.3), replace=False)  # another machine

    write_shards(slower(), small_tokenizer, folder, SplitConfig(0.3), replace=False)
    first = next(i for i in CORPUS[::-1] if split_document(i, SplitConfig(0.3))[0][0] == "train")
    stream = streams(folder)["train"]
    assert small_tokenizer.decode(stream.read(0, int(stream.starts[1]))) == first.text
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_replacing_a_folder(tmp_path):
    """The new one takes the place; leftovers of a killed attempt go; an error keeps the old one."""
    (tmp_path / ".a.123.tmp").mkdir()
    for text in ("one", "two"):
        with whole_folder(tmp_path / "a") as new:
            (new / "file").write_text(text, "utf-8")
        assert (tmp_path / "a" / "file").read_text("utf-8") == text
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "a") as new:
        (new / "file").write_text("three", "utf-8")
        1 / 0  # noqa: B018
    assert (tmp_path / "a" / "file").read_text("utf-8") == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# Damage --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path, small_tokenizer):
    write_shards(CORPUS, small_tokenizer, tmp_path / "out", SplitConfig(0.3, shard_tokens=100))
    return tmp_path / "out"


def test_missing_and_short_files_are_found(damaged):
    for name in ("train-00001.tokens", "train.documents", "validation-00000.tokens"):
        path = damaged / name
        whole = path.read_bytes()
        for content in (whole[:-1], whole + b"\0", None):
            path.unlink() if content is None else path.write_bytes(content)
            with pytest.raises(UserError, match=f"{name} is missing or damaged; delete the folder"):
                read_manifest(damaged)
        path.write_bytes(whole)
    read_manifest(damaged, verify=True)


@given(data=st.data())
def test_a_flipped_bit_is_found_when_asked(shard_folder, data):
    names = sorted(p.name for p in shard_folder.iterdir() if p.suffix in (".tokens", ".documents"))
    path = shard_folder / data.draw(st.sampled_from(names))
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=f"{path.name} is missing or damaged"):
            read_manifest(shard_folder, verify=True)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no whole folder of token shards"),
        ("", "manifest.json is damaged"),
        ("[]", "manifest.json is damaged"),
        ('{"format": "zhiling-shards-1", "splits": []}', "manifest.json is damaged"),
        ('{"format": "zhiling-shards-1", "splits": {"train": {}}}', "manifest.json is damaged"),
        ('{"format": "zhiling-shards-9"}', "has shard format 'zhiling-shards-9', this version reads"),
    ],
)
def test_a_bad_manifest_is_one_sentence(damaged, content, sentence):
    path = damaged / "manifest.json"
    path.unlink() if content is None else path.write_text(content, "utf-8")
    with pytest.raises(UserError, match=sentence):
        read_manifest(damaged)


# Command -------------------------------------------------------------------------------------------------------------


def test_command_writes_shards_and_prints_a_line_each(tmp_path, capsys):
    lines = [json.dumps({"text": text}) for text in invented_texts(80)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines), "utf-8")
    main([str(tmp_path / "out"), str(tmp_path / "corpus.jsonl"), "--vocab-size", "400", "--validation", "0.2"])
    stream = streams(tmp_path / "out")["train"]
    assert f"train: {stream.documents} documents, {stream.tokens:,} tokens, " in capsys.readouterr().out
    main([str(tmp_path / "two"), str(tmp_path / "corpus.jsonl"), "--tokenizer", str(tmp_path / "out/tokenizer.model")])
    assert read_manifest(tmp_path / "two")["vocab_size"] == 400


def test_command_names_the_broken_line_and_leaves_nothing(tmp_path, small_tokenizer):
    lines = [json.dumps({"text": text}) for text in invented_texts(1300)]
    lines[1233] = '{"text": '
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines), "utf-8")
    small_tokenizer.save(tmp_path / "t.model")
    with pytest.raises(UserError, match=r"corpus.jsonl, line 1234 is not valid JSON"):
        main([str(tmp_path / "out"), str(tmp_path / "corpus.jsonl"), "--tokenizer", str(tmp_path / "t.model")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "t.model"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident memory where Linux tells it")
def test_reading_a_large_file_keeps_memory_where_it_was(tmp_path):
    """A memory map grew to the size of the corpus and looked like a leak (nanoGPT#287, nanoGPT#428)."""
    tokens = 1 << 25  # 64 MiB
    with open(tmp_path / "train-00000.tokens", "wb") as file:
        file.truncate(2 * tokens)
    np.array([0, tokens], "<i8").tofile(tmp_path / "train.documents")
    files = [{"name": "train-00000.tokens", "tokens": tokens}]
    entry = {"tokens": tokens, "documents": 1, "bytes": tokens, "files": files, "starts": {"name": "train.documents"}}
    stream = TokenStream(tmp_path, "train", {"dtype": "<u2", "splits": {"train": entry}})
    stream.read(0, 4096)
    before = resident()
    for start in range(0, tokens, 1 << 20):
        assert not stream.read(start, 1 << 20).any()
    assert resident() - before < 20 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * 4096
