"""Batched generation with a cache: prompts of unequal length, per-row seeds, streaming.

    texts = generate(model, prompts, new_tokens=64, sampling=Sampling(temperature=0.8, top_p=0.95),
    stop=[tokenizer.eos])

Every row gets what it would get alone: rows keep their own lengths, positions and random numbers (`model.cache`,
`model.sampling`). Finished rows leave the batch, so that a batch costs what its longest rows need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from configs import UserError
from model.cache import KeyValueCache
from model.heads import LanguageModel
from model.sampling import Sampling, choose


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

    seeds: one a row (default: its number). banned: ids that are never chosen (markers, padding).
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
    sampling = sampling or Sampling()
    check_request(model, prompts, new_tokens)
    if not len(prompts) or new_tokens < 1:
        return
    device = model.trunk.embedding.weight.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = int(lengths.max())
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64, device=device)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    cache = KeyValueCache(model.config, len(prompts), longest + new_tokens, model.trunk.compute_dtype, device)
    seeds = torch.tensor(list(seeds) if seeds is not None else range(len(prompts)), device=device)
    rows = torch.arange(len(prompts), device=device)
    stops = torch.tensor(list(stop), dtype=torch.int64, device=device)
    seen = _seen(tokens, lengths, model.config.vocab_size) if sampling.repetition_penalty != 1 else None
    with _evaluating(model):
        hidden = model.trunk(tokens, cache=cache)
        cache.truncate(lengths)
        hidden = hidden[rows, lengths - 1]  # (B, C): the last token of each prompt
        for step in range(new_tokens):
            logits = model.head(hidden)
            if len(banned):
                logits[:, list(banned)] = -torch.inf
            chosen = choose(logits, sampling, seeds, lengths + step, seen)
            running = ~torch.isin(chosen, stops)
            if not running.all():
                keep = running.nonzero()[:, 0]
                rows, chosen, seeds, lengths = rows[keep], chosen[keep], seeds[keep], lengths[keep]
                seen = seen[keep] if seen is not None else None
                cache.select(keep)
                if not len(rows):
                    return
            yield rows.tolist(), chosen.tolist()
            if step + 1 < new_tokens:
                if seen is not None:
                    seen[torch.arange(len(rows)), chosen] = True
                hidden = model.trunk(chosen[:, None], cache=cache)[:, 0]


def check_request(model: LanguageModel, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
    """Raise UserError when this model cannot continue these prompts."""
    if not model.config.causal:
        raise UserError("this model is an encoder (causal = false): it cannot generate text; use a causal model")
    if any(len(prompt) == 0 for prompt in prompts):
        raise UserError("a prompt must hold at least one token; start it with <bos>")
    longest = max((len(prompt) for prompt in prompts), default=0) + new_tokens
    if model.config.position == "learned" and longest > model.config.context:
        raise UserError(
            f"{longest} tokens exceed the {model.config.context} learned positions of this model; shorten the prompt"
        )


def _seen(tokens: Tensor, lengths: Tensor, vocab_size: int) -> Tensor:
    """(B, V) bool: which tokens occur in each prompt."""
    inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    seen = torch.zeros(len(tokens), vocab_size, dtype=torch.int64, device=tokens.device)
    return seen.scatter_add_(1, tokens, inside.long()) > 0


@contextmanager
def _evaluating(model: LanguageModel):
    """Dropout off while generating; the former mode comes back."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
