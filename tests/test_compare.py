"""Comparing runs: the first difference is found, whatever it is in, and nothing but a difference is one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError, load
from model.storage import checkpoint_folder, encode_tensors, write_folder
from tests.test_watch import exit_status, train, write_run
from tests.tiny import tiny_overrides
from train.compare import bits_apart, compare_tensors, main
from train.distributed import Ranks
from train.pretrain import PretrainConfig, build_trainer

ROOT = Path(__file__).parent.parent
CONFIG = 'run = "{run}"\nseed = {seed}\n[train]\nlog_every = 1\nsteps = 5\n'


def make_run(folder: Path, records: list[dict], seed: int = 0, checkpoints: dict[int, dict] | None = None) -> str:
    write_run(folder, records)
    (folder / "config.toml").write_text(CONFIG.format(run=folder, seed=seed), "utf-8")
    for step, tensors in (checkpoints or {}).items():
        files = {"model.safetensors": tensors, "optimizer.safetensors": {"w/step": torch.tensor(float(step))}}
        write_folder(checkpoint_folder(folder, step), {name: encode_tensors(t) for name, t in files.items()})
    return str(folder)


def falling(steps: int = 5, **changed) -> list[dict]:
    return [train(step, 6 - step / 10) for step in range(1, steps + 1)]


def compare(capsys, *arguments: str) -> tuple[int, str]:
    code = main(list(arguments))
    return code, capsys.readouterr().out


# Figures -------------------------------------------------------------------------------------------------------------


def test_equal_runs_are_identical_whatever_the_time_they_took(tmp_path, capsys):
    one = make_run(tmp_path / "a", falling())
    other = make_run(tmp_path / "b", [record | {"tokens_per_second": 7.0, "mfu": 0.1} for record in falling()])
    code, text = compare(capsys, one, other)
    assert code == 0
    assert "every figure is identical" in text and "no setting differs" in text and "5 records of steps 1 to 5" in text


def test_the_first_difference_is_named_with_its_size(tmp_path, capsys):
    records = falling()
    records[2] |= {"loss": records[2]["loss"] + 0.25, "gradient_norm": 1.5}
    records[3] |= {"loss": 0.0}
    code, text = compare(capsys, make_run(tmp_path / "a", falling()), make_run(tmp_path / "b", records))
    assert code == 1
    assert "first difference is at step 3" in text
    assert "train: loss 5.7 and 5.95 (by 0.25)" in text and "train: gradient_norm 1.0 and 1.5 (by 0.5)" in text
    assert text.count("loss") == 1


def test_the_smallest_difference_is_one(tmp_path, capsys):
    records = falling()
    records[4]["loss"] = math.nextafter(records[4]["loss"], 9)
    code, text = compare(capsys, make_run(tmp_path / "a", falling()), make_run(tmp_path / "b", records))
    assert code == 1 and "step 5" in text and "(by 8.88e-16)" in text


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda r: r[:2] + r[3:], 0, "every figure is identical"),  # logged more rarely
        (lambda r: r[:3], 1, "run A ends at step 5, run B at step 3"),
        (lambda r: [*r, {"kind": "skipped", "step": 4, "samples": [1]}], 1, "only run B skipped the step"),
        (lambda r: [*r, {"kind": "evaluation", "step": 4, "loss": 1.0}], 0, "every figure is identical"),
        (lambda r: [*r[:4], {**r[4], "extra": 3}], 1, "extra 'nothing' and 3"),
        (lambda r: [{**r[0], "loss": math.nan}, *r[1:]], 1, "loss 5.9 and nan (by nan)"),
    ],
)
def test_what_counts_as_a_difference(tmp_path, capsys, change, code, said):
    one, other = make_run(tmp_path / "a", falling()), make_run(tmp_path / "b", change(falling()))
    found, text = compare(capsys, one, other)
    assert (found, said in text) == (code, True), text


def test_nan_equals_nan(tmp_path, capsys):
    runs = [make_run(tmp_path / name, [train(1, math.nan), train(2, 1.0)]) for name in "ab"]
    assert compare(capsys, *runs)[0] == 0


def test_a_skipped_step_of_both_is_compared_by_its_samples(tmp_path, capsys):
    runs = [
        make_run(tmp_path / name, [*falling(), {"kind": "skipped", "step": 2, "samples": [1, last]}])
        for name, last in (("a", 2), ("b", 3))
    ]
    code, text = compare(capsys, *runs)
    assert code == 1 and "skipped: samples [1, 2] and [1, 3]" in text


def test_settings_that_differ_are_told_but_are_no_difference(tmp_path, capsys):
    one, other = make_run(tmp_path / "a", falling()), make_run(tmp_path / "b", falling(), seed=7)
    code, text = compare(capsys, one, other)
    assert code == 0
    assert "settings that differ: 1" in text and "seed: 0 and 7" in text and "run:" not in text


# Tensors -------------------------------------------------------------------------------------------------------------


def test_tensors_that_differ_are_named_with_size_and_bits(tmp_path, capsys):
    same = {"w": torch.ones(4), "v": torch.arange(3.0)}
    other = {"w": torch.tensor([1.0, 1.0, torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)), 1.0]), "v": same["v"]}
    runs = [
        make_run(tmp_path / name, falling(), checkpoints={2: same, 4: tensors, 5 + place: same, 8: same})
        for place, (name, tensors) in enumerate({"a": same, "b": other}.items())
    ]
    assert compare(capsys, *runs)[0] == 0
    code, text = compare(capsys, *runs, "--checkpoints")
    assert code == 1
    assert "step-00000002: all 3 tensors are identical" in text and "step-00000004: 1 of 3 tensors differ" in text
    assert "model/w: 1 of 4 numbers, by at most 1.19e-07 (1 bit)" in text
    assert "model/v" not in text and "step-00000005" not in text


def test_missing_tensors_and_other_shapes_are_named(tmp_path, capsys):
    runs = [
        make_run(tmp_path / "a", falling(), checkpoints={2: {"w": torch.ones(4), "only": torch.ones(1)}}),
        make_run(tmp_path / "b", falling(), checkpoints={2: {"w": torch.ones(2, 2), "new": torch.ones(1)}}),
    ]
    code, text = compare(capsys, *runs, "--checkpoints")
    assert code == 1 and "float32 (4,) and float32 (2, 2)" in text
    assert "model/only: only in run A" in text and "model/new: only in run B" in text


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_neighbours_are_one_bit_apart(dtype):
    one = torch.tensor([1.0, -1.0, 0.5, -3.0], dtype=dtype)
    other = torch.nextafter(one, torch.full_like(one, 10))
    assert bits_apart(one, other) == bits_apart(other, one) == 1
    assert compare_tensors(one, one.clone()) is None
    assert compare_tensors(one, other).startswith("4 of 4 numbers")
    tiny = torch.nextafter(torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype))
    assert bits_apart(-tiny, tiny) == 2  # two steps, over zero
    assert bits_apart(torch.tensor([-torch.inf], dtype=dtype), torch.tensor([torch.inf], dtype=dtype)) > 8
    assert "by at most 0 (0 bits)" in compare_tensors(torch.zeros(1, dtype=dtype), -torch.zeros(1, dtype=dtype))


@given(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False))
def test_bits_agree_with_counting_steps(a, b):
    one, other = torch.tensor([a]), torch.tensor([b])
    bits = bits_apart(one, other)
    assert bits == bits_apart(other, one) and (bits == 0) == (a == b)
    step = torch.nextafter(one, other)
    if bits > 1:
        assert bits_apart(step, other) in (bits, bits - 1)


def test_integers_and_booleans_are_compared():
    assert compare_tensors(torch.tensor([1, 2]), torch.tensor([1, 5])) == "1 of 2 numbers, by at most 3 (2 bits)"
    assert compare_tensors(torch.tensor([True]), torch.tensor([True])) is None
    assert compare_tensors(torch.tensor([True]), torch.tensor([False])) == "1 of 1 numbers, by at most 1 (1 bit)"
    assert compare_tensors(torch.zeros(0), torch.zeros(0)) is None


def test_two_real_runs(tmp_path, capsys):
    """The same run twice is the same run; another seed differs from the first step on."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        overrides = [*tiny_overrides(tmp_path / name), f"seed={seed}", "train.steps=4"]
        build_trainer(load(PretrainConfig, ROOT / "configs/demo/pretrain.toml", overrides), Ranks()).fit()
    capsys.readouterr()
    runs = [str(tmp_path / name / "run") for name in "abc"]
    code, text = compare(capsys, runs[0], runs[1], "--checkpoints")
    assert code == 0 and text.count("tensors are identical") == 2
    code, text = compare(capsys, runs[0], runs[2], "--checkpoints")
    assert code == 1 and "first difference is at step 1" in text and "seed: 0 and 1" in text


