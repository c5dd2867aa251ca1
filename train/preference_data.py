"""The data of preference learning: judged answers, divided by their prompts, and laid into rows.

    train, held_out = divided(read_judged(paths, kind), validation=0.1)
    material = pair_material(train, tokenizer, chat, context)            # rows of two answers: chosen, rejected
    material = kto_material(train, tokenizer, chat, context, group=8)    # rows of 8 answers and 8 mismatched ones

A prompt is either trained on or held out, with all its answers, by a hash of its text.

For KTO pairs become two judged answers each. They are shuffled once and cut into groups; behind a group stand the same
prompts with the answers that follow in the shuffled order, each the next one that belongs to another prompt. So which
answers estimate the divergence together is a property of the data, and their reference is computed once as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs import UserError
from data.answers import AnswerRows, Group, fit_answers
from data.chat import ChatFormat, Message
from data.preferences import Labelled, Preference, is_paired, read_labelled, read_preferences
from data.tokenizer import Tokenizer
from instruct.labelled import divide

Judged = Preference | Labelled
Prompt = tuple[Message, ...]


@dataclass(frozen=True)
class Material:
    """Rows of K answers with what is known about them: all (rows, K).

    good: whether an answer is a good one. prompts: the number of its prompt; -1 where there is no judged answer.
    tokens: how many it has. dropped: judgements that did not fit into the context.
    """

    rows: AnswerRows
    good: Tensor
    prompts: Tensor
    dropped: int

    @property
    def tokens(self) -> Tensor:
        counts = [[0.0 if each is None else float(each.weights.sum()) for each in group] for group in self.rows.groups]
        return torch.tensor(counts)


# Reading -------------------------------------------------------------------------------------------------------------


def read_judged(paths: Sequence[str], kind: str) -> list[Judged]:
    """All judgements of the files. Raises UserError for those that the objective cannot learn from."""
    found: list[Judged] = []
    for path in paths:
        if is_paired(path):
            found += read_preferences(path)
            continue
        if kind != "kto":
            raise UserError(f"{path} judges single answers, from which only loss.kind=kto learns; give pairs")
        judged = read_labelled(path)
        scored = next((each for each in judged if each.label is None), None)
        if scored:
            raise UserError(f"{scored.origin}: a score is no label; learn from scores with train.reward")
        found += judged
    return found


def divided(found: Sequence[Judged], validation: float, source: str) -> tuple[list[Judged], list[Judged]]:
    """What is trained on and what is held out. Raises UserError where one of them is empty."""
    train, held_out = divide(found, validation, lambda each: text_of(each.prompt))
    if not train or not held_out:
        raise UserError(
            f"{source}: {len(train)} judgements to train on and {len(held_out)} to hold out; both are needed: give "
            "more prompts, or change data.validation"
        )
    return train, held_out


def text_of(prompt: Prompt) -> str:
    """All of a prompt as one text, by which it is told from others."""
    return "\n".join(f"{message.role}: {message.content}" for message in prompt)


def by_prompt(found: Sequence[Judged]) -> dict[Prompt, tuple[set[str], set[str]]]:
    """The good and the bad answers to each prompt."""
    answers: dict[Prompt, tuple[set[str], set[str]]] = {}
    for each in labelled(found):
        answers.setdefault(each.prompt, (set(), set()))[0 if each.label else 1].add(each.completion)
    return answers


def labelled(found: Sequence[Judged]) -> list[Labelled]:
    """Judged answers; a pair gives two."""
    made = []
    for each in found:
        if isinstance(each, Labelled):
            made.append(each)
        else:
            made.append(Labelled(each.prompt, each.chosen, True, origin=each.origin))
            made.append(Labelled(each.prompt, each.rejected, False, origin=each.origin))
    return made


# Rows ----------------------------------------------------------------------------------------------------------------


def pair_material(pairs: Sequence[Preference], tokenizer: Tokenizer, chat: ChatFormat, context: int) -> Material:
    """Row i: the chosen and the rejected answer of a pair. Raises UserError when none fits."""
    numbers = numbered(pairs)
    groups, prompts = [], []
    for pair in pairs:
        said = (pair.chosen, pair.rejected)
        if group := fit_answers(pair.prompt, said, tokenizer, chat, context + 1, pair.origin):
            groups.append(group)
            prompts.append([numbers[pair.prompt]] * 2)
    _require(groups, len(pairs), context)
    good = torch.tensor([[True, False]]).expand(len(groups), 2)
    rows = AnswerRows(groups, context, tokenizer.pad)
    return Material(rows, good, torch.tensor(prompts), len(pairs) - len(groups))


def kto_material(
    found: Sequence[Judged], tokenizer: Tokenizer, chat: ChatFormat, context: int, group: int, seed: int = 0
) -> Material:
    """Rows of `group` judged answers, and as many of the same prompts with answers to others; the last may be shorter.

    Raises UserError when none fits, or all have the same prompt.
    """
    judged = labelled(found)
    numbers = numbered(judged)
    order = np.random.default_rng(seed).permutation(len(judged)).tolist()
    shuffled = [judged[i] for i in order]
    fitting = []
    for place, each in enumerate(shuffled):
        said = (each.completion, _another(shuffled, place))
        if both := fit_answers(each.prompt, said, tokenizer, chat, context + 1, each.origin):
            fitting.append((each, *both))
    _require(fitting, len(judged), context)
    groups: list[Group] = []
    good, prompts = [], []
    for start in range(0, len(fitting), group):
        part = fitting[start : start + group]
        empty = [None] * (group - len(part))
        groups.append([*(own for _, own, _ in part), *empty, *(other for _, _, other in part), *empty])
        good.append([bool(each.label) for each, _, _ in part] + [False] * (2 * group - len(part)))
        prompts.append([numbers[each.prompt] for each, _, _ in part] + [-1] * (2 * group - len(part)))
    rows = AnswerRows(groups, context, tokenizer.pad)
    return Material(rows, torch.tensor(good), torch.tensor(prompts), len(judged) - len(fitting))


def _another(shuffled: Sequence[Labelled], place: int) -> str:
    """The next answer that belongs to another prompt."""
    for step in range(1, len(shuffled)):
        other = shuffled[(place + step) % len(shuffled)]
        if other.prompt != shuffled[place].prompt:
            return other.completion
    raise UserError("all answers have the same prompt: KTO needs at least two prompts to estimate its divergence")


def numbered(found: Sequence[Judged]) -> dict[Prompt, int]:
    """The prompts, numbered in the order in which they come first."""
    return {prompt: number for number, prompt in enumerate(dict.fromkeys(each.prompt for each in found))}


def _require(fitting: Sequence, count: int, context: int) -> None:
    if not fitting:
        raise UserError(f"none of {count} judgements fits into a context of {context} tokens: use a larger context")
