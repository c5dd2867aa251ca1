"""The encoder for everyday use: files of texts to vectors, search, wrong input."""

from __future__ import annotations

import json

import numpy as np
import pytest

from configs import UserError
from data.chat import ChatFormat
from instruct.embed import Encoder, main, read_texts
from model.load import model_files
from model.storage import write_folder
from tests.small import small_model
from tests.test_embedder import embedder

RECORDS = [{"text": "ka to mi"}, {"instruction": "sol ve", "input": "3 1"}, {"instruction": "指令", "input": ""}]


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_tokenizer):
    folder = tmp_path_factory.mktemp("embedder") / "one"
    write_folder(folder, model_files(embedder(vocab_size=420), small_tokenizer, ChatFormat()))
    return str(folder)


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in RECORDS), "utf-8")
    return str(path)


def test_texts_are_read_from_records_and_from_lines(records, tmp_path):
    assert read_texts(records) == ["ka to mi", "sol ve\n3 1", "指令"]
    lines = tmp_path / "lines.txt"
    lines.write_text("ka to mi\n\n  指令 \n", "utf-8")
    assert read_texts(lines) == ["ka to mi", "指令"]


def test_vectors_are_written(run, records, tmp_path, capsys):
    main([run, records, "--out", str(tmp_path / "v.npy")])
    vectors = np.load(tmp_path / "v.npy")
    assert vectors.shape == (3, 10) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), rel=1e-5)
    assert vectors == pytest.approx(Encoder.load(run).encode(read_texts(records)), abs=1e-6)
    assert capsys.readouterr().out == ""
    main([run, records, "--out", str(tmp_path / "small.npy"), "--size", "4"])
    small = vectors[:, :4] / np.linalg.norm(vectors[:, :4], axis=1, keepdims=True)
    assert np.load(tmp_path / "small.npy") == pytest.approx(small, abs=1e-5)


def test_search_finds_the_text_itself_first(run, records, capsys):
    main(["search", run, "指令", records, "--k", "2", "--json"])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == 2 and found[0] == {"place": 2, "cosine": pytest.approx(1, abs=1e-4), "text": "指令"}
    assert found[0]["cosine"] >= found[1]["cosine"]
    main(["search", run, "指令", records])
    assert capsys.readouterr().out.splitlines()[0] == "  1.000  指令"


def test_wrong_input_is_one_sentence(run, records, small_tokenizer, tmp_path):
    empty, broken, binary = tmp_path / "e.txt", tmp_path / "b.jsonl", tmp_path / "c.txt"
    empty.write_text(" \n", "utf-8")
    broken.write_text('{"text": "a"}\n{"instruction": 3}\n', "utf-8")
    binary.write_bytes(b"\xff\xfe\x00")
    write_folder(tmp_path / "other", model_files(small_model(vocab_size=420), small_tokenizer, ChatFormat()))
    out = str(tmp_path / "out.npy")
    cases = [
        ([run, str(empty), "--out", out], "holds no text"),
        ([run, str(tmp_path / "no.txt"), "--out", out], "there is no file"),
        ([run, str(tmp_path / "no.jsonl"), "--out", out], "there is no file"),
        ([run, str(broken), "--out", out], r"b\.jsonl:2: a row needs `text` or `instruction`"),
        ([run, str(binary), "--out", out], "is not UTF-8 text"),
        ([run, records, "--out", out, "--size", "11"], "choose from 1 to 10, not 11"),
        ([str(tmp_path / "nowhere"), records, "--out", out], "there is no checkpoint in"),
        ([str(tmp_path / "other"), records, "--out", out], "use one with 'vectors'"),
        (["search", run, "x", records, "--k", "0"], "--k must be positive"),
        (["search", run, " ", records], "the query is empty"),
    ]
    for arguments, message in cases:
        with pytest.raises(UserError, match=message):
            main(arguments)
        assert not (tmp_path / "out.npy").exists()
