"""Preparing data: written once, found again, new when anything that matters has changed, harmless when raced."""

import dataclasses
import os
import platform
import threading
from pathlib import Path

import pytest

from configs import UserError, load
from data import prepare as prepare_module
from data.corpus import CorpusConfig
from data.prepare import DataConfig, ExtraText, describe, fingerprint, prepare
from data.shards import SplitConfig, split_document, write_shards
from data.tokenizer import Tokenizer, TokenizerConfig
from tests.small import invented_texts


@pytest.fixture
def config(tmp_path) -> DataConfig:
    folder = tmp_path / "text"
    folder.mkdir()
    for number, text in enumerate(invented_texts(60)):
        (folder / f"{number}.txt").write_text(text, "utf-8")
    return DataConfig(
        folder=str(tmp_path / "data"),
        corpus=CorpusConfig((str(folder),)),
        split=SplitConfig(0.2),
        tokenizer=TokenizerConfig(vocab_size=400),
    )


def folders(config: DataConfig) -> list[str]:
    return sorted(os.listdir(config.folder))


def test_prepared_data_is_complete_and_used_again(config, monkeypatch):
    data = prepare(config)
    stream = data.stream("train")
    assert data.tokenizer.decode(stream.read(0, stream.tokens)) != ""
    assert data.folder.name == fingerprint(config) and folders(config) == [data.folder.name]
    assert describe(data).startswith(f"train: {stream.documents} documents, {stream.tokens:,} tokens, ")
    monkeypatch.setattr(prepare_module, "_write", lambda *_: pytest.fail("written again"))
    assert prepare(config).manifest == data.manifest


def test_fingerprint_follows_everything_that_matters(config):
    """Each changed setting and each changed file gives a new one; the folder above does not."""
    text = Path(config.corpus.paths[0], "0.txt")
    replace = dataclasses.replace
    variants = [
        config,
        replace(config, split=SplitConfig(0.3)),
        replace(config, split=SplitConfig(0.2, by="tail")),
        replace(config, tokenizer=TokenizerConfig(vocab_size=401)),
        replace(config, corpus=CorpusConfig((str(text),))),
        replace(config, corpus=CorpusConfig(config.corpus.paths, text_field="other")),
        replace(config, tokenizer_model=str(text)),
        replace(config, corpus=CorpusConfig()),
    ]
    found = [fingerprint(variant) for variant in variants]
    found.append(fingerprint(config, ExtraText("extra", list)))
    os.utime(text, (1, 1))
    found.append(fingerprint(config))
    text.with_name("new.txt").write_text("more", "utf-8")
    found.append(fingerprint(config))
    assert len(set(found)) == len(found)
    assert fingerprint(replace(config, folder="elsewhere")) == fingerprint(config)


def test_fingerprint_follows_the_python_whose_documentation_is_read(config, monkeypatch):
    """Also where only the tokenizer sees it, and where an existing tokenizer is named; files alone do not follow it."""
    builtin = dataclasses.replace(config, corpus=CorpusConfig())
    named = dataclasses.replace(builtin, tokenizer_model=__file__)
    extra = ExtraText("instructions", list)
    prints = lambda: [fingerprint(builtin), fingerprint(named), fingerprint(config, extra), fingerprint(config)]
    before = prints()
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.0")
    assert [one == two for one, two in zip(before, prints())] == [False, False, False, True]


def test_tokenizer_sees_the_training_split_and_the_extra_text_only(config, monkeypatch):
    seen = []

    original = Tokenizer.train
    monkeypatch.setattr(Tokenizer, "train", lambda texts, c, p: original((seen.append(t) or t for t in texts), c, p))
    prepare(config, ExtraText("extra", lambda: ["extra one", "extra two"]))
    parts = [part for d in prepare_module.documents(config.corpus) for part in split_document(d, config.split)]
    assert seen == [*(text for split, text in parts if split == "train"), "extra one", "extra two"]
    assert len(seen) < 60


def test_named_tokenizer_is_used(config, tmp_path, small_tokenizer):
    small_tokenizer.save(tmp_path / "t.model")
    data = prepare(dataclasses.replace(config, tokenizer_model=str(tmp_path / "t.model")))
    assert data.tokenizer.sha256 == small_tokenizer.sha256


def test_other_ranks_wait_for_the_writer(config):
    found = []
    waiting = threading.Thread(target=lambda: found.append(prepare(config, writes=False)))
    waiting.start()
    written = prepare(config)
    waiting.join(timeout=30)
    assert found[0].manifest == written.manifest


def test_waiting_ends(config, monkeypatch):
    monkeypatch.setattr(prepare_module, "WAIT_SECONDS", 0.1)
    with pytest.raises(UserError, match=r"waited .* which the first rank should have written"):
        prepare(config, writes=False)


def test_of_two_machines_the_first_wins(config, monkeypatch):
    """Both find no folder and write; the second one to finish takes what is there."""

    def slower(*arguments, **options):
        monkeypatch.setattr(prepare_module, "write_shards", write_shards)
        prepare(config)
        inodes.append(Path(config.folder, fingerprint(config)).stat().st_ino)
        write_shards(*arguments, **options)

    inodes = []
    monkeypatch.setattr(prepare_module, "write_shards", slower)
    data = prepare(config)
    assert folders(config) == [data.folder.name] and data.folder.stat().st_ino == inodes[0]


def test_damage_is_one_sentence(config, small_tokenizer):
    data = prepare(config)
    small_tokenizer.save(data.folder / "tokenizer.model")
    with pytest.raises(UserError, match=r"tokenizer.model is not the tokenizer of these shards; delete"):
        prepare(config)
    (data.folder / "manifest.json").unlink()
    with pytest.raises(UserError, match="no whole folder of token shards"):
        prepare(config)


def test_a_missing_path_is_one_sentence(config):
    with pytest.raises(UserError, match="there is no file or folder nowhere; correct the path"):
        prepare(dataclasses.replace(config, corpus=CorpusConfig(("nowhere",))))


def test_nothing_stays_when_the_text_does_not_suffice(config):
    with pytest.raises(UserError):
        prepare(dataclasses.replace(config, tokenizer=TokenizerConfig(vocab_size=60_000)))
    assert not os.path.exists(config.folder) or folders(config) == []


def test_empty_folder_name_is_refused():
    with pytest.raises(UserError, match="folder must not be empty"):
        load(DataConfig, None, ["folder="])


def test_a_flipped_bit_in_the_shards_is_found_by_the_rank_that_writes(config):
    folder = prepare(config).folder
    path = folder / "train-00000.tokens"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"train-00000.tokens is missing or damaged; delete the folder"):
        prepare(config)
