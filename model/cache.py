"""Keys and values of earlier tokens, so that a new token costs one forward pass of length 1.

Rows of a batch may have unequal lengths. Row b keeps its tokens at the places 0 .. lengths[b] - 1 of its cache:
filled from the left, no padding between. A prompt batch is padded on the right; after the prefill `truncate(lengths)`
forgets what the padding wrote, and later tokens overwrite it. A query of row b at position p sees the keys at s <= p
(`Causal(lengths)`), so what lies beyond is never read: every row gets what it would get alone (but for rounding, since
products of other shapes are summed in another order).

What it leaves out: pages, and layers with a window keep their whole past.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import ModelConfig


class KeyValueCache:
    """Cache for B rows of up to `capacity` tokens. `keys` and `values` are (L, B, K, capacity, D); of these the first
    `lengths` (B,) int64 places of each row are in use, and `longest` is the greatest of them.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ):
        shape = (config.layers, rows, config.num_kv_heads, capacity, config.D)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        self.capacity, self.longest = capacity, 0

    def layer(self, index: int) -> LayerCache:
        return LayerCache(self, index)

    def advance(self, tokens: int) -> None:
        """Count `tokens` new tokens in every row; called by the trunk after the last layer."""
        self.lengths = self.lengths + tokens
        self.longest += tokens

    def truncate(self, lengths: Tensor) -> None:
        """Keep only the first `lengths` (B,) tokens of each row."""
        self.lengths = lengths.to(self.lengths)
        self.longest = max(lengths.tolist(), default=0)

    def select(self, rows: Tensor) -> None:
        """Keep only the given rows (int64), in the given order; one may be given several times."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.truncate(self.lengths[rows])


class LayerCache:
    """The cache as one layer sees it."""

    def __init__(self, cache: KeyValueCache, index: int):
        self.cache, self.index = cache, index

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new k and v (B, K, T, D) behind each row's old ones; returns all of them, (B, K, S, D).

        Raises ValueError when the capacity is exceeded.
        """
        cache, (rows, _, T, _) = self.cache, k.shape
        used = cache.longest + T
        if used > cache.capacity:
            raise ValueError(
                f"the cache holds {cache.capacity} tokens, {used} are needed; make it with a larger capacity"
            )
        row = torch.arange(rows, device=k.device)[:, None]
        place = cache.lengths[:, None] + torch.arange(T, device=k.device)  # (B, T)
        keys, values = cache.keys[self.index], cache.values[self.index]
        keys[row, :, place] = k.transpose(1, 2).to(keys.dtype)
        values[row, :, place] = v.transpose(1, 2).to(values.dtype)
        return keys[:, :, :used].to(k.dtype), values[:, :, :used].to(v.dtype)
