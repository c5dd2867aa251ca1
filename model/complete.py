"""Many conversations answered at once: from messages to what the model says next, as text.

    said = complete(loaded, conversations, new_tokens=48, sampling=Sampling(temperature=1.0))
    said[0].text, said[0].finished

`generate` knows tokens; this knows `data.chat`. Prompts of similar length share a batch, which changes nothing about
what is written: every conversation has its own seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.chat import Conversation, prompt, taken_in
from model.generation import generate
from model.load import LoadedModel
from model.sampling import Sampling


@dataclass(frozen=True)
class Completion:
    """What was said, and whether it came to its end or was cut off."""

    text: str
    finished: bool


def complete(
    loaded: LoadedModel,
    conversations: Sequence[Conversation],
    new_tokens: int,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    batch_rows: int = 64,
) -> list[Completion]:
    """What the assistant says next in each conversation, in order.

    A last message of the assistant is left out; a prompt too long for the model is shortened (`data.chat.prompt`).
    seeds: one a conversation (default: its number).
    """
    room = loaded.model.config.context - new_tokens
    prompts = [prompt(conversation, loaded.tokenizer, loaded.chat, room) for conversation in conversations]
    return complete_prompts(loaded, prompts, new_tokens, sampling, seeds, batch_rows)


def complete_prompts(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    batch_rows: int = 64,
) -> list[Completion]:
    """The same from token ids."""
    tokenizer = loaded.tokenizer
    seeds = range(len(prompts)) if seeds is None else seeds
    said: dict[int, Completion] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_rows):
        rows = order[start : start + batch_rows]
        outputs = generate(
            loaded.model,
            [prompts[i] for i in rows],
            new_tokens,
            sampling,
            [tokenizer.end, tokenizer.eos],
            [seeds[i] for i in rows],
        )
        for i, ids in zip(rows, outputs):
            said[i] = Completion(taken_in(tokenizer.decode(ids), loaded.chat), len(ids) < new_tokens)
    return [said[i] for i in range(len(prompts))]
