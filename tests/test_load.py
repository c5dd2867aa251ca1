"""Loading: weights, tokenizer and chat format come back together, or one sentence says what does not fit."""

import hashlib
import json
import os
import pickle

import pytest
import torch

from configs import UserError
from data.chat import ChatFormat
from data.tokenizer import Tokenizer, TokenizerConfig
from model.load import CHAT, DESCRIPTION, TOKENIZER, WEIGHTS, load_run, load_weights, model_files
from model.storage import checkpoint_folder, decode_tensors, encode_tensors, write_folder
from tests.small import invented_texts, small_model
from tests.test_model import every_architecture

TOKENS = torch.arange(12)[None]


def build(tokenizer, head="language", **switches):
    return small_model(head, vocab_size=tokenizer.vocab_size, **switches)


def save(run, model, tokenizer, step: int = 10, chat: ChatFormat | None = None, **changed: bytes):
    """A checkpoint with some files replaced."""
    files = model_files(model, tokenizer, chat or ChatFormat())
    assert changed.keys() <= files.keys()
    write_folder(checkpoint_folder(run, step), files | changed)


@pytest.mark.parametrize("head", ["language", "masked"])
@every_architecture
def test_a_model_comes_back(switches, head, tmp_path, small_tokenizer):
    """The same logits, bit for bit, in evaluation mode; tokenizer and chat format with it."""
    model = build(small_tokenizer, head, **switches)
    save(tmp_path, model, small_tokenizer, chat=ChatFormat(prompt_weight=0.5, system="Be brief."))
    loaded = load_run(tmp_path)
    assert torch.equal(loaded.model(TOKENS), model(TOKENS)) and not loaded.model.training
    assert loaded.model.config == model.config and loaded.model.head_name == head
    assert loaded.tokenizer.sha256 == small_tokenizer.sha256
    assert loaded.chat == ChatFormat(prompt_weight=0.5, system="Be brief.")
    tied = loaded.model.head.output.weight is loaded.model.trunk.embedding.weight
    assert tied == model.config.tie


def test_a_run_gives_its_newest_checkpoint_and_a_checkpoint_itself(tmp_path, small_tokenizer, capsys):
    models = {}
    for step in (10, 20):
        models[step] = build(small_tokenizer)
        models[step].trunk.embedding.weight.data += step
        save(tmp_path, models[step], small_tokenizer, step)
    assert load_run(tmp_path).folder == checkpoint_folder(tmp_path, 20)
    older = load_run(checkpoint_folder(tmp_path, 10))
    assert torch.equal(older.model(TOKENS), models[10](TOKENS))
    (checkpoint_folder(tmp_path, 20) / WEIGHTS).write_bytes(b"")
    assert load_run(tmp_path).folder == checkpoint_folder(tmp_path, 10)
    assert f"step-00000020/{WEIGHTS} is damaged" in capsys.readouterr().err
    with pytest.raises(UserError, match="is damaged: its hash is not that of the manifest"):
        load_run(checkpoint_folder(tmp_path, 20))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@every_architecture
def test_other_precisions(switches, dtype, tmp_path, small_tokenizer):
    """Parameters and activations in the dtype asked for; the outcome is close to float32."""
    model = build(small_tokenizer, **switches)
    save(tmp_path, model, small_tokenizer)
    loaded = load_run(tmp_path, dtype=dtype).model
    assert all(parameter.dtype == dtype for parameter in loaded.parameters())
    assert loaded.trunk(TOKENS).dtype == dtype
    exact = model(TOKENS)
    assert (loaded(TOKENS) - exact).norm() < 0.1 * exact.norm()


def test_nothing_to_load_is_one_sentence(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"there is no checkpoint in .*; give the folder of a run that has trained"):
            load_run(folder)


def test_unknown_devices_are_one_sentence(tmp_path):
    for device in ("gpu", "cuda:99", "xla"):
        with pytest.raises(UserError, match=f"this PyTorch finds no device '{device}' here; use cpu"):
            load_run(tmp_path, device)


