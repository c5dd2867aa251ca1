"""Where two runs part: the first step at which a figure differs, and the settings and tensors that differ.

    python -m train.compare runs/a runs/b                   figures of the steps that both have logged
    python -m train.compare runs/a runs/b --checkpoints     and the tensors of the checkpoints that both have

Exit status: 0 when all that was compared is identical, 1 when something differs, 2 for wrong input.

Numbers are compared exactly: NaN equals NaN, and everything else only itself. Figures that tell of time (`TIMED`) are
left out, and a step that only one run has logged is no difference; but a step that only one has skipped is, and so is
an earlier end. Settings are listed because they explain a difference: they do not count as one.

Tensors are compared bit by bit. A difference is given as the largest absolute one, and in bits: how many of the last
bits of the numbers it takes up at most (1 bit: neighbours), which is what rounding is measured in.

What it leaves out: a tensor that has another name in the other run is said to be missing there, not looked for.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs import UserError, read_toml, run_main
from model.load import WEIGHTS
from model.storage import decode_tensors, list_checkpoints, read_folder
from train.pieces import whole_state
from train.run import FREE, OPTIMIZER, flatten
from train.watch import Records, read_run

TIMED = ("tokens_per_second", "mfu", "seconds", "memory")  # a figure whose name contains one of these
LISTED = 12  # settings or tensors that are named; of more, the number is told
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


# Figures -------------------------------------------------------------------------------------------------------------


def content(record: dict[str, Any]) -> dict[str, Any]:
    """What is compared of a record."""
    return {
        name: value
        for name, value in record.items()
        if name not in ("kind", "step") and not any(timed in name for timed in TIMED)
    }


def same(one: Any, other: Any) -> bool:
    return one == other or (one != one and other != other)  # NaN differs from itself


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """One phrase for each name whose values differ."""
    found = []
    for name in [*one, *(name for name in other if name not in one)]:
        a, b = one.get(name, "nothing"), other.get(name, "nothing")
        if not same(a, b):
            numbers = all(type(x) in (int, float) for x in (a, b))
            found.append(f"{name} {a!r} and {b!r}" + (f" (by {abs(a - b):.3g})" if numbers else ""))
    return found


def compare_figures(one: Records, other: Records) -> tuple[list[str], bool]:
    """What to say, and whether anything differs. Raises UserError when there is nothing to compare."""
    records = [{(r["step"], r["kind"]): content(r) for r in run} for run in (one, other)]
    ends = [max(step for step, _ in run) for run in records]
    common = sorted(records[0].keys() & records[1].keys())
    if not common:
        raise UserError("the two runs have logged no step in common; give runs with the same train.log_every")
    first: tuple[int, list[str]] | None = None
    for step, kind in sorted(records[0].keys() | records[1].keys()):
        found = []
        if all((step, kind) in run for run in records):
            found = differences(*(run[step, kind] for run in records))
        elif kind == "skipped" and step <= min(ends):
            found = [f"only run {'A' if (step, kind) in records[0] else 'B'} skipped the step"]
        if found:
            first = first or (step, [])
            if step > first[0]:
                break
            first[1].extend(f"{kind}: {phrase}" for phrase in found)
    said = [f"compared {len(common)} records of steps {common[0][0]:,} to {common[-1][0]:,}"]
    if first:
        said += [f"the first difference is at step {first[0]:,}", *(f"  {phrase}" for phrase in first[1])]
    else:
        said.append("every figure is identical")
    if ends[0] != ends[1]:
        said.append(f"run A ends at step {ends[0]:,}, run B at step {ends[1]:,}")
    return said, first is not None or ends[0] != ends[1]


# Settings ------------------------------------------------------------------------------------------------------------


def compare_settings(runs: tuple[Path, Path]) -> list[str]:
    """The settings that differ, without those that change nothing of what is computed."""
    one, other = (flatten(read_toml(run / "config.toml")) for run in runs)
    changed = [name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]
    changed = [name for name in changed if name.rpartition(".")[2] not in FREE]
    said = [f"  {name}: {one.get(name, 'not set')!r} and {other.get(name, 'not set')!r}" for name in changed]
    if not said:
        return ["no setting differs that matters"]
    return [f"settings that differ: {len(said)}", *shortened(said)]


def shortened(lines: list[str]) -> list[str]:
    return lines if len(lines) <= LISTED else [*lines[:LISTED], f"  and {len(lines) - LISTED} more"]


# Tensors -------------------------------------------------------------------------------------------------------------


def ordered(tensor: Tensor) -> Tensor:
    """int64 numbers in the order of the tensor's values, neighbouring ones for neighbouring values."""
    if not tensor.is_floating_point():
        return tensor.to(torch.int64)
    bits = tensor.contiguous().view(INTEGERS[tensor.element_size()])
    wide = bits.to(torch.int64)
    return torch.where(bits < 0, torch.iinfo(bits.dtype).min - wide, wide)


