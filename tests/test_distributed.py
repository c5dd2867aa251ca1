"""Two ranks under torchrun on a CPU: same losses as one process; killed with SIGKILL and restarted, the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.storage import list_checkpoints, newest_intact
from tests.tiny import tiny_overrides
from train.pieces import optimizer_files
from train.run import read_metrics

ROOT = Path(__file__).parent.parent
PRETRAIN = ["-m", "train.pretrain", "configs/demo/pretrain.toml"]


def torchrun(*arguments: str, ranks: int = 2) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", *arguments]


def run(command: list[str], **options) -> subprocess.CompletedProcess:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def kill_all(argument: str) -> int:
    """SIGKILL for every process that has this argument; returns how many there were."""
    killed = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if argument.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                killed += 1
        except (FileNotFoundError, ProcessLookupError):
            continue
    return killed


def losses(folder: Path) -> list[float]:
    return [r["loss"] for r in read_metrics(folder) if r["kind"] == "train"]


def test_two_ranks_equal_one_for_twenty_steps(tmp_path):
    """Acceptance: with the same global batch the curves agree to 1e-4 in float32 for 20 steps, dropout off."""
    overrides = [*tiny_overrides(tmp_path), "train.steps=20", "train.evaluate_every=10", "train.save_every=0"]
    one, two = tmp_path / "one", tmp_path / "two"
    run([sys.executable, *PRETRAIN, *overrides, f"run={one}"])
    run(torchrun(*PRETRAIN, *overrides, f"run={two}"))
    assert len(losses(one)) == 20
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    held_out = [[r["loss"] for r in read_metrics(f) if r["kind"] == "evaluation"] for f in (one, two)]
    assert held_out[1] == pytest.approx(held_out[0], abs=1e-4)


@pytest.mark.parametrize(
    ("ranks", "parallel"),
    [
        (2, "ddp"),
        pytest.param(4, "ddp", marks=pytest.mark.slow),
        pytest.param(2, "fsdp", marks=pytest.mark.slow),
        pytest.param(4, "fsdp", marks=pytest.mark.slow),
    ],
)
def test_killed_and_restarted_equals_uninterrupted(tmp_path, ranks, parallel):
    """Acceptance: SIGKILL of all ranks at a step that nobody chose; the final files are bit-identical."""
    overrides = [
        *tiny_overrides(tmp_path),
        "train.steps=60",
        "train.evaluate_every=0",
        "train.save_every=5",
        "train.keep=0",
        f"train.parallel={parallel}",
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(torchrun(*PRETRAIN, *overrides, f"run={whole}", ranks=ranks))
    command = torchrun(*PRETRAIN, *overrides, f"run={killed}", ranks=ranks)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list_checkpoints(killed)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert kill_all(f"run={killed}") >= 3  # torchrun and both ranks, which have sessions of their own
    process.wait()
    reached = len(list_checkpoints(killed))
    assert 3 <= reached < 12, f"{reached} checkpoints: the run was not interrupted in the middle"
    run(command)
    (_, one), (_, other) = newest_intact(whole), newest_intact(killed)
    assert json.loads(one["state.json"])["step"] == 60
    assert one.keys() == other.keys() and len(optimizer_files(one)) == (ranks if parallel == "fsdp" else 1)
    for name in ("model.safetensors", *optimizer_files(one)):
        assert one[name] == other[name], name
    assert losses(killed) == losses(whole)


def test_tuning_on_two_ranks_equals_one(tmp_path):
    """Ragged rows: the number of supervised tokens differs between ranks (torchtune#2980, nanochat#59)."""
    run([sys.executable, *PRETRAIN, *tiny_overrides(tmp_path), "model.context=64"])
    chats = tmp_path / "chats.jsonl"
    rows = [
        {"instruction": f"number {i} of the list" * (i % 3 + 1), "output": "value " * (i % 7 + 1)} for i in range(60)
    ]
    chats.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    tune = [
        "-m", "train.sft", "configs/demo/sft.toml", f"init={tmp_path / 'run'}", f"data.paths=['{chats}']",
        "data.validation=0.2", "train.steps=6", "train.batch_size=4", "train.precision=float32", "train.compile=off",
        "train.threads=1", "train.log_every=1", "train.evaluate_every=0", "train.save_every=0", "answer_tokens=4",
        "schedule.warmup=1",
    ]  # fmt: skip
    one, two = tmp_path / "sft1", tmp_path / "sft2"
    run([sys.executable, *tune, f"run={one}"])
    run(torchrun(*tune, f"run={two}"))
    assert len(losses(one)) == 6
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)


def test_a_batch_that_does_not_split_is_one_sentence(tmp_path):
    done = subprocess.run(
        torchrun(*PRETRAIN, *tiny_overrides(tmp_path), "train.batch_size=3"),
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert "error: train.batch_size (3) must be a multiple of the 2 ranks" in done.stderr
