"""Is a filter right? Its decisions and its score against what is known of the records.

    confusion(NearDuplicate(0.7, graded=True), records, truth)["precision"]

Where instructions can be run, the truth about each is known, and so is what a filter that only looks at words gets
wrong: the good ones that it drops, the bad ones that it keeps. This is the measure for all filters with the interface
of `instruct.filters`. It leaves out what a wrong decision costs in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from configs import UserError
from instruct.filters import Filter


def confusion(judge: Filter, records: Sequence[Any], truth: Sequence[bool]) -> dict[str, float | None]:
    """A filter against the truth: `truth` says which records are good, a filter is right to drop the others.

    precision: share of what it drops that is bad; recall: share of what is bad that it drops; auc: chance that its
    score ranks a bad record below a good one (ties count half), None where it gives no ordered score to every record;
    good_before, good_after: share of good records among all, and among what it keeps. None where a share is of none.
    """
    if len(records) != len(truth):
        raise UserError(f"{len(records)} records and {len(truth)} truths: give one truth for each record")
    verdicts = judge(records)
    good, dropped = (
        np.array(truth, dtype=bool),
        np.array([verdict.code is not None for verdict in verdicts], dtype=bool),
    )
    scores = [verdict.score for verdict in verdicts]
    ordered = judge.higher_is_better is not None and None not in scores
    badness = np.array(scores, dtype=float) * (-1 if judge.higher_is_better else 1) if ordered else None
    counts = {
        "dropped_bad": int((dropped & ~good).sum()),
        "dropped_good": int((dropped & good).sum()),
        "kept_bad": int((~dropped & ~good).sum()),
        "kept_good": int((~dropped & good).sum()),
    }
    return counts | {
        "precision": _share(counts["dropped_bad"], dropped.sum()),
        "recall": _share(counts["dropped_bad"], (~good).sum()),
        "auc": None if badness is None else area_under_curve(badness, ~good),
        "good_before": _share(good.sum(), len(good)),
        "good_after": _share(counts["kept_good"], (~dropped).sum()),
    }


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Chance that a positive has the higher score than a negative, ties counting half (Mann and Whitney 1947); None
    where one of them is missing. scores (N,), positive (N,) bool."""
    above, below = int(positive.sum()), int((~positive).sum())
    if not above or not below:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # from 1 on, equal scores share their mean rank
    return float((ranks[positive].sum() - above * (above + 1) / 2) / (above * below))
