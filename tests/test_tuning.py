"""Frozen parts and layer-wise learning rates, against references written out by hand."""

from __future__ import annotations

import pytest
import torch

from configs import ConfigError, UserError
from model import LanguageModel
from tests.small import small_model
from tests.test_trainer import trainer_of
from train.optim import Muon, Optimizer, OptimizerConfig, freeze, layers_above

HEALTHY = torch.tensor(True)


def gradients_of(model: LanguageModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) if parameter.requires_grad else None


def test_how_many_layers_lie_above():
    above = {
        "head.output.weight": 0, "trunk.norm.weight": 0, "trunk.blocks.2.attention.query.weight": 1,
        "trunk.blocks.0.feed_forward.input.bias": 3, "trunk.embedding.weight": 4, "trunk.position.weight": 4,
        "trunk.embedding_norm.weight": 4,
    }  # fmt: skip
    assert {name: layers_above(name, 3) for name in above} == above


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_rates_fall_from_layer_to_layer(kind):
    """The reference: an optimizer for each parameter alone, with the rate that the formula gives."""
    ours, theirs = small_model(tie=False), small_model(tie=False)
    optimizer = Optimizer(ours, OptimizerConfig(kind, lr=0.02, layer_decay=0.5, weight_decay=0.1))
    references = []
    for name, p in theirs.named_parameters():
        place = name.split(".")
        above = 2 - int(place[2]) if place[1] == "blocks" else 3 if place[1] == "embedding" else 0
        lr = 0.02 * 0.5**above
        if kind == "muon" and place[1] == "blocks" and p.ndim > 1:
            references.append((Muon([p], [p.shape], lr, 0.1, 0.95), lr))
        else:
            decay = 0.1 if p.ndim > 1 else 0.0
            references.append((torch.optim.AdamW([p], lr, (0.9, 0.95), 1e-8, weight_decay=decay), lr))
    for step, factor in enumerate((1.0, 0.25, 0.5)):
        for model in (ours, theirs):
            gradients_of(model, step)
        optimizer.set_lr(factor)
        optimizer.step(HEALTHY)
        for reference, lr in references:
            reference.param_groups[0]["lr"] = lr * factor
            reference.step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters()):
        torch.testing.assert_close(one, other, msg=name, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("pattern", ["trunk.blocks.0.*", "trunk.blocks.*", "*norm*", "[!h]*"])
def test_what_is_frozen_has_no_gradient_no_state_and_its_old_value(kind, pattern):
    model = small_model(tie=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    freeze(model, (pattern,))
    optimizer = Optimizer(model, OptimizerConfig(kind, lr=0.1))
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.arange(12).view(2, 6)).square().sum().backward()
        optimizer.step(HEALTHY)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen and len(frozen) < len(before)
    assert {name.rpartition("/")[0] for name in optimizer.state_tensors()} == before.keys() - frozen
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (name in frozen), name
        assert (p.grad is None) == (name in frozen), name


def test_wrong_settings_are_one_sentence():
    with pytest.raises(UserError, match=r"^optimizer.frozen: 'trunk.block.\*' names nothing .* near are trunk.blocks"):
        freeze(small_model(), ("trunk.embedding*", "trunk.block.*"))
    with pytest.raises(UserError, match="leaves nothing to train"):
        freeze(small_model(), ("*",))
    for wrong in (0.0, 1.5, -1):
        with pytest.raises(ConfigError, match="layer_decay must be above 0 and at most 1"):
            OptimizerConfig(layer_decay=wrong)


def test_a_stage_trains_a_part_and_goes_on_bit_for_bit(tmp_path, capsys):
    settings = ("optimizer.frozen=['trunk.embedding*', 'trunk.blocks.0.*']", "optimizer.layer_decay=0.8")
    whole = trainer_of(tmp_path, *settings)
    first = {name: p.detach().clone() for name, p in whole.model.named_parameters()}
    assert "parameters train" in capsys.readouterr().out
    whole.fit()
    for name, p in whole.model.named_parameters():
        assert torch.equal(p, first[name]) == name.startswith(("trunk.embedding", "trunk.blocks.0.")), name
    (tmp_path / "run").rename(tmp_path / "whole")
    broken = trainer_of(tmp_path, *settings)
    while broken.state.step < 3:
        broken.step()
    broken.save()
    broken.saver.finish()
    continued = trainer_of(tmp_path, *settings)
    assert continued.state.step == 3
    continued.fit()
    for (name, one), other in zip(whole.model.named_parameters(), continued.model.parameters()):
        assert torch.equal(one, other), name
