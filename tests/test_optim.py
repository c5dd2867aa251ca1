"""Schedules by hand; optimizers against torch's own on the same gradients; groups; state that survives storage."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from configs import ConfigError, UserError
from model import LanguageModel, ModelConfig
from model.storage import decode_tensors, encode_tensors
from train.optim import Muon, Optimizer, OptimizerConfig, ScheduleConfig, parameter_groups

HEALTHY = torch.tensor(True)


def small_model(**changes) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(ModelConfig(vocab_size=50, context=16, width=16, layers=2, heads=2, **changes))


def with_gradients(model, seed):
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def test_warmup_and_each_schedule_by_hand():
    assert [ScheduleConfig("constant", 3).factor(s, 10) for s in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert ScheduleConfig("linear", 0).factor(5, 10) == pytest.approx(0.5)
    assert ScheduleConfig("linear", 0, floor=0.2).factor(5, 10) == pytest.approx(0.6)
    assert ScheduleConfig("cosine", 0).factor(5, 10) == pytest.approx(0.5)
    assert ScheduleConfig("cosine", 0).factor(2, 8) == pytest.approx(0.5 * (1 + 2**-0.5))
    wsd = ScheduleConfig("wsd", 0, decay=0.4)
    assert [wsd.factor(s, 10) for s in (0, 5, 6)] == [1, 1, 1]
    assert wsd.factor(8, 10) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "wsd"])
def test_factors_lie_between_floor_and_one_and_never_rise_after_warmup(kind):
    schedule = ScheduleConfig(kind, 7, floor=0.1)
    factors = [schedule.factor(step, 101) for step in range(101)]
    assert all(0 < f <= 1 for f in factors) and all(f >= 0.1 for f in factors[7:])
    assert factors[:8] == sorted(factors[:8])
    assert factors[7:] == sorted(factors[7:], reverse=True)


def test_every_parameter_is_in_exactly_one_group():
    model = small_model(position="learned", norm="layer", bias=True, tie=False)
    groups = parameter_groups(model)
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert "trunk.embedding.weight" in groups["matrices"] and "head.output.weight" in groups["matrices"]
    assert "trunk.blocks.0.attention.query.weight" in groups["hidden"]
    assert all(p.ndim == 1 for p in groups["vectors"].values())


def test_adamw_is_torchs_adamw_with_decay_on_matrices_only():
    ours, theirs = small_model(), small_model()
    optimizer = Optimizer(ours, OptimizerConfig("adamw", lr=0.01, weight_decay=0.3))
    matrices = [p for p in theirs.parameters() if p.ndim > 1]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    for seed in range(3):
        with_gradients(ours, seed), with_gradients(theirs, seed)
        optimizer.step(HEALTHY), reference.step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters()):
        torch.testing.assert_close(one, other, msg=name)


def test_muon_updates_hidden_matrices_orthogonally_and_the_rest_by_adamw():
    model, plain = with_gradients(small_model(init="gpt2"), 1), with_gradients(small_model(init="gpt2"), 1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    Optimizer(model, OptimizerConfig("muon", lr=0.01, weight_decay=0.0)).step(HEALTHY)
    Optimizer(plain, OptimizerConfig("adamw", lr=0.01, weight_decay=0.0)).step(HEALTHY)
    after = dict(model.named_parameters())
    name = "trunk.blocks.1.attention.key.weight"
    change = (after[name] - before[name]).detach()
    singular = torch.linalg.svdvals(change.float())
    assert singular.max() / singular.min() < 3, "an orthogonalised update has nearly equal singular values"
    assert change.pow(2).mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.3)  # the root mean square of an AdamW update
    for other in ("trunk.embedding.weight", "trunk.norm.weight"):
        torch.testing.assert_close(after[other], dict(plain.named_parameters())[other])


def test_muon_is_torchs_muon_to_the_bit():
    """Wide, tall and square matrices; two steps, so that there is momentum."""
    torch.manual_seed(1)
    shapes = [(24, 40), (40, 24), (16, 16), (1, 7)]
    ours, theirs = ([nn.Parameter(torch.randn(shape, generator=seeded())) for shape in shapes] for _ in range(2))
    options = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9}
    muon = Muon(ours, [p.shape for p in ours], **options)
    reference = torch.optim.Muon(theirs, **options, adjust_lr_fn="match_rms_adamw")
    for _ in range(2):
        for one, other in zip(ours, theirs):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        muon.step(), reference.step()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_survives_a_file_and_gives_the_same_next_step(kind):
    config = OptimizerConfig(kind, lr=0.01)
    one, other = small_model(), small_model()
    first = Optimizer(one, config)
    for seed in range(3):
        with_gradients(one, seed)
        first.step(HEALTHY)
    other.load_state_dict(one.state_dict())
    second = Optimizer(other, config)
    second.load_state_tensors(decode_tensors(encode_tensors(first.state_tensors())))
    for model, optimizer in ((one, first), (other, second)):
        with_gradients(model, 9)
        optimizer.set_lr(0.5)
        optimizer.step(HEALTHY)
    for (name, a), b in zip(one.named_parameters(), other.parameters()):
        assert torch.equal(a, b), name


def test_a_state_of_other_parameters_is_refused():
    with pytest.raises(ValueError, match="no parameter of this model"):
        Optimizer(small_model(), OptimizerConfig()).load_state_tensors({"stranger.weight/step": torch.zeros(())})


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_state_of_another_optimizer_or_shape_is_refused(kind):
    """The optimizer of a different model was resumed without an error (Megatron-LM#6920)."""
    model = small_model()
    with_gradients(model, 0)
    optimizer = Optimizer(model, OptimizerConfig(kind))
    optimizer.step(HEALTHY)
    state = optimizer.state_tensors()
    name = next(name for name in state if name.endswith(("exp_avg", "momentum_buffer")))
    renamed = {(key + "x" if key == name else key): value for key, value in state.items()}
    with pytest.raises(UserError, match="is that of another optimizer"):
        Optimizer(model, OptimizerConfig(kind)).load_state_tensors(renamed)
    with pytest.raises(UserError, match="unlike its parameter"):
        Optimizer(model, OptimizerConfig(kind)).load_state_tensors({**state, name: torch.zeros(2, 2, 2)})
    other = OptimizerConfig("muon" if kind == "adamw" else "adamw")
    with pytest.raises(UserError, match="is that of another optimizer"):
        Optimizer(model, other).load_state_tensors(state)


def test_set_lr_scales_all_peaks():
    optimizer = Optimizer(small_model(), OptimizerConfig("muon", lr=0.02, muon_factor=0.5))
    optimizer.set_lr(0.1)
    rates = [group["lr"] for part in optimizer.parts for group in part.param_groups]
    assert rates == pytest.approx([0.001, 0.002, 0.002])


def test_all_problems_of_a_configuration_are_reported():
    with pytest.raises(ConfigError) as error:
        OptimizerConfig(lr=-1, beta1=2, weight_decay=-3)
    assert len(error.value.problems) == 3
    with pytest.raises(ConfigError) as error:
        ScheduleConfig(warmup=-1, floor=2, decay=0)
    assert len(error.value.problems) == 3


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_an_unhealthy_step_changes_nothing(kind):
    model = with_gradients(small_model(), 1)
    optimizer = Optimizer(model, OptimizerConfig(kind, lr=0.01))
    optimizer.step(HEALTHY)
    weights = [p.detach().clone() for p in model.parameters()]
    state = {name: value.clone() for name, value in optimizer.state_tensors().items()}
    with_gradients(model, 2)
    optimizer.step(~HEALTHY)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters()))
    assert all(torch.equal(value, optimizer.state_tensors()[name]) for name, value in state.items())


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_an_unhealthy_step_changes_nothing_on_a_gpu(kind):
    """There the host does not read the verdict; the first step, which makes the state, is refused too."""
    model = with_gradients(small_model().cuda(), 1)
    optimizer, no = Optimizer(model, OptimizerConfig(kind, lr=0.01)), torch.tensor(False, device="cuda")
    weights = [p.detach().clone() for p in model.parameters()]
    optimizer.step(no)
    with_gradients(model, 2)
    model.trunk.embedding.weight.grad[0, 0] = torch.nan
    optimizer.step(no)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters()))
    assert all(float(v.abs().max()) == 0 for v in optimizer.state_tensors().values())
