"""Adapters: nothing changes at first, merging is exact, a run goes on bit for bit, ranks agree, the gain is real."""

from __future__ import annotations

import json

import pytest
import torch

from configs import ConfigError, UserError, load
from model import LanguageModel
from model.heads import Classifier
from model.load import load_run, model_files
from model.lora import ADAPTERS, LoraConfig, adapted, add_lora, load_adapters, matching, merge, trainable, unmerge
from model.storage import decode_tensors, newest_intact
from tests.ranks import on_ranks
from tests.small import small_model
from tests.test_trainer import trainer_of
from train.distributed import Ranks
from train.run import read_metrics
from train.sft import SftConfig, build_trainer

WORDS = ("red", "seven", "horse", "plum")
TOKENS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])


def with_adapters(rank: int = 4, tie: bool = True, **settings) -> LanguageModel:
    """A model whose adapters have been trained, as it were."""
    model = small_model(tie=tie)
    torch.manual_seed(1)
    add_lora(model, LoraConfig(rank, **settings))
    for layer in adapted(model).values():
        torch.nn.init.normal_(layer.up, std=0.1)
    return model


# The layer ------------------------------------------------------------------------------------------------------------


def test_at_first_nothing_changes_and_only_adapters_train():
    plain, model = small_model(), small_model()
    add_lora(model, LoraConfig(3))
    assert torch.equal(model(TOKENS), plain(TOKENS))
    assert len(adapted(model)) == 2 * (4 + 2), "queries, keys, values, outputs and the feed-forward of two layers"
    training = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert training and all(name.endswith((".down", ".up")) for name in training)
    some, everything = trainable(model)
    extra = sum(3 * (layer.in_features + layer.out_features) for layer in adapted(model).values())
    assert (some, everything) == (extra, extra + sum(p.numel() for p in plain.parameters()))


def test_the_layer_is_its_formula_and_rank_zero_is_no_adapter():
    model = with_adapters(4, alpha=6, targets=("trunk.blocks.1.attention.key",))
    [(name, layer)] = adapted(model).items()
    x = torch.randn(5, layer.in_features)
    expected = x @ (layer.weight + 6 / 4 * layer.up @ layer.down).T
    torch.testing.assert_close(layer(x), expected)
    assert name == "trunk.blocks.1.attention.key"
    plain = small_model()
    add_lora(plain, LoraConfig())
    assert not adapted(plain) and all(p.requires_grad for p in plain.parameters())


