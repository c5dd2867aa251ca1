"""One process, whole copies on four ranks and parts on four ranks are the same training, and each continues another."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from configs import UserError, load
from data.batches import Batch
from model.load import WEIGHTS, load_run
from model.storage import decode_tensors, encode_tensors, list_checkpoints, newest_intact
from tests.ranks import on_ranks
from tests.small import small_model
from tests.tiny import tiny_overrides
from train.checkpoint import main as checkpoint_main
from train.distributed import Ranks
from train.objectives import language_modelling
from train.optim import OptimizerConfig, ScheduleConfig
from train.pieces import optimizer_files, whole_state
from train.pretrain import PretrainConfig, build_trainer
from train.run import STATE, RunFolder
from train.trainer import TrainConfig, Trainer

V, T = 61, 12


class RaggedRows:
    """Rows with very unequal numbers of targets; of 8, the last of 4 ranks has a single one. `seen`: what was asked."""

    def __init__(self):
        self.seen: list[list[int]] = []

    def __len__(self) -> int:
        return 64

    def batch(self, samples, positions) -> Batch:
        self.seen.append([int(sample) for sample in samples])
        tokens = np.stack([np.random.default_rng(int(sample)).integers(V, size=T) for sample in samples])
        weights = np.zeros((len(samples), T), np.float32)
        for row, (sample, position) in enumerate(zip(samples, positions)):
            weights[row, : {3: 1, 7: 0}.get(position % 8, 1 + sample % T)] = 1
        tokens, places = torch.from_numpy(tokens), torch.arange(T).expand(len(samples), T).contiguous()
        documents = (places > T // 2).int()
        numbers = torch.from_numpy(np.asarray(positions))
        return Batch(tokens, tokens.roll(-1, 1), torch.from_numpy(weights), documents, places, numbers)


def trainer_of(
    ranks: Ranks, folder: Path, dtype=torch.float32, kind: str = "adamw", switches=None, **settings
) -> Trainer:
    """A small trainer on these ranks. 5 rows of some parameters do not divide by 2 or 4, and 1 is less than both."""
    model = small_model(dtype=dtype, vocab_size=V, head_width=2, bias=True, norm="layer", **(switches or {}))
    defaults = {"steps": 8, "batch_size": 8, "precision": "float32", "compile": "off", "log_every": 1, "keep": 0}
    run = RunFolder(folder, ranks.is_main)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        config=TrainConfig(**(defaults | settings)), optimizer=OptimizerConfig(kind, lr=0.01),
        schedule=ScheduleConfig(warmup=2), model=model, objective=language_modelling, rows=RaggedRows(), run=run,
        ranks=ranks, files=lambda: weights_of(model), seed=3,
    )  # fmt: skip
    model.trunk.compute_dtype = dtype
    return trainer


def weights_of(model) -> dict[str, bytes]:
    """As `model.load.model_files`: those of a sharded model are the trainer's business."""
    sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    return {} if sharded else {WEIGHTS: encode_tensors(dict(model.named_parameters()))}


# Same numbers --------------------------------------------------------------------------------------------------------


def steps_of(ranks: Ranks, folder: Path, cases: list[dict], steps: int) -> list[tuple[list, list]]:
    """Loss and gradient norm of each case's first steps, and the samples that this rank asked for."""
    found = []
    for number, case in enumerate(cases):
        trainer = trainer_of(ranks, folder / str(number), **case)
        records = [trainer.step() for _ in range(steps)]
        found.append(([(r["loss"], r["gradient_norm"]) for r in records], trainer.rows.seen))
    return found