# Wrong input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a", "nowhere"], "there is no .*nowhere"),
        (["a", "apart"], "no step in common"),
        (["a", "unset"], "there is no configuration"),
        (["a", "b", "--checkpoints"], "no checkpoint of the same step, they have step-00000001 and none"),
        (["a", "damaged", "--checkpoints"], "is damaged"),
    ],
)
def test_wrong_input_is_one_sentence(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a", falling(), checkpoints={1: {"w": torch.ones(2)}})
    make_run(tmp_path / "b", falling())
    make_run(tmp_path / "apart", [train(99, 1.0)])
    write_run(tmp_path / "unset", falling())
    make_run(tmp_path / "damaged", falling(), checkpoints={1: {"w": torch.ones(2)}})
    path = checkpoint_folder("damaged", 1) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    with pytest.raises(UserError, match=sentence) as caught:
        main(arguments)
    assert "\n" not in str(caught.value)


def test_the_exit_status_of_the_command(tmp_path, monkeypatch, capsys):
    one, other = make_run(tmp_path / "a", falling()), make_run(tmp_path / "b", falling(3))
    assert exit_status(monkeypatch, "train.compare", one, one) == 0
    assert exit_status(monkeypatch, "train.compare", one, other) == 1
    assert exit_status(monkeypatch, "train.compare", one, str(tmp_path / "nowhere")) == 2
    assert capsys.readouterr().err.startswith("error: there is no ")