@pytest.mark.parametrize("tie", [True, False])
def test_an_embedding_is_its_formula_and_so_is_the_output_that_is_tied_to_it(tie):
    targets = ("trunk.embedding",) if tie else ("trunk.embedding", "head.output")
    model, plain = with_adapters(4, alpha=6, targets=targets, tie=tie), small_model(tie=tie)
    assert [*adapted(model)] == [*targets]
    with torch.no_grad():
        for name, layer in adapted(model).items():
            plain.get_submodule(name).weight.add_(6 / 4 * layer.up @ layer.down)
    torch.testing.assert_close(model(TOKENS), plain(TOKENS), atol=1e-5, rtol=1e-5)
    places = (TOKENS.roll(-1, 1), torch.ones(TOKENS.shape))
    losses = [each.head.loss(each.trunk(TOKENS), *places) for each in (model, plain)]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
    for loss in losses:
        loss.backward()
    wanted = {name: plain.get_submodule(name).weight.grad for name in targets}
    for name, layer in adapted(model).items():  # of a tied one: the sum of what both its uses ask for
        torch.testing.assert_close(layer.up.grad, 6 / 4 * wanted[name] @ layer.down.T, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(layer.down.grad, 6 / 4 * layer.up.T @ wanted[name], atol=1e-5, rtol=1e-4)
        assert layer.weight.grad is None


@pytest.mark.parametrize("targets", [("trunk.blocks.*",), ("trunk.blocks.*", "trunk.embedding")])
def test_merged_is_unmerged_and_unmerging_gives_the_same_bits(targets):
    model = with_adapters(targets=targets)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    places = (TOKENS.roll(-1, 1), torch.ones(TOKENS.shape))
    apart, loss = model(TOKENS), model.head.loss(model.trunk(TOKENS), *places)
    merge(model)
    merge(model)
    torch.testing.assert_close(model(TOKENS), apart, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.head.loss(model.trunk(TOKENS), *places), loss, atol=1e-5, rtol=1e-5)
    weight = "trunk.blocks.0.attention.query.weight"
    assert not torch.equal(model.get_parameter(weight), before[weight])
    unmerge(model)
    unmerge(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert torch.equal(model(TOKENS), apart)


def test_dropout_acts_in_training_only():
    model = with_adapters(dropout=0.5)
    assert torch.equal(model(TOKENS), model(TOKENS))
    model.train()
    assert not torch.equal(model(TOKENS), model(TOKENS))


def test_a_new_head_is_trained_whole():
    model = Classifier(small_model().config, ["a", "b"], False)
    add_lora(model, LoraConfig(2))
    training = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in training if name.startswith("head")}
    assert not any(name.startswith("trunk") and not name.endswith((".down", ".up")) for name in training)


def test_wrong_targets_are_one_sentence():
    for targets, text in (
        (("trunk.blocks.*.querry",), r"'trunk.blocks.\*.querry' names nothing in this model; near are .*query"),
        (("head.output",), "head.output"),
    ):
        model = small_model()
        with pytest.raises(UserError, match=text):
            add_lora(model, LoraConfig(2, targets=targets))
        assert not adapted(model) and all(p.requires_grad for p in model.parameters()), "nothing was changed"
    with pytest.raises(UserError, match="is above 24, the smaller side of"):
        add_lora(small_model(), LoraConfig(25))
    assert matching(("b*",), ["bc", "a", "b"], "x") == ["bc", "b"]
    for wrong in ({"rank": -1}, {"rank": 2, "alpha": 0}, {"dropout": 1.0}, {"rank": 1, "targets": ()}):
        with pytest.raises(ConfigError):
            LoraConfig(**wrong)


# Runs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    trainer_of(folder, "model.context=64", "train.steps=4").fit()
    return folder / "run"


def write_chats(path, words):
    rows = [{"instruction": f"Name {i}, {key}.", "output": word} for i in range(30) for key, word in enumerate(words)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    return write_chats(tmp_path_factory.mktemp("data") / "chats.jsonl", WORDS)


def sft_trainer(pretrained, chats, folder, *overrides, ranks=None):
    settings = [
        f"run={folder}", f"init={pretrained}", f"data.paths=['{chats}']", "data.validation=0.2", "answer_tokens=6",
        "lora.rank=4", "train.steps=12", "train.batch_size=4", "train.precision=float32", "train.compile=off",
        "train.threads=1", "train.log_every=1", "train.evaluate_every=0", "train.save_every=6", "optimizer.lr=0.01",
    ]  # fmt: skip
    return build_trainer(load(SftConfig, "configs/demo/sft.toml", [*settings, *overrides]), ranks or Ranks())


def test_a_run_goes_on_bit_for_bit_and_its_model_serves_as_any_other(pretrained, chats, tmp_path, capsys):
    adapters = ("lora.dropout=0.1", "lora.targets=['trunk.blocks.*', 'trunk.embedding']")
    whole = sft_trainer(pretrained, chats, tmp_path / "whole", *adapters)
    assert "parameters train" in capsys.readouterr().out
    whole.fit()
    broken = sft_trainer(pretrained, chats, tmp_path / "broken", *adapters)
    while broken.state.step < 5:
        broken.step()
    broken.save()
    broken.saver.finish()
    continued = sft_trainer(pretrained, chats, tmp_path / "broken", *adapters)
    assert continued.state.step == 5
    continued.fit()
    one, other = (newest_intact(tmp_path / name)[1] for name in ("whole", "broken"))
    assert all(one[name] == other[name] for name in ("model.safetensors", ADAPTERS, "optimizer.safetensors"))
    [record] = [r for r in read_metrics(tmp_path / "broken") if r["kind"] == "parameters"]
    assert (record["trainable"], record["all"]) == trainable(whole.model)
    assert {name.rpartition("/")[0] for name in decode_tensors(one["optimizer.safetensors"])} == {
        name for name, p in whole.model.named_parameters() if p.requires_grad
    }, "what is frozen has no state"
    assert all(p.grad is None for p in whole.model.parameters() if not p.requires_grad)

    merged, base = load_run(tmp_path / "whole").model, load_run(pretrained).model
    untouched = base(TOKENS)
    load_adapters(base, tmp_path / "whole")
    torch.testing.assert_close(base(TOKENS), merged(TOKENS), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(merged(TOKENS), untouched, atol=1e-3)
    with pytest.raises(UserError, match="belong to another model"):
        load_adapters(load_run(tmp_path / "whole").model, tmp_path / "whole")
    with pytest.raises(UserError, match="holds no adapters"):
        load_adapters(load_run(pretrained).model, pretrained)


def test_a_base_that_has_changed_is_refused(pretrained, chats, tmp_path):
    trainer = sft_trainer(pretrained, chats, tmp_path / "run", "train.steps=1")
    trainer.fit()
    with torch.no_grad():
        trainer.model.trunk.embedding.weight.add_(1)
    before = model_files(trainer.model, load_run(pretrained).tokenizer, load_run(pretrained).chat)
    assert trainer.model.lora_notes["base_sha256"] in before["adapters.json"].decode()
    trainer.model.lora_notes["base_sha256"] = "another"
    with pytest.raises(UserError, match=r"adapters\.json is not that of this run"):
        trainer.resume()


def test_wrong_settings_write_nothing(pretrained, chats, tmp_path):
    for override, text in (
        ("lora.targets=['nothing']", "lora.targets"),
        ("optimizer.frozen=['x']", "optimizer.frozen"),
    ):
        with pytest.raises(UserError, match=f"^{text}: .* near are"):
            sft_trainer(pretrained, chats, tmp_path / "run", override)
    with pytest.raises(UserError, match="leaves nothing to train"):
        sft_trainer(pretrained, chats, tmp_path / "run", "optimizer.frozen=['*']")
    assert not (tmp_path / "run").exists()


def losses_on(ranks, pretrained, chats, folder):
    trainer = sft_trainer(pretrained, chats, folder, "train.steps=4", "train.save_every=0", ranks=ranks)
    return [trainer.step()["loss"] for _ in range(4)]


def test_two_ranks_are_one(pretrained, chats, tmp_path):
    one = losses_on(Ranks(), pretrained, chats, tmp_path / "one")
    for found in on_ranks(2, losses_on, pretrained, chats, tmp_path / "two"):
        assert found == pytest.approx(one, rel=1e-5)


def test_the_gain_is_a_real_one(pretrained, chats, tmp_path):
    """Adapters against the whole model: a base that knows the words learns to answer the same questions otherwise."""
    known = ("lora.rank=0", "train.steps=100", "train.save_every=0")
    sft_trainer(pretrained, chats, tmp_path / "base", *known).fit()
    others = write_chats(tmp_path / "others.jsonl", WORDS[::-1])
    found = {}
    for name, *overrides in (("full", "lora.rank=0"), ("lora", "lora.rank=8", "lora.alpha=32")):
        trainer = sft_trainer(tmp_path / "base", others, tmp_path / name, "train.steps=100", *overrides)
        before = trainer.evaluate()
        while trainer.state.step < 100:
            trainer.step()
        after = trainer.evaluate()
        assert before["accuracy"] == 0 and after["accuracy"] > 0.9, name
        found[name] = before["loss"] - after["loss"]
    assert found["full"] > 1
    assert found["lora"] > 0.95 * found["full"], found
