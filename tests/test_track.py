"""Norms per layer, MFU and TensorBoard: right sums, no made-up peak, one sentence where the extra is missing."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types

import pytest
import torch

from configs import UserError
from model.count import training_flops
from tests.small import small_model
from train.distributed import Ranks
from train.track import GPUS, Tracker, figures, layer_norms, part_of, peak_flops, utilisation


@pytest.fixture
def gpu(monkeypatch):
    """Makes CUDA give a device of that name."""
    return lambda name: monkeypatch.setattr("torch.cuda.get_device_name", lambda device=None: name)


@pytest.mark.parametrize("head", ["language", "masked"])
def test_norms_are_those_of_the_layers(head):
    model = small_model(head, tie=False, norm="layer", bias=True)
    tokens = torch.randint(61, (2, 12))
    model(tokens).square().mean().backward()
    norms = layer_norms(model)
    parts = {"embedding", "blocks.0", "blocks.1", "norm", "head"}
    assert set(norms) == {f"{kind}.{part}" for kind in ("gradient", "weight") for part in parts}
    block = torch.cat([p.detach().flatten() for p in model.trunk.blocks[1].parameters()])
    assert norms["weight.blocks.1"] == pytest.approx(float(block.norm()), rel=1e-6)
    gradient = torch.cat([p.grad.flatten() for p in model.trunk.blocks[0].parameters()])
    assert norms["gradient.blocks.0"] == pytest.approx(float(gradient.norm()), rel=1e-6)
    whole = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    total = sum(value**2 for name, value in norms.items() if name.startswith("gradient")) ** 0.5
    assert total == pytest.approx(float(whole), rel=1e-6)


def test_without_gradients_there_are_weights_only():
    assert {name.partition(".")[0] for name in layer_norms(small_model())} == {"weight"}


def test_parts_have_short_names():
    assert part_of("trunk.blocks.11.attention.query.weight") == "blocks.11"
    assert part_of("trunk.embedding.weight") == "embedding"
    assert part_of("head.output.weight") == "head"


def test_a_peak_is_known_or_none(gpu):
    assert peak_flops(torch.device("cpu")) is None
    for known in GPUS.values():
        for name in known.devices:
            gpu(name)
            assert peak_flops(torch.device("cuda", 0)) == known.peak
    unknown = (
        "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H20", "NVIDIA H100",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb", "Tesla T4", "",
    )  # fmt: skip
    for name in unknown:
        gpu(name)
        assert peak_flops(torch.device("cuda", 0)) is None, name


def test_no_two_gpus_share_a_name():
    names = [name for known in GPUS.values() for name in known.devices]
    assert len(set(names)) == len(names)


def test_utilisation_is_demand_over_peak(gpu, monkeypatch):
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 3 * 2**29)
    model = small_model()
    ranks = Ranks(0, 4, 0, torch.device("cuda", 0))
    gpu("NVIDIA H100 80GB HBM3")
    expected = 1e9 * training_flops(model.config, 32) / (4 * 989e12)
    assert utilisation(model, 32, 1e9, ranks) == {"memory_gib": 1.5, "mfu": pytest.approx(expected)}
    gpu("some other card")
    assert utilisation(model, 32, 1e9, ranks) == {"memory_gib": 1.5}
    assert utilisation(model, 32, 1e9, Ranks()) == {}


def test_figures_are_the_numbers_of_a_record():
    record = {"kind": "train", "step": 3, "loss": 1.5, "samples": [1], "good": True, "count": 2}
    assert figures(record) == {"loss": 1.5, "count": 2}


# TensorBoard ---------------------------------------------------------------------------------------------------------


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'zhiling\[track\]'"):
        Tracker(tmp_path)


def test_records_are_mirrored_with_their_steps(tmp_path, monkeypatch):
    """Against a stand-in for the writer, so that this runs without TensorBoard."""
    written, options = [], {}

    class Writer:
        def __init__(self, folder, **given):
            options.update(given, folder=folder)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    spec = importlib.machinery.ModuleSpec("tensorboard", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    tracker = Tracker(tmp_path, step=7)
    tracker.log({"kind": "train", "step": 8, "loss": 2.0, "samples": [3]})
    tracker.log({"kind": "norms", "step": 8, "gradient.blocks.0": 0.5})
    tracker.close()
    assert options == {"folder": str(tmp_path / "tensorboard"), "purge_step": 8}
    assert written == [("train/loss", 2.0, 8), ("norms/gradient/blocks.0", 0.5, 8), "closed"]


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the [track] extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Tracker(tmp_path)
    for step in (1, 2, 3):
        tracker.log({"kind": "train", "step": step, "loss": 1 / step})
    tracker.close()
    again = Tracker(tmp_path, step=2)  # continued after step 2: what was said of step 3 is hidden
    again.log({"kind": "train", "step": 3, "loss": 9.0})
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5), (3, 9.0)]
