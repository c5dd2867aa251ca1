"""The optimizer state of a sharded run on disk: each rank writes its own piece, any number of ranks reads them.

`torch.distributed.checkpoint` plans who writes and who reads what (so a run saved on 2 ranks continues on 1, 4 or 64);
its own files are pickles, so the two ends that touch the disk are ours: `PieceWriter` makes a tensor file (see
`model.storage`) of what the plan gives this rank, and `PieceReader` finds all that the reading plan must know in the
headers of the files. Nothing is executed on load.

    optimizer.safetensors                      of a run that is not sharded: whole tensors
    optimizer-00000-of-00002.safetensors       of a sharded one: a file for each rank

Both readers take both: a sharded run reads only its rows of either; one that is not joins the pieces.

What it leaves out: the weights, which every checkpoint holds whole in one file, so that whatever reads models can
read them. The main rank's host must hold them once more to write it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from configs import UserError
from model.storage import Entry, Piece, decode_tensors, encode_tensors, join_pieces, read_header, tensor_of
from train.distributed import Ranks
from train.optim import Optimizer
from train.run import OPTIMIZER


def optimizer_files(names: Iterable[str]) -> list[str]:
    """Which of the files of a checkpoint hold the optimizer's state, in the order of the ranks."""
    stem, _, ending = OPTIMIZER.rpartition(".")
    return sorted(name for name in names if re.fullmatch(rf"{stem}(-\d+-of-\d+)?\.{ending}", name))


def whole_state(files: Mapping[str, bytes], folder: str | Path) -> dict[str, Tensor]:
    """The optimizer state in the files of a checkpoint, as whole tensors."""
    return join_pieces((files[name] for name in optimizer_files(files)), str(folder))


def save_optimizer(optimizer: Optimizer, ranks: Ranks, sharded: bool) -> dict[str, bytes]:
    """What this rank writes: the whole state, or its piece of it. A sharded run calls it on all ranks."""
    if not sharded:
        return {OPTIMIZER: encode_tensors(optimizer.state_tensors())}
    writer = PieceWriter()
    state = {name: as_part(optimizer, name, value) for name, value in optimizer.state_tensors().items()}
    planner = dcp.DefaultSavePlanner(False, False, dedup_save_to_lowest_rank=True)  # counters: the main rank's
    dcp.save(state, storage_writer=writer, planner=planner)
    stem, _, ending = OPTIMIZER.rpartition(".")
    return {f"{stem}-{ranks.rank:05d}-of-{ranks.world:05d}.{ending}": writer.raw}


def load_optimizer(optimizer: Optimizer, folder: Path, files: Mapping[str, bytes], sharded: bool) -> None:
    """Give an optimizer the state of a checkpoint, whoever wrote it. A sharded run calls it on all ranks.

    files: those of the folder that were read whole; a sharded run reads its rows from the disk instead.
    Raises UserError for the state of another model.
    """
    if not sharded:
        names = optimizer_files(files)
        whole = decode_tensors(files[OPTIMIZER], str(folder)) if names == [OPTIMIZER] else whole_state(files, folder)
        optimizer.load_state_tensors(whole)
        return
    reader = PieceReader([folder / name for name in optimizer_files(path.name for path in folder.iterdir())])
    parts = {name: empty_part(optimizer, name, found) for name, found in reader.tensors.items()}
    state = {name: as_part(optimizer, name, value) for name, value in parts.items()}
    dcp.load(state, storage_reader=reader, planner=dcp.DefaultLoadPlanner(False, False))
    optimizer.load_state_tensors(parts)


def as_part(optimizer: Optimizer, name: str, value: Tensor) -> Tensor:
    """A state as what it is for all ranks together: divided as its parameter is, or the same everywhere."""
    parameter = optimizer.parameters[name.rpartition("/")[0]]
    if value.ndim != parameter.ndim:  # a counter
        return value
    mesh, shape, stride = parameter.device_mesh, parameter.shape, parameter.stride()
    return DTensor.from_local(value, mesh, parameter.placements, run_check=False, shape=shape, stride=stride)