# Another architecture ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switches", "difference"),
    [
        ({"layers": 3}, "the checkpoint lacks trunk.blocks.2.attention.key.weight"),
        ({"layers": 1}, "the model has no trunk.blocks.1.attention.key.weight"),
        ({"width": 30}, r"trunk.embedding.weight is \(420, 24\) there and \(420, 30\) here"),
        ({"position": "learned"}, "the checkpoint lacks trunk.position.weight"),
        ({"tie": False}, "the checkpoint lacks head.output.weight"),
        ({"head": "masked"}, "the checkpoint lacks head.transform.0.bias"),
    ],
    ids=str,
)
def test_weights_of_another_architecture_are_one_sentence(small_tokenizer, switches, difference):
    """It names the first difference, and nothing has been changed."""
    tensors = decode_tensors(model_files(build(small_tokenizer), small_tokenizer, ChatFormat())[WEIGHTS])
    other = build(small_tokenizer, **switches)
    before = {name: parameter.clone() for name, parameter in other.named_parameters()}
    with pytest.raises(UserError, match=f"run/step holds another architecture: {difference}"):
        load_weights(other, tensors, "run/step")
    assert all(torch.equal(parameter, before[name]) for name, parameter in other.named_parameters())


def test_a_checkpoint_whose_parts_do_not_fit_is_one_sentence(tmp_path, small_tokenizer):
    """Weights of another model under a description that is fine."""
    other = model_files(build(small_tokenizer, layers=3), small_tokenizer, ChatFormat())
    save(tmp_path, build(small_tokenizer), small_tokenizer, **{WEIGHTS: other[WEIGHTS]})
    with pytest.raises(UserError, match=r"step-00000010 holds another architecture: the model has no trunk.blocks.2"):
        load_run(tmp_path)


def test_another_tokenizer_is_one_sentence(tmp_path, small_tokenizer):
    """Also one of equal size: ids would mean something else."""
    other = Tokenizer.train(invented_texts(70, seed=1), TokenizerConfig(vocab_size=420))
    save(tmp_path, build(small_tokenizer), small_tokenizer, **{TOKENIZER: other.model_bytes})
    with pytest.raises(UserError, match=r"the tokenizer in .* is not the one that its model was trained with"):
        load_run(tmp_path)


def description_of(model, tokenizer, **changes) -> bytes:
    return json.dumps(json.loads(model_files(model, tokenizer, ChatFormat())[DESCRIPTION]) | changes).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "classifier"},
        {"head": ["language"]},
        {"config": {"widht": 3}},
        {"config": {"width": "wide"}},
        {"config": 3},
    ],
    ids=str,
)
def test_descriptions_of_another_version_are_one_sentence(tmp_path, small_tokenizer, changes):
    model = build(small_tokenizer)
    changed = description_of(model, small_tokenizer, **changes)
    save(tmp_path, model, small_tokenizer, **{DESCRIPTION: changed})
    with pytest.raises(UserError, match=r"model.json does not describe a model of this version \("):
        load_run(tmp_path)


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff", b'{"head": "language"}', b"null"], ids=str)
def test_descriptions_that_are_none_are_one_sentence(tmp_path, small_tokenizer, raw):
    for name in (DESCRIPTION, CHAT):
        if name == CHAT and raw == b'{"head": "language"}':
            continue
        save(tmp_path, build(small_tokenizer), small_tokenizer, **{name: raw})
        with pytest.raises(UserError, match="does not describe a model of this version"):
            load_run(tmp_path)


# Nothing is executed -------------------------------------------------------------------------------------------------


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_place_of_a_checkpoint_is_never_executed(tmp_path, small_tokenizer):
    """In place of any of its files, in a folder whose hashes are right, and of the whole folder."""
    raw = pickle.dumps(Trap(tmp_path / "sprung"))
    for name in (WEIGHTS, DESCRIPTION, TOKENIZER, CHAT):
        save(tmp_path, build(small_tokenizer), small_tokenizer, **{name: raw})
        with pytest.raises(UserError):
            load_run(tmp_path)
    manifest = checkpoint_folder(tmp_path, 10) / "manifest.json"
    assert json.loads(manifest.read_text("utf-8"))[CHAT]["sha256"] == hashlib.sha256(raw).hexdigest()
    manifest.write_bytes(raw)
    with pytest.raises(UserError):
        load_run(tmp_path)
    (tmp_path / "model.pt").write_bytes(raw)
    with pytest.raises(UserError):
        load_run(tmp_path / "model.pt")
    assert not (tmp_path / "sprung").exists()


def test_only_parameters_are_stored(small_tokenizer):
    """Tied weights once; as many numbers as the model has."""
    model = build(small_tokenizer)
    tensors = decode_tensors(model_files(model, small_tokenizer, ChatFormat())[WEIGHTS])
    assert sum(tensor.numel() for tensor in tensors.values()) == sum(p.numel() for p in model.parameters())
    assert encode_tensors(tensors) == model_files(model, small_tokenizer, ChatFormat())[WEIGHTS]