def bits_apart(one: Tensor, other: Tensor) -> int:
    """The bits that it takes to write how many steps from value to value lie between two tensors, at most."""
    a, b = ordered(one), ordered(other)
    above, below = (x.numpy().view(np.uint64) for x in (torch.maximum(a, b), torch.minimum(a, b)))
    return int((above - below).max()).bit_length()  # unsigned: the difference of two int64 may need 64 bits


def compare_tensors(one: Tensor, other: Tensor) -> str | None:
    """In what two tensors differ; None when every bit is the same."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        kinds = (f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for t in (one, other))
        return " and ".join(kinds)
    integer = INTEGERS[one.element_size()] if one.is_floating_point() else one.dtype
    differs = one.contiguous().view(integer) != other.contiguous().view(integer)
    count = int(differs.sum())
    if not count:
        return None
    a, b = one[differs], other[differs]
    largest = float((a.double() - b.double()).abs().max())
    bits = bits_apart(a, b)
    return f"{count:,} of {one.numel():,} numbers, by at most {largest:.3g} ({bits} bit{'' if bits == 1 else 's'})"


def compare_checkpoints(runs: tuple[Path, Path]) -> tuple[list[str], bool]:
    """What to say about the checkpoints of common steps, and whether any differ."""
    names = [{folder.name: folder for folder in list_checkpoints(run)} for run in runs]
    common = [name for name in names[0] if name in names[1]]
    if not common:
        have = " and ".join(", ".join(found) or "none" for found in names)
        raise UserError(f"the two runs have no checkpoint of the same step, they have {have}")
    said, any_differs = [], False
    for name in common:
        one, other = (tensors_of(found[name]) for found in names)
        found = {key: compare_tensors(one[key], other[key]) for key in one if key in other}
        phrases = [f"  {key}: {phrase}" for key, phrase in found.items() if phrase]
        phrases += [f"  {key}: only in run A" for key in one if key not in other]
        phrases += [f"  {key}: only in run B" for key in other if key not in one]
        any_differs |= bool(phrases)
        total = len(one.keys() | other.keys())
        verdict = f"{len(phrases)} of {total} tensors differ" if phrases else f"all {total} tensors are identical"
        said.append(f"{name}: {verdict}")
        said += shortened(phrases)
    return said, any_differs


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Weights and optimizer of a checkpoint; the file's name stands before that of the tensor."""
    files = read_folder(folder)
    if WEIGHTS not in files:
        raise UserError(f"the checkpoint {folder} has no {WEIGHTS}; use another checkpoint")
    parts = {WEIGHTS: decode_tensors(files[WEIGHTS], f"{folder}/{WEIGHTS}"), OPTIMIZER: whole_state(files, folder)}
    return {f"{file.partition('.')[0]}/{name}": tensor for file, part in parts.items() for name, tensor in part.items()}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.compare", description="Tell where two runs part.")
    parser.add_argument("run_a", help="run folder")
    parser.add_argument("run_b", help="run folder")
    parser.add_argument("--checkpoints", action="store_true", help="also compare checkpoints of common steps")
    options = parser.parse_args(argv)
    runs = Path(options.run_a), Path(options.run_b)
    figures, differs = compare_figures(*(read_run(str(run)) for run in runs))
    said = [f"A: {runs[0]}", f"B: {runs[1]}", *compare_settings(runs), *figures]
    if options.checkpoints:
        tensors, others = compare_checkpoints(runs)
        said, differs = said + tensors, differs or others
    print("\n".join(said))
    return int(differs)


if __name__ == "__main__":
    run_main(main)