def empty_part(optimizer: Optimizer, name: str, found: TensorStorageMetadata) -> Tensor:
    """Room for what this rank needs of a stored state."""
    parameter = name.rpartition("/")[0]
    if parameter not in optimizer.parameters:
        raise UserError(f"the optimizer state has {parameter}, which is no parameter of this model")
    dtype, shard = found.properties.dtype, optimizer.shards[parameter]
    if found.size == optimizer.parameters[parameter].shape:
        return torch.empty_like(shard, dtype=dtype, requires_grad=False)
    if len(found.size):
        raise UserError(f"the optimizer state {name} is {tuple(found.size)}, which is not the shape of its parameter")
    return torch.empty((), dtype=dtype)


# The ends of torch.distributed.checkpoint that touch files -----------------------------------------------------------


class PieceWriter(StorageWriter):
    """Makes the bytes of this rank's file, `raw`; who puts them on the disk is not its business."""

    raw: bytes

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        tensors = {item.index.fqn: planner.resolve_data(item) for item in plan.items}
        assert len(tensors) == len(plan.items), "a rank has one piece of a tensor"
        chunks = {item.index.fqn: (item.tensor_data.chunk.offsets, item.tensor_data.size) for item in plan.items}
        self.raw = encode_tensors(tensors, {name: Piece(*chunk) for name, chunk in chunks.items()})
        return done([WriteResult(item.index, tensors[item.index.fqn].nbytes, None) for item in plan.items])

    def reset(self, checkpoint_id=None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args, **kwargs) -> None:
        pass

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Nothing: the headers of the files say it all."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id) -> bool:
        return True


class PieceReader(StorageReader):
    """Reads rows of the tensors in these files. `tensors`: what there is, by name."""

    def __init__(self, paths: Iterable[Path]):
        self.places: dict[tuple[str, tuple[int, ...]], tuple[Path, Entry]] = {}
        self.tensors: dict[str, TensorStorageMetadata] = {}
        for path in paths:
            for name, entry in header_of(path).items():
                self.places[name, entry.piece.offsets] = path, entry
                new = TensorStorageMetadata(TensorProperties(entry.dtype), torch.Size(entry.piece.whole), [])
                chunk = ChunkStorageMetadata(torch.Size(entry.piece.offsets), torch.Size(entry.shape))
                self.tensors.setdefault(name, new).chunks.append(chunk)

    def read_metadata(self, *args, **kwargs) -> Metadata:
        return Metadata(self.tensors)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            path, entry = self.places[item.storage_index.fqn, tuple(item.storage_index.offset)]
            target = planner.resolve_tensor(item).detach()
            target.copy_(read_box(path, entry, item.storage_offsets, item.lengths))
            planner.commit_tensor(item, target)
        return done(None)

    def reset(self, checkpoint_id=None) -> None:
        pass

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args, **kwargs) -> None:
        pass

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id) -> bool:
        return True


def done(value) -> Future:
    future: Future = Future()
    future.set_result(value)
    return future


def header_of(path: Path) -> dict[str, Entry]:
    """The header of a tensor file on disk. Raises UserError when it is damaged."""
    with path.open("rb") as file:
        raw = file.read(8)
        raw += file.read(int.from_bytes(raw, "little"))
    return read_header(raw, path.stat().st_size, str(path))


def read_box(path: Path, entry: Entry, offsets: Iterable[int], lengths: Iterable[int]) -> Tensor:
    """A part of a stored tensor, `lengths` from `offsets` on; only its rows are read from the disk."""
    offsets, lengths = list(offsets), list(lengths)
    start, end = entry.start, entry.end
    if lengths:
        row = math.prod(entry.shape[1:]) * entry.dtype.itemsize
        start, end = start + offsets[0] * row, start + (offsets[0] + lengths[0]) * row
    with path.open("rb") as file:
        file.seek(start)
        rows = tensor_of(entry._replace(shape=(*lengths[:1], *entry.shape[1:])), file.read(end - start))
    return rows[tuple(slice(o, o + n) for o, n in zip([0, *offsets[1:]], lengths))]
