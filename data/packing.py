"""Best-fit packing: pieces of unequal length into rows of one length, with as little padding as can be had.

Pieces are taken from long to short; each goes into the fullest row that still has room, else into a new row: best-fit
decreasing, which needs at most 11/9 of the best possible number of rows and 4 more (Johnson et al. 1974). No piece is
cut and none is dropped. Finding the fullest row that fits is an operation on a big integer whose bit r says that some
row has r places left: sorting aside, the time is linear in the number of pieces.

What it leaves out: the whole list is packed at once, so memory is a few numbers a piece.
"""

from __future__ import annotations

import numpy as np


def best_fit(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Distribute pieces over rows: each row is a list of indices into `lengths` (N,), whose sum is at most `capacity`.

    Deterministic: equal lengths keep their order. Raises `ValueError` when a piece is longer than a row.
    """
    lengths = np.asarray(lengths)
    if len(lengths) and lengths.max() > capacity:
        raise ValueError(f"a piece of {lengths.max()} tokens does not fit a row of {capacity}; cut it first")
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]  # by the room that is left
    has_room = 0  # bit r is set when open_rows[r] is not empty
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        fitting = has_room >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                has_room ^= 1 << room
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(index)
        left = room - length
        open_rows[left].append(row)
        has_room |= 1 << left
    return rows
