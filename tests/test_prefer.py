"""Preference learning end to end at tiny size: it gains, it repeats itself, it says what goes wrong."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch

from configs import UserError, load
from data.answers import fit_answers
from data.batches import ExamplePieces, PackedRows
from data.chat import ChatFormat, Conversation, Message, encode, fit_all
from data.preferences import Preference, read_preferences, write_preferences
from instruct.pairs import PairsConfig, make_pairs
from model import LanguageModel, ModelConfig
from model.load import load_run, model_files
from model.storage import checkpoint_folder, newest_intact, write_folder
from tests.oracle import oracle_of, shared_course
from tests.ranks import on_ranks
from tests.small import require_only_adapters_learnt
from train.distributed import Ranks
from train.health import repetition
from train.objectives import language_modelling
from train.prefer import PreferConfig, build_trainer, comparison, log_table, reference_tables
from train.preference_data import kto_material, pair_material
from train.run import RunFolder, read_metrics

ANSWERS = {"mi": ("ka to", "ren ve"), "sol": ("ren ve", "ka to")}  # first word of the prompt: what is liked, what not
PROMPTS = [f"{word} {number}" for number in range(60) for word in ANSWERS]


def asked(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


PAIRS = [Preference(asked(text), *ANSWERS[text.split()[0]], rater="rule", simulated=True) for text in PROMPTS]


@pytest.fixture(scope="module")
def base(tmp_path_factory, small_tokenizer):
    """A model of width 32 that gives either answer to every prompt, each about half of the time."""
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(vocab_size=small_tokenizer.vocab_size, context=48, width=32, layers=2, heads=2))
    model.trunk.compute_dtype = torch.float32
    taught = [Conversation((*pair.prompt, Message("assistant", text))) for pair in PAIRS for text in ANSWERS["mi"]]
    examples, _ = fit_all(taught, small_tokenizer, ChatFormat(), 49)
    rows = PackedRows(ExamplePieces(examples), 48, small_tokenizer.pad)
    optimizer, draw = torch.optim.AdamW(model.parameters(), 1e-2), np.random.default_rng(0)
    for step in range(100):
        batch = rows.batch(draw.integers(0, len(rows), 8), np.arange(8))
        loss = language_modelling(model, batch)
        (loss.total / loss.weight).backward()
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 100)
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("base") / "run"
    write_folder(checkpoint_folder(folder, 1), model_files(model, small_tokenizer, ChatFormat()))
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_preferences(path, PAIRS)
    return path


def trainer(base, path, folder, *overrides, ranks=None):
    config = load(
        PreferConfig,
        "configs/demo/prefer.toml",
        [
            f"run={folder}", f"init={base}", f"data.paths=['{path}']", "data.validation=0.3", "answer_tokens=8",
            "epochs=0", "train.steps=40", "train.batch_size=8", "train.precision=float32", "train.compile=off",
            "train.threads=1", "train.log_every=1", "train.evaluate_every=0", "train.save_every=2", "schedule.warmup=2",
            "optimizer.lr=0.003", *overrides,
        ],
    )  # fmt: skip
    return build_trainer(config, ranks or Ranks())


KTO = ("loss.kind=kto", "loss.group=8", "train.batch_size=2")


@pytest.mark.parametrize("more", [("loss.kind=dpo",), KTO], ids=["dpo", "kto"])
def test_learning_raises_the_share_of_chosen_answers_on_held_out_prompts(base, pairs, tmp_path, more):
    run = trainer(
        base, pairs, tmp_path / "run", "asked=40", "train.steps=60", "optimizer.lr=0.01", "loss.beta=0.2", *more
    )
    before = run.evaluate()
    assert before["loss"] == pytest.approx(0.5 if "loss.kind=kto" in more else math.log(2), abs=0.3), "and the anchor"
    assert before["accuracy"] == 0.5 and before["margin"] == before["chosen_drift"] == before["rejected_drift"] == 0
    assert abs(before["kl"]) < 1e-5 and before["share_chosen"] < 0.75
    run.fit()
    [after] = [record for record in read_metrics(tmp_path / "run") if record["kind"] == "evaluation"]
    assert after["share_chosen"] > 0.85 > before["share_chosen"] + 0.1
    assert after["share_rejected"] < 0.1 < before["share_rejected"]
    assert after["accuracy"] > 0.95 and after["ranking"] > 0.95 and after["margin"] > 1
    assert after["loss"] < before["loss"] and after["kl"] > 0.1
    assert after["rejected_drift"] < 0 and after["chosen_drift"] > -0.05, "the anchor holds the chosen answers"
    assert load_run(tmp_path / "run").model.config == run.model.config


def test_adapters_learn_alone_and_the_reference_is_the_base(base, pairs, tmp_path):
    run = trainer(base, pairs, tmp_path / "run", "lora.rank=8", "optimizer.lr=0.02", "loss.anchor=1", "asked=0")
    assert run.evaluate()["chosen_drift"] == 0
    run.fit()
    assert run.evaluate()["accuracy"] > 0.85
    require_only_adapters_learnt(run.model, load_run(base).model)
    with pytest.raises(UserError, match="is above 32"):
        trainer(base, pairs, tmp_path / "wrong", "lora.rank=64")
    assert not (tmp_path / "wrong").exists()


def test_the_reference_comes_first_and_the_anchor_aside_the_loss_is_log_2(base, pairs, tmp_path):
    run = trainer(base, pairs, tmp_path / "run", "loss.anchor=0", "asked=0")
    assert run.step()["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert trainer(base, pairs, tmp_path / "b", *KTO, "loss.anchor=0", "asked=0").step()["loss"] == pytest.approx(0.5)
    assert "kl" not in run.evaluate()


@pytest.mark.parametrize("more", [("loss.kind=ipo",), KTO], ids=["ipo", "kto"])
def test_a_resumed_run_is_bit_identical_and_keeps_its_reference(base, pairs, tmp_path, more):
    more = (*more, "train.steps=4", "asked=4")
    trainer(base, pairs, tmp_path / "whole", *more).fit()
    broken = trainer(base, pairs, tmp_path / "broken", *more)
    while broken.state.step < 2:
        broken.step()
    broken.save()
    broken.saver.finish()
    [stored] = (tmp_path / "broken").glob("reference-*.safetensors")
    written = stored.stat().st_mtime_ns
    continued = trainer(base, pairs, tmp_path / "broken", *more)
    assert continued.state.step == 2 and stored.stat().st_mtime_ns == written
    continued.fit()
    one, other = (newest_intact(tmp_path / name)[1] for name in ("whole", "broken"))
    assert one["model.safetensors"] == other["model.safetensors"]
    assert one["optimizer.safetensors"] == other["optimizer.safetensors"]
    evaluations = [[r for r in read_metrics(tmp_path / n) if r["kind"] == "evaluation"] for n in ("whole", "broken")]
    assert evaluations[0] == evaluations[1]


def test_a_run_that_breaks_a_rule_is_stopped_and_says_why(base, pairs, tmp_path):
    """Chosen answers may not become less likely at all; a resumed run remembers that they had."""
    more = ["loss.anchor=0", "train.steps=6", "train.evaluate_every=2", "optimizer.lr=0.1", "asked=0"]
    more += ["health.patience=2", "health.drift=1e-9"]
    run = trainer(base, pairs, tmp_path / "run", *more)
    for name, parameter in run.model.named_parameters():
        if "output" in name:
            parameter.data.mul_(0.5)  # every answer is less likely
    with pytest.raises(UserError, match=r"was stopped after step 4: chosen_drift is -.*likelihood anchor"):
        run.fit()
    records = read_metrics(tmp_path / "run")
    assert [(r["kind"], r["step"]) for r in records if r["kind"] != "train"] == [("evaluation", 2), ("stopped", 4)]
    assert records[-1]["chosen_drift"] < 0 and "chosen_drift" in records[-1]["why"]
    with pytest.raises(UserError, match="was stopped after step 4"):
        trainer(base, pairs, tmp_path / "run", *more).fit()


KINDS = {"dpo": ("train.micro_batch=2",), "kto": (*KTO, "train.batch_size=4", "train.micro_batch=1")}
WAYS = [("dpo", "ddp"), ("kto", "ddp"), ("kto", "fsdp")]


def train_on(ranks: Ranks, base, pairs, folder) -> None:
    for kind, parallel in WAYS:
        more = (f"loss.kind={kind}", *KINDS[kind], f"train.parallel={parallel}", "train.steps=3", "asked=5")
        trainer(base, pairs, f"{folder}/{kind}-{parallel}-{ranks.world}", *more, ranks=ranks).fit()


def test_two_ranks_equal_one(base, pairs, tmp_path):
    """Losses of every step and all held-out figures, the sampled ones too, and the weights."""
    for world in (1, 2):
        on_ranks(world, train_on, str(base), str(pairs), str(tmp_path))
    for kind, parallel in WAYS:
        one, two = (tmp_path / f"{kind}-{parallel}-{world}" for world in (1, 2))
        records = [
            [{k: v for k, v in r.items() if k != "tokens_per_second"} for r in read_metrics(f)] for f in (one, two)
        ]
        assert len(records[0]) == len(records[1]) == 4
        for left, right in zip(*records):
            assert right == pytest.approx(left, abs=1e-4)
        for left, right in zip(load_run(one).model.parameters(), load_run(two).model.parameters()):
            torch.testing.assert_close(left, right, atol=1e-4, rtol=0)


def test_the_reference_is_computed_anew_when_it_or_the_data_changed(base, pairs, small_tokenizer, tmp_path):
    model, run = load_run(base).model, RunFolder(tmp_path)
    rows, fewer = (pair_material(PAIRS[:n], small_tokenizer, ChatFormat(), 48).rows for n in (4, 3))
    first = reference_tables(model, "a", {"train": rows}, run, Ranks())["train"]
    assert torch.equal(first, log_table(model, rows, Ranks())) and first.shape == (4, 2)
    names = {path.name for path in tmp_path.iterdir()}
    model.head.output.weight.data.mul_(2)
    assert torch.equal(reference_tables(model, "a", {"train": rows}, run, Ranks())["train"], first), "it is stored"
    assert not torch.equal(reference_tables(model, "b", {"train": rows}, run, Ranks())["train"], first)
    assert len(reference_tables(model, "b", {"train": fewer}, run, Ranks())["train"]) == 3
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 1 and not left & names


# Rows ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [ChatFormat(), ChatFormat(spaced=True)], ids=["plain", "spaced"])
def test_answers_of_a_group_follow_the_same_prompt(small_tokenizer, chat):
    """Also where it is shortened: by the room that the longest answer leaves. Whole, they are what chats are."""
    messages = (Message("system", "ka"), Message("user", "to mi ren " * 6))
    whole = fit_answers(messages, ("sol", "ve ve ve"), small_tokenizer, chat, 200)
    for example, text in zip(whole, ("sol", "ve ve ve")):
        expected = encode(Conversation((*messages, Message("assistant", text))), small_tokenizer, chat)
        assert example.ids.tolist() == expected.ids.tolist() and example.weights.tolist() == expected.weights.tolist()
    short = fit_answers(messages, ("sol", "ve ve ve"), small_tokenizer, chat, len(whole[1]) - 5)
    given = [example.ids[example.weights == 0].tolist() for example in short]
    assert given[0] == given[1] and len(short[1]) == len(whole[1]) - 5
    assert fit_answers(messages, ("sol", "ve " * 40), small_tokenizer, chat, 30) is None


def test_rows_of_kto_are_judged_answers_and_then_those_of_other_prompts(small_tokenizer):
    material = kto_material(PAIRS[:5], small_tokenizer, ChatFormat(), 48, 4)
    assert len(material.rows) == 3 and material.rows.size == 8, "ten answers in groups of four"
    assert (material.prompts >= 0).sum() == 10 and material.good.sum() == 5
    assert material.rows.groups[2][2:4] == [None, None] and material.rows.groups[2][6:] == [None, None]
    texts = {tuple(small_tokenizer.encode(text)) for text in ANSWERS["mi"]}
    for group in material.rows.groups:
        for own, other in zip(group[:4], group[4:]):
            if own is not None:
                said = [each.ids[each.weights > 0].tolist()[:-1] for each in (own, other)]
                assert own.ids[own.weights == 0].tolist() == other.ids[other.weights == 0].tolist()
                assert {tuple(each) for each in said} <= texts
    with pytest.raises(UserError, match="two prompts"):
        kto_material(PAIRS[:1], small_tokenizer, ChatFormat(), 48, 4)


def test_labelled_answers_are_enough_for_kto(base, tmp_path):
    rows = [{"prompt": p.prompt[0].content, "completion": p.chosen, "label": True} for p in PAIRS[::2]]
    rows += [{"prompt": p.prompt[0].content, "completion": p.rejected, "label": False} for p in PAIRS[1::2]]
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    run = trainer(base, path, tmp_path / "run", *KTO, "asked=0")
    before = run.evaluate()
    for _ in range(3):
        run.step()
    assert run.evaluate()["margin"] > before["margin"] == 0


def test_figures_by_hand():
    values = torch.tensor([3.0, 1.0, 5.0])
    assert comparison(values, torch.tensor([2.0, 2.0, 5.0]), torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2])) == 0.5
    assert comparison(values[:1], torch.tensor([2.0, 4.0]), torch.tensor([7]), torch.tensor([8, 9])) == 0.5
    assert comparison(values, torch.tensor([]), torch.tensor([0, 1, 2]), torch.tensor([])) == 0.5
    assert repetition([1, 2, 3, 4]) == repetition([1, 2]) == 0
    assert repetition([1, 1, 1, 1, 1]) == pytest.approx(2 / 3)


def test_wrong_input_is_one_sentence(base, pairs, tmp_path):
    def refused(text, path, *more):
        with pytest.raises(UserError, match=text) as caught:
            trainer(base, path, tmp_path / "run", *more)
        assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()

    def file(row):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(row) + "\n", "utf-8")
        return path

    refused("only loss.kind=kto learns", file({"prompt": "q", "completion": "a", "label": True}))
    refused(r"rows\.jsonl:1: a score is no label", file({"prompt": "q", "completion": "a", "score": 1}), *KTO)
    refused("to hold out", file({"prompt": "q", "chosen": "a", "rejected": "b"}))
    refused(r"rows\.jsonl:1: `rejected` is missing", file({"prompt": "q", "chosen": "a"}))
    refused("there is no file", tmp_path / "none.jsonl")
    refused("answer_tokens must be below the context", pairs, "answer_tokens=48")


# Pairs of the world --------------------------------------------------------------------------------------------------


def test_pairs_of_the_world_are_right_against_wrong(monkeypatch, tmp_path):
    course = shared_course()
    loaded, _ = oracle_of(course, monkeypatch, wrong=0.5)
    found = make_pairs(loaded, course, PairsConfig(questions=30, samples=3))
    assert 15 < len(found) <= 30 and all(pair.simulated and pair.rater == "verifier" for pair in found)
    for pair in found:
        instruction, _, given = pair.prompt[0].content.partition("\n")
        reading = course.verifier.parser.parse(instruction)
        assert not course.splits.touches(reading.program, reading.language), "nothing that is held out"
        assert course.verifier.judge(instruction, given, pair.chosen).right
        assert not course.verifier.judge(instruction, given, pair.rejected).right
    parts = lambda work, items: [each for item in items for each in work([item])]
    assert make_pairs(loaded, course, PairsConfig(questions=30, samples=3), share=parts) == found
    write_preferences(tmp_path / "pairs.jsonl", found)
    assert read_preferences(tmp_path / "pairs.jsonl") == found
    perfect, _ = oracle_of(course, monkeypatch)
    with pytest.raises(UserError, match="none of 5 questions gives a pair of answers"):
        make_pairs(perfect, course, PairsConfig(questions=5))


def test_own_pairs_hold_nothing_that_the_model_did_not_say(monkeypatch):
    course = shared_course()
    monkeypatch.setattr("instruct.pairs.say", lambda loaded, asked, *_: ["none"] * len(asked))
    taught = make_pairs(None, course, PairsConfig(questions=10, samples=2))
    assert len(taught) == 10 and all(pair.rejected == "none" for pair in taught)
    with pytest.raises(UserError, match="none of 10 questions gives a pair"):
        make_pairs(None, course, PairsConfig(questions=10, samples=2, own=True))
    answers = iter(pair.chosen if i % 2 else "none" for i, pair in enumerate(each for each in taught for _ in range(2)))
    monkeypatch.setattr("instruct.pairs.say", lambda loaded, asked, *_: [next(answers) for _ in asked])
    assert make_pairs(None, course, PairsConfig(questions=10, samples=2, own=True)) == taught


def test_a_run_keeps_the_pairs_that_it_made(base, monkeypatch, tmp_path):
    calls = []

    def made(*_):
        calls.append(1)
        return random.sample(PAIRS, 30)

    monkeypatch.setattr("train.prefer.make_pairs", made)
    for _ in range(2):
        trainer(base, "", tmp_path / "run", "data.paths=[]", "asked=0").ranks.barrier()
    assert len(calls) == 1 and len(read_preferences(tmp_path / "run" / "pairs.jsonl")) == 30