def compare_with_one(folder: Path, world: int, cases: list[dict], tolerances: list[float]) -> None:
    """Every case on `world` ranks, as copies and as parts, against one process with the whole batch: losses within the
    tolerance, gradient norms within ten times that, samples exactly."""
    whole = steps_of(Ranks(), folder / "one", [case | {"micro_batch": 0} for case in cases], 6)
    split = [case | {"parallel": parallel} for case in cases for parallel in ("ddp", "fsdp")]
    ranks = on_ranks(world, steps_of, folder / "many", split, 6)
    for number, case in enumerate(split):
        figures, samples = whole[number // 2]
        for rank in range(world):
            for found, expected, factor in zip(zip(*ranks[rank][number][0]), zip(*figures), (1, 10)):
                np.testing.assert_allclose(found, expected, factor * tolerances[number // 2], err_msg=f"{case}")
        asked = zip(*(ranks[rank][number][1] for rank in range(world)))
        assert [sorted(itertools.chain(*step)) for step in asked] == [sorted(step) for step in samples], case


def test_one_process_four_copies_and_four_parts_are_the_same_training(tmp_path):
    """Loss and gradient norm of 6 steps; rows of unequal length in micro-batches, one rank with one target."""
    cases = [
        {"dtype": torch.float32},
        {"dtype": torch.float64, "kind": "muon", "micro_batch": 1, "activation_checkpointing": "blocks"},
    ]
    compare_with_one(tmp_path, 4, cases, [1e-5, 1e-12])


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_every_kind_is_the_same_training(tmp_path, world):
    """The rest of the settings. Muon computes in bfloat16: what float32 rounds unlike may tip one of its digits."""
    cases = [
        {"kind": "muon"},
        {"micro_batch": 1, "activation_checkpointing": "blocks"},
        {"dtype": torch.float64, "micro_batch": 1, "switches": {"tie": False, "kv_heads": 1, "activation": "swiglu"}},
        {"dtype": torch.float64, "switches": {"norm_place": "post", "position": "learned"}, "kind": "muon"},
    ]
    compare_with_one(tmp_path, world, cases, [1e-3, 1e-5, 1e-12, 1e-12])


def test_recomputed_activations_give_the_same_gradients(tmp_path):
    """To the bit, dropout included; and an evaluation between forward and backward passes does not disturb them."""
    gradients = []
    for number, kept in enumerate(("none", "blocks")):
        case = {"activation_checkpointing": kept, "switches": {"dropout": 0.3}}
        trainer = trainer_of(Ranks(), tmp_path / str(number), **case)
        trainer.step()
        gradients.append({name: p.grad for name, p in trainer.model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def poisoned(ranks: Ranks, folder: Path) -> tuple[int, bool, dict[str, float], bool]:
    """After a step with a NaN in one rank's gradient: refused steps, all as before; then norms of layers."""
    trainer = trainer_of(ranks, folder, parallel="fsdp", faults=("nan_grad:rank2:step2",), norms=True)
    trainer.step()
    before = [shard.detach().clone() for shard in trainer.optimizer.shards.values()]
    trainer.step()
    same = all(torch.equal(a, b) for a, b in zip(before, trainer.optimizer.shards.values()))
    skipped = trainer.state.skipped
    record = trainer.step()
    return skipped, same, trainer._extras(record), record["gradient_norm"]


def test_a_poisoned_part_stops_the_step_on_every_rank_and_norms_are_those_of_the_whole(tmp_path):
    results = on_ranks(4, poisoned, tmp_path / "parts")
    assert [(skipped, same) for skipped, same, *_ in results] == [(1, True)] * 4
    assert all(extras == results[0][2] for _, _, extras, _ in results)
    one = trainer_of(Ranks(), tmp_path / "one", faults=("nan_grad:rank0:step2",), norms=True)
    expected = [one._extras(one.step()) for _ in range(3)][-1]
    assert results[0][2] == pytest.approx(expected, rel=1e-4) and len(expected) == 8


def evaluated(ranks: Ranks, folder: Path) -> list[tuple[float, float]]:
    """A loss of one row, computed by the model itself, on unequal numbers of batches; then that of the next step."""
    trainer, found = trainer_of(ranks, folder, parallel="fsdp", steps=4, evaluate_every=1, keep=1), []

    def evaluate() -> dict[str, float]:
        for _ in range(1 + 2 * ranks.rank):
            batch = trainer.rows.batch(np.arange(2), np.arange(2))
            with torch.no_grad():
                terms = language_modelling(trainer.model, batch)
        found.append(float(terms.total))
        return {"loss": found[-1]}

    trainer.evaluate = evaluate
    trainer.fit()
    return found


def test_ranks_evaluate_unequal_numbers_of_batches(tmp_path):
    """Parts are gathered for the evaluation, which is then each rank's own affair; training goes on as before.

    Uneven batches hung (CosyVoice#180, composer#3415).
    """
    alone, *many = evaluated(Ranks(), tmp_path / "one"), *on_ranks(2, evaluated, tmp_path / "two")
    assert len(alone) == 4 and len(set(alone)) == 4
    for found in many:
        assert found == pytest.approx(alone, rel=1e-5)


# Saved and continued -------------------------------------------------------------------------------------------------


def trained(ranks: Ranks, folder: Path, stop: int, case: dict) -> list[float]:
    """Continue a run until step `stop`, save, and leave without a word to anybody; the losses."""
    trainer, losses = trainer_of(ranks, folder, **case), []
    while trainer.state.step < stop:
        losses.append(trainer.step()["loss"])
    trainer.save()
    trainer.saver.finish()
    ranks.barrier()
    return losses


def files_of(folder: Path) -> dict[str, bytes]:
    files = newest_intact(folder)[1]
    state = json.loads(files.pop(STATE))
    return files | {STATE: json.dumps(state | {"seconds": 0}).encode()}


@pytest.mark.parametrize(
    "case",
    [{}, {"parallel": "fsdp", "kind": "muon"}, pytest.param({"parallel": "fsdp"}, marks=pytest.mark.slow)],
    ids=str,
)
def test_continued_on_four_ranks_is_bit_identical(tmp_path, case):
    """Rank by rank, byte by byte. Copies need `settle_buckets`: DDP sums its first step in another order."""
    whole = on_ranks(4, trained, tmp_path / "whole", 3, case)
    first = on_ranks(4, trained, tmp_path / "broken", 1, case)
    second = on_ranks(4, trained, tmp_path / "broken", 3, case)
    assert [a + b for a, b in zip(first, second)] == whole
    assert files_of(tmp_path / "broken") == files_of(tmp_path / "whole")


ELASTIC = [(2, "fsdp"), (1, "fsdp"), (4, "fsdp"), (2, "ddp"), (4, "ddp"), (3, "fsdp"), (1, "ddp"), (4, "fsdp")]


@pytest.mark.parametrize(
    ("kind", "places"), [("muon", ELASTIC[:4]), pytest.param("adamw", ELASTIC, marks=pytest.mark.slow)]
)
def test_a_run_goes_on_with_other_ranks_and_another_division(tmp_path, kind, places):
    """Two steps at each of these places, in float64, against one process that was never stopped; 24 divides by all."""
    case = {"kind": kind, "batch_size": 24, "dtype": torch.float64, "steps": 99}
    expected = trained(Ranks(), tmp_path / "one", 2 * len(places), case)
    losses = []
    for number, (world, parallel) in enumerate(places):
        results = on_ranks(world, trained, tmp_path / "many", 2 * number + 2, case | {"parallel": parallel})
        losses += results[0]
    np.testing.assert_allclose(losses, expected, 1e-11)
    one, many = (whole_state(newest_intact(tmp_path / name)[1], name) for name in ("one", "many"))
    assert one.keys() == many.keys()
    for name in one:
        torch.testing.assert_close(many[name], one[name], rtol=1e-7, atol=1e-11, msg=name)


def test_a_sharded_checkpoint_is_made_of_pieces_and_whole_weights(tmp_path):
    on_ranks(3, trained, tmp_path, 1, {"parallel": "fsdp", "batch_size": 9})
    files = newest_intact(tmp_path)[1]
    assert optimizer_files(files) == [f"optimizer-{rank:05d}-of-00003.safetensors" for rank in range(3)]
    sizes = [len(files[name]) for name in optimizer_files(files)]
    assert max(sizes) < 0.45 * sum(sizes)
    weights, state = decode_tensors(files[WEIGHTS]), whole_state(files, tmp_path)
    assert {name.rpartition("/")[0] for name in state} == weights.keys()
    for name, tensor in weights.items():
        assert state[f"{name}/exp_avg"].shape == tensor.shape
    assert not any(raw.startswith((b"PK", b"\x80")) for raw in files.values()), "neither a zip nor a pickle"


def trained_twice(ranks: Ranks, folder: Path) -> None:
    for stop in (1, 2):
        trained(ranks, folder, stop, {"parallel": "fsdp"})


def started(ranks: Ranks, folder: Path) -> int:
    return trainer_of(ranks, folder, parallel="fsdp").state.step


def test_one_damaged_piece_and_all_ranks_take_the_checkpoint_before(tmp_path):
    """The damage lies in what only one of the ranks looks at."""
    on_ranks(2, trained_twice, tmp_path)
    piece = list_checkpoints(tmp_path)[-1] / "optimizer-00001-of-00002.safetensors"
    raw = bytearray(piece.read_bytes())
    raw[-1] ^= 1
    piece.write_bytes(raw)
    assert on_ranks(2, started, tmp_path) == [1, 1]
    piece.unlink()
    assert started(Ranks(), tmp_path) == 1


def saved_on_a_full_disk(ranks: Ranks, folder: Path) -> str:
    trainer = trainer_of(ranks, folder, parallel="fsdp", steps=2, save_every=1, faults=("enospc:rank1:step2",))
    try:
        trainer.fit()
    except UserError as error:
        return str(error)
    return "saved"


def test_a_rank_that_cannot_write_fails_the_save_for_all(tmp_path):
    for answer in on_ranks(2, saved_on_a_full_disk, tmp_path):
        assert "rank 1" in answer and "No space left" in answer
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-00000001"]
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.endswith(".tmp")]


def pretrained(ranks: Ranks, overrides: list[str]) -> None:
    build_trainer(load(PretrainConfig, "configs/demo/pretrain.toml", overrides), ranks).fit()


def test_a_later_stage_reads_what_a_sharded_run_has_written(tmp_path, capsys):
    """And so do the commands that look at checkpoints."""
    overrides = [*tiny_overrides(tmp_path), "train.parallel=fsdp", "train.activation_checkpointing=blocks"]
    on_ranks(2, pretrained, overrides)
    pretrained(Ranks(), [*overrides, f"run={tmp_path / 'alone'}"])
    one, two = load_run(tmp_path / "alone").model, load_run(tmp_path / "run").model
    for (name, a), b in zip(one.named_parameters(), two.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3, msg=name)
    capsys.readouterr()
    assert checkpoint_main(["verify", str(tmp_path / "run")]) == 0
    checkpoint_main(["show", str(tmp_path / "run")])
    assert "optimizer-00001-of-00002.safetensors: " in capsys.readouterr().out
    (tmp_path / "run/checkpoints/step-00000008/optimizer-00001-of-00002.safetensors").unlink()
    assert checkpoint_main(["list", str(tmp_path / "run")]) == 1


@pytest.mark.slow
def test_compiled_parts_follow_the_eager_ones(tmp_path):
    cases = [{"parallel": "fsdp", "compile": mode, "activation_checkpointing": "blocks"} for mode in ("off", "on")]
    (eager, _), (compiled, _) = on_ranks(2, steps_of, tmp_path, cases, 3)[0]
    np.testing.assert_allclose(compiled, eager, 1e-4)
