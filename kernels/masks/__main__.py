"""Drawing a mask and its block map as text: `python -m kernels.masks causal,window:128,document`.

One character stands for a block of the picture: dark where all its pairs are visible, light where some are, blank where
none is. Beside it stands the block map that kernels use; where it says PARTIAL, a kernel must mask.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from configs import UserError, run_main
from kernels.cases import NAMES, parse_mask
from kernels.masks import FULL, PARTIAL

SHADES = {0: "·", PARTIAL: "▒", FULL: "█"}


def shares(dense: Tensor, rows: int, columns: int) -> Tensor:
    """The share of visible pairs in each cell of a rows x columns picture. dense: (T, S) bool."""
    T, S = dense.shape
    picture = torch.zeros(rows, columns, dtype=torch.float64)
    row, column = torch.arange(T) * rows // T, torch.arange(S) * columns // S
    ones = torch.zeros_like(picture)
    index = (row[:, None] * columns + column).flatten()
    picture.view(-1).index_add_(0, index, dense.flatten().double())
    ones.view(-1).index_add_(0, index, torch.ones(T * S, dtype=torch.float64))
    return picture / ones


def picture(kinds: Tensor) -> list[str]:
    """One line for each row of a map of EMPTY, PARTIAL, FULL."""
    return ["".join(SHADES[int(kind)] * 2 for kind in row) for row in kinds]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.masks", description="Draw a mask and its block map.")
    parser.add_argument("mask", help=f"names joined by commas: {', '.join(NAMES)}")
    parser.add_argument("--tokens", type=int, default=512, metavar="T", help="queries (default 512)")
    parser.add_argument("--keys", type=int, metavar="S", help="keys (default: as many as queries)")
    parser.add_argument("--block", type=int, default=64, help="side of a block (default 64)")
    parser.add_argument("--width", type=int, default=32, help="cells of the picture (default 32)")
    options = parser.parse_args(argv)
    T, S = options.tokens, options.keys or options.tokens
    if min(T, S, options.block, options.width) < 1:
        raise UserError("--tokens, --keys, --block and --width must be 1 or more.")
    mask = parse_mask(options.mask, 1, T, S)
    dense = mask.dense(1, T, S)[0, 0]
    cells = shares(dense, min(options.width, T), min(options.width, S))
    kinds = (cells > 0).int() * PARTIAL + (cells == 1).int() * (FULL - PARTIAL)
    blocks = mask.blocks(1, T, S, options.block, options.block)[0]
    visible = dense.double().mean().item()
    print(f"{options.mask}: {T} queries (down) x {S} keys (right), {visible:.1%} of the pairs visible\n")
    print("\n".join(picture(kinds)))
    counts = [int((blocks == kind).sum()) for kind in (0, PARTIAL, FULL)]
    print(
        f"\nblocks of {options.block} x {options.block}: {counts[0]} empty (skipped), {counts[1]} partial (masked),",
        end=" ",
    )
    print(f"{counts[2]} full; {1 - counts[0] / blocks.numel():.1%} of the work is done\n")
    print("\n".join(picture(blocks)))


if __name__ == "__main__":
    run_main(main)
