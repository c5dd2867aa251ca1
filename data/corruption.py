"""What to hide from the model: masking (BERT) and infilling (FIM), as pure functions of the place in the run.

- `MaskedRows` (Devlin et al. 2019): 15 % of the tokens are chosen; of these 80 % become <mask>, 10 % a random token,
  10 % stay; the model predicts the original at the chosen places only. With `whole_words`, all pieces of a word are
  chosen together.
- `Infill` (Bavarian et al. 2022, "Efficient training of language models to fill in the middle"): a share of the
  pieces is rewritten from `prefix middle suffix` to `<prefix> prefix <suffix> suffix <middle> middle`, so that a
  causal model learns to write what stands between two texts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from configs import check
from data.batches import Batch, Rows, row_generator
from data.tokenizer import Tokenizer


@dataclass(frozen=True)
class MaskingConfig:
    """How tokens are chosen and hidden; the shares are BERT's."""

    share: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    whole_words: bool = False

    def __post_init__(self):
        problems = []
        if not 0 < self.share < 1:
            problems.append(f"share must lie between 0 and 1, got {self.share}")
        if min(self.mask, self.random) < 0 or self.mask + self.random > 1:
            problems.append(f"mask + random must be at most 1, got {self.mask} + {self.random}")
        check(problems)


class MaskedRows:
    """Rows whose tokens are partly hidden: `batch.targets` holds the originals, `batch.weights` is 1 where one was
    chosen.
    """

    def __init__(self, rows: Rows, tokenizer: Tokenizer, config: MaskingConfig, seed: int = 0):
        self.rows, self.tokenizer, self.config, self.seed = rows, tokenizer, config, seed
        lengths = np.asarray(tokenizer.byte_lengths)
        self.ordinary = np.flatnonzero(lengths > 0)  # pieces of text: neither markers nor padding
        self.is_ordinary = lengths > 0

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, samples: np.ndarray, positions: np.ndarray) -> Batch:
        batch = self.rows.batch(samples, positions)
        original = batch.tokens.numpy()
        tokens, weights = original.copy(), np.zeros(original.shape, np.float32)
        for row, position in enumerate(positions):
            generator = row_generator(self.seed, int(position))
            chosen = self._choose(original[row], generator)
            fate = generator.random(len(chosen))
            replacement = generator.choice(self.ordinary, len(chosen))
            hidden = fate < self.config.mask
            randomised = ~hidden & (fate < self.config.mask + self.config.random)
            tokens[row, chosen[hidden]] = self.tokenizer.mask
            tokens[row, chosen[randomised]] = replacement[randomised]
            weights[row, chosen] = 1
        return dataclasses.replace(
            batch, tokens=torch.from_numpy(tokens), targets=batch.tokens, weights=torch.from_numpy(weights)
        )

    def _choose(self, ids: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Places to predict: `share` of the ordinary tokens, at least one where there is any."""
        candidates = np.flatnonzero(self.is_ordinary[ids])
        if not len(candidates):
            return candidates
        wanted = max(1, round(self.config.share * len(candidates)))
        if not self.config.whole_words:
            return np.sort(generator.permutation(candidates)[:wanted])
        words = np.cumsum(self.tokenizer.is_word_start(ids) | ~self.is_ordinary[ids])[candidates]
        names, counts = np.unique(words, return_counts=True)
        order = generator.permutation(len(names))
        taken = order[: int(np.searchsorted(np.cumsum(counts[order]), wanted)) + 1]
        return candidates[np.isin(words, names[taken])]


@dataclass(frozen=True)
class Infill:
    """A `PieceTransform`: with probability `rate` a piece becomes prefix-suffix-middle.

    The three markers take the room of the last three tokens of the piece, so that lengths stay as they were packed.
    """

    tokenizer: Tokenizer
    rate: float = 0.5

    def __call__(self, ids: np.ndarray, weights: np.ndarray, generator: np.random.Generator) -> tuple:
        draw, cuts = generator.random(), generator.random(2)
        if draw >= self.rate or len(ids) < 8:
            return ids, weights
        head = 1 if ids[0] == self.tokenizer.bos else 0
        body = ids[head : len(ids) - 3]
        low, high = sorted(int(cut * (len(body) + 1)) for cut in cuts)
        marks = [np.array([mark]) for mark in (self.tokenizer.prefix, self.tokenizer.suffix, self.tokenizer.middle)]
        parts = [ids[:head], marks[0], body[:low], marks[1], body[high:], marks[2], body[low:high]]
        rewritten = np.concatenate(parts)
        return rewritten, np.ones(len(rewritten), np.float32)
