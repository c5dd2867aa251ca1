"""Batched generation with a cache: prompts of unequal length, per-row seeds, streaming.

    sampling = Sampling(temperature=0.8, top_p=0.95)
    continuations = generate(model, prompts, new_tokens=64, sampling=sampling, stop=[tokenizer.eos])

Every row gets what it would get alone: rows keep their own lengths, positions and random numbers (`model.cache`,
`model.sampling`). A prompt of several rows is read once. Finished rows leave the batch, some at a time, so that a batch
costs what its longest rows need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from configs import UserError
from model.cache import KeyValueCache
from model.heads import LanguageModel
from model.sampling import Sampling, choose

LEAVE = 0.25  # share of the rows of a batch that leave it together


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    sampling: Sampling | None = None,
    stop: Sequence[int] = (),
    seeds: Sequence[int] | None = None,
    banned: Sequence[int] = (),
) -> list[list[int]]:
    """Continue each prompt by up to `new_tokens` tokens; the stop token is not part of the result.

    seeds: one a row (default: its number). banned: ids that are never chosen.
    Raises UserError as `generate_steps` does.
    """
    outputs: list[list[int]] = [[] for _ in prompts]
    for rows, tokens in generate_steps(model, prompts, new_tokens, sampling, stop, seeds, banned):
        for row, token in zip(rows, tokens):
            outputs[row].append(token)
    return outputs


def stream(
    model: LanguageModel,
    prompt: Sequence[int],
    new_tokens: int,
    sampling: Sampling | None = None,
    stop: Sequence[int] = (),
    seed: int = 0,
    banned: Sequence[int] = (),
) -> Iterator[int]:
    """The new tokens of one prompt, one by one as they are made."""
    for _, tokens in generate_steps(model, [prompt], new_tokens, sampling, stop, [seed], banned):
        yield from tokens


@torch.inference_mode()
def generate_steps(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    sampling: Sampling | None = None,
    stop: Sequence[int] = (),
    seeds: Sequence[int] | None = None,
    banned: Sequence[int] = (),
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield, step by step, (rows that are still running, the token each of them got).

    Raises UserError for an empty prompt, an encoder, or more tokens than learned positions allow.
    """
    check_request(model, prompts, new_tokens)
    if not len(prompts) or new_tokens < 1:
        return
    sampling = sampling or Sampling()
    with _evaluating(model):
        running = _Running(model, prompts, new_tokens, range(len(prompts)) if seeds is None else seeds)
        stops = torch.tensor(list(stop), dtype=torch.int64, device=running.rows.device)
        for step in range(new_tokens):
            tokens = running.choose(sampling, list(banned))
            tokens = running.end(torch.isin(tokens, stops), tokens)
            if not running.going.any():
                return
            yield running.rows[running.going].tolist(), tokens[running.going].tolist()
            if step + 1 < new_tokens:
                running.feed(tokens)


class _Running:
    """The rows of a batch that have not met a stop token, and some that have; B of them.

    rows (B,): their numbers in the batch. going (B,): which go on. lengths (B,): tokens so far.
    hidden (B, C): of the last token. seen (B, V) bool: the tokens so far.
    """

    def __init__(
        self, model: LanguageModel, prompts: Sequence[Sequence[int]], new_tokens: int, seeds: Sequence[int]
    ) -> None:
        """Run the prompts, padded on the right, through the model."""
        device = model.trunk.embedding.weight.device
        self.model = model
        self.rows = torch.arange(len(prompts), device=device)
        self.going = torch.ones(len(prompts), dtype=torch.bool, device=device)
        self.seeds = torch.tensor([seed % 2**63 for seed in seeds], device=device)
        numbers: dict[tuple[int, ...], int] = {}  # of different prompts
        which = torch.tensor([numbers.setdefault(tuple(prompt), len(numbers)) for prompt in prompts], device=device)
        lengths = torch.tensor([len(prompt) for prompt in numbers], device=device)
        tokens = pad_sequence([torch.tensor(prompt) for prompt in numbers], batch_first=True).to(device)
        inside = torch.arange(tokens.shape[1], device=device) < lengths[:, None]
        seen = torch.zeros(len(numbers), model.config.vocab_size, dtype=torch.int64, device=device)
        self.seen = (seen.scatter_add_(1, tokens, inside.long()) > 0)[which]
        capacity = tokens.shape[1] + new_tokens
        self.cache = KeyValueCache(model.config, len(numbers), capacity, model.trunk.compute_dtype, device)
        hidden = model.trunk(tokens, cache=self.cache)  # (different prompts, T, C)
        self.cache.truncate(lengths)
        if len(numbers) < len(prompts):
            self.cache.select(which)
        self.lengths = lengths[which]
        self.hidden = hidden[which, self.lengths - 1]

    def choose(self, sampling: Sampling, banned: list[int]) -> Tensor:
        """The next token of each row, (B,)."""
        logits = self.model.head(self.hidden)
        logits[:, banned] = -torch.inf
        return choose(logits, sampling, self.seeds, self.lengths, self.seen)

    def end(self, ended: Tensor, tokens: Tensor) -> Tensor:
        """Note which rows (B,) have met a stop token; the tokens (B,) of the rows that are still here.

        Leaving means that the cache of all others is copied, so that they leave a quarter at a time.
        """
        self.going = self.going & ~ended
        if self.going.sum() > (1 - LEAVE) * len(self.rows):
            return tokens
        stay = self.going
        self.rows, self.seeds, self.lengths = self.rows[stay], self.seeds[stay], self.lengths[stay]
        self.seen, self.going = self.seen[stay], self.going[stay]
        self.cache.select(stay.nonzero()[:, 0])
        return tokens[stay]

    def feed(self, tokens: Tensor) -> None:
        """Append one token (B,) to each row."""
        self.seen[torch.arange(len(tokens), device=tokens.device), tokens] = True
        self.hidden = self.model.trunk(tokens[:, None], cache=self.cache)[:, 0]
        self.lengths = self.lengths + 1


def check_request(model: LanguageModel, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
    """Raise UserError when this model cannot continue these prompts."""
    if not model.config.causal:
        raise UserError("this model is an encoder (causal = false): it cannot generate text; use a causal model")
    if any(len(prompt) == 0 for prompt in prompts):
        raise UserError("a prompt must hold at least one token; start it with <bos>")
    longest = max((len(prompt) for prompt in prompts), default=0) + new_tokens
    if model.config.position == "learned" and longest > model.config.context:
        raise UserError(
            f"{longest} tokens exceed the {model.config.context} learned positions of this model; shorten the prompt, "
            "or ask for fewer tokens"
        )


@contextmanager
def _evaluating(model: LanguageModel) -> Iterator[None]:
    """Dropout off while generating; the former mode comes back."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
