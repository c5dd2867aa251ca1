"""The guard: decides whether a step may change the weights.

A step is refused when its loss or gradient norm is not finite, or, with `spike` above 0, when one of them lies more
than `spike` robust deviations above the median of the recent accepted steps. The robust deviation is 1.4826 times the
median absolute deviation (equal to the standard deviation for normal noise, and deaf to the outliers that it is to
find), but at least 1 % of the median, so that a run whose noise has died down is not stopped by a trifle.

The decision is made on the device from figures that are equal on all ranks (they come out of the all-reduce), so
every rank decides alike, and a GPU never waits for the host. The memory of recent steps is part of the checkpoint: a
resumed run refuses what the uninterrupted one refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from configs import check

DEVIATION = 1.4826  # of a normal distribution, in median absolute deviations
FLOOR = 0.01  # smallest deviation, as a share of the median


@dataclass(frozen=True)
class GuardConfig:
    """spike: robust deviations above the median that are too many; 0 refuses only what is not finite.
    window: accepted steps that are remembered; the spike rule holds once half of them are there.
    patience: refused steps in a row that end the run.
    """

    spike: float = 0.0
    window: int = 64
    patience: int = 10

    def __post_init__(self):
        problems = []
        if self.spike < 0:
            problems.append(f"spike must not be negative, got {self.spike}")
        if self.window < 2:
            problems.append(f"window must be at least 2, got {self.window}")
        if self.patience < 1:
            problems.append(f"patience must be positive, got {self.patience}")
        check(problems)


class Guard:
    """Judges (loss, gradient norm) of each step; `recent` (window, 2) float64 holds those of accepted steps."""

    def __init__(self, config: GuardConfig, device: torch.device):
        self.config = config
        self.recent = torch.full((config.window, 2), torch.nan, dtype=torch.float64, device=device)

    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Whether the step may be applied: a bool scalar on the device. Accepted figures are remembered."""
        figures = torch.stack([loss.double(), norm.double()])  # (2,)
        healthy = figures.isfinite().all()
        if self.config.spike:
            centre = self.recent.nanmedian(0).values
            deviation = DEVIATION * (self.recent - centre).abs().nanmedian(0).values
            limit = centre + self.config.spike * torch.maximum(deviation, FLOOR * centre.abs())
            known = self.recent.isfinite().all(1).sum() >= self.config.window // 2
            healthy &= ~(known & (figures > limit).any())
        shifted = torch.cat([self.recent[1:], figures[None]])
        self.recent = torch.where(healthy, shifted, self.recent)
        return healthy

    def to_list(self) -> list[list[float]]:
        """The remembered figures, oldest first, for the checkpoint."""
        kept = self.recent[self.recent.isfinite().all(1)]
        return kept.tolist()

    def load_list(self, figures: list[list[float]]) -> None:
        """The inverse of `to_list`."""
        self.recent.fill_(torch.nan)
        if figures:
            kept = torch.tensor(figures[-self.config.window :], dtype=torch.float64)
            self.recent[-len(kept) :] = kept.to(self.recent.device)
