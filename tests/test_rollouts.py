"""Rollouts: a function of (seed, position, weights), whole groups, and log-probabilities of what was sampled."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import ConfigError, UserError
from data.answers import example_of
from data.chat import ChatFormat, Conversation, Message
from instruct.rewards import Question
from model.heads import ValuedModel
from model.load import LoadedModel, load_run, model_files
from model.storage import checkpoint_folder, write_folder
from tests.small import small_model
from train.advantages import group_advantages
from train.distributed import Ranks
from train.rollouts import Group, LossConfig, ReinforceObjective, RolloutBatch, Rollouts, measured_logs, token_logs

QUESTIONS = [
    Question(Conversation((Message("user", " ".join(["ka to"] * (1 + i % 3) + [str(i)])),)), str(i)) for i in range(7)
]


LESSONS = [example_of(range(10, 10 + size), range(size, size + 4)) for size in (3, 5, 30)]


def by_length(questions, answers):
    return [float(len(answer.text) % 3) for answer in answers]


def rollouts(tokenizer, loss: LossConfig | None = None, reward=by_length, values=False, **settings) -> Rollouts:
    model = small_model(vocab_size=tokenizer.vocab_size)
    model.trunk.embedding.weight.data *= 0.3  # sharp enough to stop now and then, soft enough to vary
    reference = copy.deepcopy(model)
    reference.trunk.embedding.weight.data *= 0.9
    if values:
        model = ValuedModel.of(model)
        torch.manual_seed(1)
        model.value.weight.data = 0.3 * torch.randn_like(model.value.weight)
    loaded = LoadedModel(model.eval(), tokenizer, ChatFormat(), Path("."))
    defaults = {"group": 3, "new_tokens": 8, "batch_size": 4, "seed": 5, "ranks": Ranks(), "report": lambda *_: None}
    return Rollouts(loaded, reference, QUESTIONS, reward, loss or LossConfig(), **(defaults | settings))


def fields_of(batch: RolloutBatch) -> dict[str, torch.Tensor]:
    return {name: getattr(batch, name) for name in RolloutBatch.__dataclass_fields__}


def answers_of(batch: RolloutBatch) -> list[list[int]]:
    return [row[mask > 0].tolist() for group in zip(batch.targets, batch.weights) for row, mask in zip(*group)]


def test_a_rollout_follows_from_its_position(small_tokenizer):
    rows = rollouts(small_tokenizer)
    whole = rows.batch(np.array([3, 0, 6, 3]), np.array([8, 9, 10, 11]))
    again = rows.batch(np.array([3, 0, 6, 3]), np.array([8, 9, 10, 11]))
    assert all(torch.equal(one, other) for one, other in zip(fields_of(whole).values(), fields_of(again).values()))
    parts = [rows.batch(np.array(s), np.array(p)) for s, p in [([3, 6], [8, 10]), ([0, 3], [9, 11])]]
    mine = [answers_of(part) for part in parts]
    together = mine[0][:3] + mine[1][:3] + mine[0][3:] + mine[1][3:]
    assert answers_of(whole) == together, "ranks sample what one process would have"
    answers = answers_of(whole)
    assert answers[:3] != answers[9:], "the same question elsewhere is answered anew"
    assert len({tuple(answer) for answer in answers}) > 6, "answers of a group are different"


def test_old_log_probabilities_are_those_of_the_model_alone(small_tokenizer):
    """Without cache, padding or company."""
    rows = rollouts(small_tokenizer)
    batch = rows.batch(np.array([3, 1, 2, 5]), np.arange(4))
    for name, model in (("old", rows.loaded.model), ("reference", rows.reference)):
        logs = getattr(batch, name)
        for b in range(4):
            for k in range(3):
                places = batch.weights[b, k] > 0
                length = int(places.nonzero().max()) + 1
                with torch.no_grad():
                    alone = model(batch.tokens[b, k : k + 1, :length])[0].log_softmax(-1)
                expected = alone.gather(1, batch.targets[b, k, :length, None])[:, 0][places[:length]]
                torch.testing.assert_close(logs[b, k][places], expected, rtol=1e-4, atol=1e-4)
                assert (logs[b, k][~places] == 0).all()


def test_answers_end_with_the_token_that_ended_them(small_tokenizer):
    rows = rollouts(small_tokenizer, new_tokens=20)
    groups, _ = rows.sample(range(7), range(7))
    ends = (small_tokenizer.end, small_tokenizer.eos)
    finished = [said.finished for group in groups for said in group.said]
    assert any(finished), "the test must see an end"
    for group in groups:
        for ids, said in zip(group.ids, group.said):
            assert said.finished == (ids[-1] in ends)
            assert said.finished or len(ids) == 20
            assert not set(ids[:-1]) & set(ends)
            assert said.text == small_tokenizer.decode([i for i in ids if i not in ends]).strip()


def test_advantages_are_those_of_each_group(small_tokenizer):
    seen = []

    def reward(questions, answers):
        seen.append(by_length(questions, answers))
        return seen[-1]

    batch = rollouts(small_tokenizer, reward=reward).batch(np.arange(4), np.arange(4))
    wanted = group_advantages(torch.tensor(seen[0]).view(4, 3), "normalised")
    mask = batch.weights > 0
    torch.testing.assert_close(batch.advantages, wanted[..., None] * mask)
    assert (batch.counted == 1).all()


def test_what_is_right_is_counted_beside_the_reward(small_tokenizer):
    """Of all answers, also those that were sampled on the way, and it changes nothing."""
    seen, figures = [], []

    def truth(questions, answers):
        seen.append([float("a" in answer.text) for answer in answers])
        return seen[-1]

    plain = rollouts(small_tokenizer, LossConfig("dapo"), half_silent)
    watching = {"truth": truth, "report": lambda _, found: figures.append(found)}
    rows = rollouts(small_tokenizer, LossConfig("dapo"), half_silent, **watching)
    batch, other = (each.batch(np.arange(4), np.arange(4)) for each in (rows, plain))
    assert len(seen) > 1 and 0 < sum(sum(part) for part in seen)
    assert figures[0]["right"] == pytest.approx(sum(sum(part) for part in seen) / sum(len(part) for part in seen))
    assert all(torch.equal(value, fields_of(other)[name]) for name, value in fields_of(batch).items())


def test_a_penalty_in_the_reward(small_tokenizer):
    batch = rollouts(small_tokenizer, LossConfig("rloo", kl=0.5)).batch(np.arange(4), np.arange(4))
    plain = rollouts(small_tokenizer, LossConfig("rloo")).batch(np.arange(4), np.arange(4))
    mask = batch.weights > 0
    penalty = 0.5 * (batch.old - batch.reference).sum(-1)
    more = group_advantages(-penalty, "leave-one-out")[..., None] * mask
    torch.testing.assert_close(batch.advantages, plain.advantages + more, rtol=1e-4, atol=1e-4)


def test_groups_without_signal_are_sampled_again_and_then_left_out(small_tokenizer):
    figures = []

    def reward(questions, answers):
        return [
            float(len(answer.text)) if int(question.expected) > 3 else 1.0
            for question, answer in zip(questions, answers)
        ]

    settings = {"reward": reward, "report": lambda step, found: figures.append((step, found))}
    once = rollouts(small_tokenizer, LossConfig("dapo", attempts=0), **settings).batch(np.arange(4), np.arange(4, 8))
    assert (once.counted == 0).all(), "questions 0 to 3 give no signal"
    for part in once.split(1):
        model, rows = rollouts(small_tokenizer).loaded.model, []
        model.trunk.register_forward_hook(lambda module, given, result, rows=rows: rows.append(len(result)))
        ReinforceObjective(LossConfig(), 8)(model, part).total.backward()
        assert rows == [1] and all(not p.grad.any() for p in model.parameters()), "a gradient of nothing, on every rank"
    assert figures[-1][0] == 2 and figures[-1][1]["silent"] == 1.0
    rows = rollouts(small_tokenizer, LossConfig("dapo", attempts=8), **settings)
    more = rows.batch(np.arange(4), np.arange(4, 8))
    assert (more.counted == 1).all() and more.samples.min() > 3, "other questions took their places"
    assert 0 < figures[-1][1]["silent"] < 1 and figures[-1][1]["groups"] > 4
    alone = rows.batch(np.array([2]), np.array([6]))
    assert answers_of(alone) == answers_of(more)[6:9], "also what is sampled again follows from the position"


def test_rejection_sampling_keeps_each_good_answer_once(small_tokenizer):
    rows = rollouts(small_tokenizer, LossConfig("rft", good=1.0), group=4)
    ids = [[7, 3], [8, 3], [7, 3], [9, 3]]
    assert rows._kept(Group(0, ids, [], [1.0, 0.5, 1.0, 2.0])) == [1, 0, 0, 1]


def test_values_become_advantages_of_tokens(small_tokenizer):
    batch = rollouts(small_tokenizer, LossConfig("ppo", kl=0.1), values=True).batch(np.arange(4), np.arange(4))
    rows = rollouts(small_tokenizer, LossConfig("ppo", kl=0.1), values=True)
    _, values = measured_logs(rows.loaded.model, batch)
    mask = batch.weights > 0
    torch.testing.assert_close(batch.returns, batch.advantages + values)
    groups, _ = rows.sample(range(4), range(4))
    b, k = 1, 2
    places = mask[b, k].nonzero()[:, 0].tolist()
    ahead, following = 0.0, 0.0
    for place in reversed(places):
        reward = -0.1 * float(batch.old[b, k, place] - batch.reference[b, k, place])
        reward += groups[b].rewards[k] if place == places[-1] else 0.0
        ahead = reward + following - float(values[b, k, place]) + 0.95 * ahead
        following = float(values[b, k, place])
        assert float(batch.advantages[b, k, place]) == pytest.approx(ahead, abs=1e-4)


# The objective -------------------------------------------------------------------------------------------------------


def half_silent(questions, answers):
    return [0.0 if int(q.expected) > 2 else each for q, each in zip(questions, by_length(questions, answers))]


@pytest.mark.parametrize("kl", [0.05, 0.0])
@pytest.mark.parametrize("method", ["grpo", "dr-grpo", "dapo", "rloo", "ppo", "rft"])
def test_the_gradient_is_that_of_the_policy_gradient(small_tokenizer, method, kl):
    """Of the sampled answers: -A times the gradient of log p, and the terms of divergence and values; also where the
    model is not run on answers without an advantage."""
    config = LossConfig(method, kl=kl, attempts=0)
    rows = rollouts(small_tokenizer, config, values=method == "ppo", reward=half_silent)
    batch = rows.batch(np.array([3, 1, 2, 5]), np.arange(4))
    assert batch.used.all() == (kl > 0 or method == "ppo")
    model, switches = rows.loaded.model, config.switches
    terms = ReinforceObjective(config, rows.new_tokens)(model, batch)
    terms.total.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    logs, values = token_logs(model, batch)
    mask = (batch.weights > 0) * batch.counted[..., None]
    wanted = -batch.advantages * logs
    if not switches.kl_in_reward:
        wanted = wanted + kl * (batch.reference - logs).exp() + kl * logs
    if values is not None:
        wanted = wanted + 0.25 * (values - batch.returns) ** 2
    wanted = wanted * mask
    if switches.average == "answer":
        wanted = wanted / mask.sum(-1, keepdim=True).clamp(min=1)
    if switches.average == "constant":
        wanted = wanted / rows.new_tokens
    wanted.sum().backward()
    weight = mask.sum() if switches.average == "token" else batch.counted.sum()
    assert float(terms.weight) == float(weight) > 0
    assert len(found) > 10
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("method", ["grpo", "dr-grpo", "dapo", "rloo", "ppo", "rft"])
def test_a_lesson_beside_each_group(small_tokenizer, method):
    """Adds `rehearsal` times its cross-entropy, and changes nothing about the group."""
    seen = []
    settings = {"values": method == "ppo", "reward": half_silent, "report": lambda _, found: seen.append(found)}
    plain = rollouts(small_tokenizer, LossConfig(method, attempts=0), **settings)
    rows = rollouts(small_tokenizer, LossConfig(method, attempts=0, rehearsal=2.5), lessons=LESSONS, **settings)
    places = (np.array([3, 1, 2, 5]), np.arange(4))
    batch, group = rows.batch(*places), plain.batch(*places)
    figures, of_group = seen
    assert answers_of(group) == [ids for i, ids in enumerate(answers_of(batch)) if i % 4 < 3]
    torch.testing.assert_close(batch.advantages[:, :3][group.used], group.advantages[group.used])
    lessons = {tuple(lesson.ids[1:][lesson.weights[1:] > 0].tolist()): lesson for lesson in LESSONS[:2]}
    taken = [lessons[tuple(ids)] for ids in answers_of(batch)[3::4]]  # the third lesson is too long
    assert answers_of(rows.batch(np.array([4]), np.array([2])))[-1] == answers_of(batch)[11], "of the position alone"
    assert {len(each) for each in taken} == {7, 9}, "both are taken"
    model, found = rows.loaded.model, []
    for rollout, config in ((batch, rows.config), (group, plain.config)):
        model.zero_grad()
        terms = ReinforceObjective(config, rows.new_tokens)(model, rollout)
        terms.total.backward()
        found.append((terms, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    model.zero_grad()
    wanted, average = 0.0, rows.config.switches.average
    for lesson in taken:
        logs = model(torch.from_numpy(lesson.ids[None, :-1]))[0].log_softmax(-1)
        told = logs.gather(1, torch.from_numpy(lesson.ids[1:, None]))[:, 0] * torch.from_numpy(lesson.weights[1:])
        wanted -= 2.5 * told.sum() / {"answer": lesson.weights[1:].sum(), "token": 1, "constant": 8}[average]
    wanted.backward()
    for name, parameter in model.named_parameters():
        if name in found[0][1] and parameter.grad is not None:
            more = found[0][1][name] - found[1][1].get(name, 0)
            torch.testing.assert_close(more, parameter.grad, rtol=1e-3, atol=1e-4)
    wanted = [float(batch.old[row, 3].sum()) for row in range(4)]
    assert figures["lessons"] == pytest.approx(-sum(wanted) / sum(each.weights[1:].sum() for each in taken), rel=1e-4)
    assert figures["kl"] == pytest.approx(of_group["kl"], rel=1e-3)
    more = sum(each.weights[1:].sum() for each in taken) if average == "token" else 4
    assert float(found[0][0].weight - found[1][0].weight) == more


def test_divergence_and_entropy_are_those_of_the_answers_in_use(small_tokenizer, monkeypatch):
    monkeypatch.setattr("train.rollouts.BATCH_TOKENS", 1)  # so that a part has groups of no use only
    figures = []
    report = lambda step, found: figures.append(found)
    batch = rollouts(small_tokenizer, reward=half_silent, report=report).batch(np.array([3, 1, 2, 5]), np.arange(4))
    used = batch.used
    assert 0 < used.sum() < used.numel()
    assert not batch.old[~used].any() and not batch.reference[~used].any()
    inside = (batch.weights > 0)[used]
    logs, reference = batch.old[used], batch.reference[used]
    each = ((reference - logs).exp() - 1 - (reference - logs)).sum(-1)
    assert figures[0]["kl"] == pytest.approx(float(each.mean()), rel=1e-4)
    assert figures[0]["entropy"] == pytest.approx(float(-logs[inside].mean()), rel=1e-4)


def test_micro_batches_keep_groups_whole(small_tokenizer):
    rows, config = rollouts(small_tokenizer), LossConfig(kl=0.1)
    batch = rows.batch(np.arange(4), np.arange(4))
    objective = ReinforceObjective(config, rows.new_tokens)
    whole = objective(rows.loaded.model, batch)
    parts = [objective(rows.loaded.model, part) for part in batch.split(1)]
    assert all(isinstance(part, RolloutBatch) for part in batch.split(1))
    torch.testing.assert_close(whole.total, sum(part.total for part in parts), rtol=1e-4, atol=1e-5)
    assert float(whole.weight) == sum(float(part.weight) for part in parts)


def test_a_model_with_values_is_saved_and_is_a_language_model(small_tokenizer, tmp_path):
    rows = rollouts(small_tokenizer, LossConfig("ppo"), values=True)
    write_folder(checkpoint_folder(tmp_path, 1), model_files(rows.loaded.model, small_tokenizer, ChatFormat()))
    plain, valued = load_run(tmp_path).model, load_run(tmp_path, heads=["value"]).model
    assert plain.head_name == "language" and not hasattr(plain, "value")
    tokens = torch.arange(12).view(1, 12)
    torch.testing.assert_close(plain(tokens), rows.loaded.model(tokens), rtol=0, atol=0)
    torch.testing.assert_close(valued.value.weight, rows.loaded.model.value.weight, rtol=0, atol=0)


def test_settings_that_make_no_sense(small_tokenizer):
    for wrong in ({"kl": -1.0}, {"rehearsal": -1.0}, {"trace": 1.5}, {"low": 2.0}, {"attempts": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            LossConfig(**wrong)
    assert LossConfig("dapo", high=0.5, attempts=1).switches.high == 0.5
    with pytest.raises(UserError, match="answer_tokens must be below"):
        rollouts(small_tokenizer, new_tokens=48)
    with pytest.raises(UserError, match="none of 1 lessons has at most"):
        rollouts(small_tokenizer, LossConfig(rehearsal=1.0), lessons=LESSONS[2:])
