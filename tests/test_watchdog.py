"""The watchdog names the rank that is behind; two ranks with one that hangs end within the stated time."""

from __future__ import annotations

import subprocess
import time

import pytest
import torch

from tests.test_distributed import PRETRAIN, ROOT, torchrun
from tests.test_trainer import trainer_of
from tests.tiny import tiny_overrides
from train.watchdog import EXIT_CODE, Watchdog


def test_the_verdict_names_who_is_behind():
    watchdog = Watchdog(0, 3, 5)
    assert watchdog.verdict({0: (7, 2), 1: (7, 0), 2: (7, 2)}) == (
        "error: no progress for 5 s: rank 1 in step 7 (the others wait for it in step 7); rank 0 ends the job"
    )
    assert "rank 2 in step 6" in watchdog.verdict({0: (7, 0), 1: (7, 0), 2: (6, 3)})
    assert "rank 0 in step 4, rank 1 in step 4" in Watchdog(1, 2, 5).verdict({0: (4, 1), 1: (4, 1)})


def test_it_bites_also_when_the_store_is_gone(monkeypatch, capsys):
    """The rank that holds it ended first: the others end all the same, and speak of themselves alone."""

    class Gone:
        def __getattr__(self, name):
            raise RuntimeError("connection reset")

    codes = []
    monkeypatch.setattr("train.watchdog.os._exit", lambda code: codes.append(code) or watchdog._stop.set())
    monkeypatch.setattr("train.watchdog.faulthandler.dump_traceback", lambda **options: None)
    monkeypatch.setattr("train.watchdog.dist.PrefixStore", lambda *_: Gone())
    monkeypatch.setattr("train.watchdog.dist.distributed_c10d._get_default_store", lambda: None)
    with Watchdog(1, 2, 0.2) as watchdog:
        watchdog.begin(7)
        deadline = time.monotonic() + 20
        while not codes and time.monotonic() < deadline:
            time.sleep(0.02)
    assert codes == [EXIT_CODE]
    assert "no progress for 0.2 s: rank 1 in step 7; rank 1 ends the job" in capsys.readouterr().err


def test_progress_keeps_it_quiet():
    with Watchdog(0, 1, 0.3) as watchdog:
        for step in range(5):
            time.sleep(0.15)
            watchdog.begin(step)
            watchdog.mark()
    assert watchdog.place == (4, 1)


def ends(monkeypatch, trainer, evaluate) -> list[int]:
    """Train with this evaluation; the exit codes that the watchdog gave."""
    codes: list[int] = []
    monkeypatch.setattr("train.watchdog.os._exit", lambda code: codes.append(code) or trainer.watchdog._stop.set())
    monkeypatch.setattr("train.watchdog.faulthandler.dump_traceback", lambda **options: None)
    trainer.evaluate = lambda: evaluate(trainer.model, codes)
    trainer.fit()
    return codes


def test_a_long_evaluation_is_no_hang_but_a_hang_in_it_is(tmp_path, monkeypatch, capsys):
    """Each forward pass is progress."""

    def long(model, codes):
        for _ in range(12):
            time.sleep(0.1)
            model.trunk(torch.zeros(1, 4, dtype=torch.int64))
        return {"loss": 1.0}

    def hangs(model, codes):
        deadline = time.monotonic() + 20
        while not codes and time.monotonic() < deadline:
            time.sleep(0.05)
        return {"loss": 1.0}

    settings = ("train.stall_seconds=0.6", "train.evaluate_every=0", "train.save_every=0", "train.steps=2")
    assert ends(monkeypatch, trainer_of(tmp_path / "long", *settings), long) == []
    assert ends(monkeypatch, trainer_of(tmp_path / "hangs", *settings), hangs) == [EXIT_CODE]
    assert "no progress for 0.6 s" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["hang:rank1:step3"])
def test_a_rank_that_hangs_ends_the_job_and_is_named(tmp_path, fault):
    """One stuck rank held a job for hours (flyte-sdk#698, nanotron#115)."""
    overrides = [*tiny_overrides(tmp_path), "train.evaluate_every=0", "train.stall_seconds=4"]
    started = time.monotonic()
    done = subprocess.run(
        torchrun(*PRETRAIN, *overrides, f"train.faults=['{fault}']"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "no progress for 4 s: rank 1 in step 3 (the others wait for it in step 3)" in done.stderr
    assert time.monotonic() - started < 60
