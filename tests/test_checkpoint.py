"""Saving beside the training, keeping sparingly, and the command that looks at checkpoints."""

from __future__ import annotations

import errno
import json

import pytest

from configs import UserError
from model.storage import list_checkpoints, newest_intact
from tests.test_trainer import files_of, trainer_of
from train.checkpoint import Saver, damage, main, step_of
from train.faults import Faults, parse
from train.run import read_metrics


def steps(run):
    return [step_of(folder) for folder in list_checkpoints(run)]


@pytest.fixture
def run(tmp_path):
    trainer_of(tmp_path, "train.keep=0", "train.evaluate_every=0").fit()
    return tmp_path / "run"


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path):
    trainer = trainer_of(tmp_path, "train.keep=1", "train.evaluate_every=2")
    losses = iter([5.0, 3.0, 4.0, 4.5])
    trainer.evaluate = lambda: {"loss": next(losses)}
    trainer.fit()
    assert steps(tmp_path / "run") == [4, 8]
    assert json.loads(files_of(tmp_path / "run")["state.json"])["best_step"] == 4


def test_a_full_disk_is_reported_and_training_goes_on(tmp_path, capsys):
    trainer = trainer_of(tmp_path, "train.keep=0", "train.evaluate_every=0", "train.faults=['enospc:rank0:step4']")
    trainer.fit()
    assert steps(tmp_path / "run") == [2, 6, 8]
    error = capsys.readouterr().err
    assert "No space left" in error and "training goes on" in error


def test_a_full_disk_at_the_last_save_ends_with_a_sentence(tmp_path):
    trainer = trainer_of(tmp_path, "train.evaluate_every=0", "train.faults=['enospc:rank0:step8']")
    with pytest.raises(UserError, match="No space left"):
        trainer.fit()
    assert steps(tmp_path / "run") == [4, 6]


def test_a_transient_failure_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr("train.checkpoint.PAUSE_SECONDS", 0.0)
    saver, failures = Saver(tmp_path, 0, Faults((), 0)), iter([OSError(errno.EIO, "once"), None])

    def fail_once(step):
        failure = next(failures)
        if failure:
            raise failure

    saver.faults.on_write = fail_once
    saver.save(1, {"model.json": b"{}"})
    saver.finish()
    assert steps(tmp_path) == [1] and newest_intact(tmp_path)[1]["model.json"] == b"{}"


@pytest.mark.parametrize("fault", ["torn_write", "bit_flip"])
def test_a_checkpoint_damaged_after_writing_is_passed_over(tmp_path, capsys, fault):
    whole = trainer_of(tmp_path / "whole", "train.evaluate_every=0")
    whole.fit()
    trainer_of(tmp_path, "train.evaluate_every=0", "train.keep=0", f"train.faults=['{fault}:rank0:step8']").fit()
    newest = list_checkpoints(tmp_path / "run")[-1]
    assert "damaged" in damage(newest)
    again = trainer_of(tmp_path, "train.evaluate_every=0", "train.keep=0")
    assert again.state.step == 6 and "damaged" in capsys.readouterr().err
    again.fit()
    assert files_of(tmp_path / "run")["model.safetensors"] == files_of(tmp_path / "whole" / "run")["model.safetensors"]


@pytest.mark.parametrize("fault", ["nan_loss", "nan_grad"])
def test_a_poisoned_step_is_not_applied_and_named(tmp_path, fault):
    trainer = trainer_of(tmp_path, "train.evaluate_every=0", f"train.faults=['{fault}:rank0:step3']")
    state = trainer.fit()
    assert state.skipped == 1
    [record] = [r for r in read_metrics(tmp_path / "run") if r["kind"] == "skipped"]
    assert record["step"] == 3 and len(record["samples"]) == 4
    counters = [v for name, v in trainer.optimizer.state_tensors().items() if name.endswith("/step")]
    assert counters and all(float(v) == 7 for v in counters), "the optimizer's counter has not moved in the bad step"


def test_a_spike_is_refused_by_its_rule(tmp_path):
    overrides = ["train.steps=20", "train.evaluate_every=0", "train.guard.spike=8", "train.guard.window=8"]
    trainer = trainer_of(tmp_path, *overrides, "train.faults=['spike:rank0:step15']")
    assert trainer.fit().skipped == 1


def test_faults_are_read_and_wrong_ones_refused(tmp_path):
    assert parse("kill:rank1:step37") is not None and parse("kill:rank1") is None and parse("melt:rank0:step1") is None
    with pytest.raises(UserError, match="KIND:rankR:stepS"):
        trainer_of(tmp_path, "train.faults=['melt:rank0:step1']")


def test_list_and_verify_tell_intact_from_damaged(run, capsys):
    assert main(["list", str(run)]) == 0
    assert capsys.readouterr().out.count("intact") == 4
    path = list_checkpoints(run)[1] / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["verify", str(run)]) == 1
    output = capsys.readouterr().out
    assert output.count("intact") == 3 and "optimizer.safetensors is damaged" in output


def test_show_names_state_and_tensors(run, capsys):
    main(["show", str(run), "--step", "4"])
    output = capsys.readouterr().out
    assert "step = 4" in output and "trunk.blocks.1.attention.query.weight" in output
    with pytest.raises(UserError, match="it has 2, 4, 6, 8"):
        main(["show", str(run), "--step", "5"])


def test_prune_keeps_the_newest(run):
    main(["prune", str(run), "--keep", "1"])
    assert steps(run) == [8]
    with pytest.raises(UserError, match="--keep N"):
        main(["prune", str(run)])


def test_a_run_without_checkpoints_is_one_sentence(tmp_path):
    for command in (["list"], ["verify"], ["show"], ["prune", "--keep", "1"]):
        with pytest.raises(UserError, match="there is no checkpoint in"):
            main([command[0], str(tmp_path), *command[1:]])
