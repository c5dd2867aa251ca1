"""What to hide from the model: masking (BERT) and infilling (FIM), as pure functions of the place in the run.

- `MaskedRows` (Devlin et al. 2019): 15 % of the tokens are chosen; of these 80 % become <mask>, 10 % a random token,
  10 % stay; the model predicts the original at the chosen places only. With `whole_words`, all pieces of a word are
  chosen together.
- `Infill` (Bavarian et al. 2022, "Efficient training of language models to fill in the middle"): a share of the
  pieces is rewritten from `prefix middle suffix` to `<prefix> prefix <suffix> suffix <middle> middle`, so that a
  causal model learns to write what stands between two texts, and with the <eos> that follows to stop there.

What it leaves out: spans (T5, SpanBERT), and the variant of infilling that puts the suffix first.
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
    """Rows whose tokens are partly hidden: `targets` are the originals, `weights` is 1 where one was chosen.

    Only text is chosen, never markers or padding; in each row the nearest whole number to `share` of its text, at
    least one token. With `whole_words` words are added until that number is reached, so it is somewhat more.
    """

    def __init__(self, rows: Rows, tokenizer: Tokenizer, config: MaskingConfig, seed: int = 0):
        self.rows, self.tokenizer, self.config, self.seed = rows, tokenizer, config, seed
        lengths = np.asarray(tokenizer.byte_lengths)
        self.is_text = lengths > 0  # (V,) bool: markers and padding stand for no bytes
        self.text_ids = np.flatnonzero(self.is_text)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, samples: np.ndarray, positions: np.ndarray) -> Batch:
        batch = self.rows.batch(samples, positions)
        tokens, begins = batch.tokens.numpy().copy(), batch.positions.numpy() == 0  # (B, T)
        weights = np.zeros(tokens.shape, np.float32)
        for row, position in enumerate(positions):
            generator = row_generator(self.seed, int(position))
            chosen = self._choose(tokens[row], begins[row], generator)
            fate = generator.random(len(chosen))
            replacement = generator.choice(self.text_ids, len(chosen))
            hidden = fate < self.config.mask
            randomised = ~hidden & (fate < self.config.mask + self.config.random)
            tokens[row, chosen[hidden]] = self.tokenizer.mask
            tokens[row, chosen[randomised]] = replacement[randomised]
            weights[row, chosen] = 1
        return dataclasses.replace(
            batch, tokens=torch.from_numpy(tokens), targets=batch.tokens, weights=torch.from_numpy(weights)
        )

    def _choose(self, ids: np.ndarray, begins: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The places (N,) to predict in a row of ids (T,); `begins` (T,) bool is true where a document begins."""
        candidates = np.flatnonzero(self.is_text[ids])
        if not len(candidates):
            return candidates
        wanted = max(1, round(self.config.share * len(candidates)))
        if not self.config.whole_words:
            return np.sort(generator.permutation(candidates)[:wanted])
        starts = self.tokenizer.is_word_start(ids) | ~self.is_text[ids] | begins
        words = np.cumsum(starts)[candidates]  # number of the word that each candidate belongs to
        names, counts = np.unique(words, return_counts=True)
        order = generator.permutation(len(names))
        taken = order[: int(np.searchsorted(np.cumsum(counts[order]), wanted)) + 1]
        return candidates[np.isin(words, names[taken])]


@dataclass(frozen=True)
class Infill:
    """A `PieceTransform`: with probability `rate` a piece becomes prefix-suffix-middle.

    <bos> and <eos> stay at the ends. The three markers take the room of the last three tokens of the text, so that the
    length stays as it was packed. A piece of fewer than five tokens of text is left as it is.
    """

    tokenizer: Tokenizer
    rate: float = 0.5

    def __call__(
        self, ids: np.ndarray, weights: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        draw, cuts = generator.random(), generator.random(2)
        head = 1 if ids[0] == self.tokenizer.bos else 0
        tail = len(ids) - 1 if ids[-1] == self.tokenizer.eos else len(ids)
        if draw >= self.rate or tail - head < 5:
            return ids, weights
        text = ids[head : tail - 3]
        low, high = sorted(int(cut * (len(text) + 1)) for cut in cuts)
        prefix, suffix, middle = (
            [mark] for mark in (self.tokenizer.prefix, self.tokenizer.suffix, self.tokenizer.middle)
        )
        parts = [ids[:head], prefix, text[:low], suffix, text[high:], middle, text[low:high], ids[tail:]]
        return np.concatenate(parts), np.ones(len(ids), np.float32)
