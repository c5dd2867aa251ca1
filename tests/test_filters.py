"""Filters: what each drops and lets pass, that nothing vanishes and nothing is changed, and that the figures about a
filter are those that a person computes by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from data.chat import ChatFormat, Conversation, Example, Message, encode
from instruct import filters
from instruct.confusion import area_under_curve, confusion
from instruct.filters import (
    PASSED,
    Contradiction,
    Duplicate,
    Echo,
    Keywords,
    Length,
    NearDuplicate,
    Repetition,
    Unfinished,
    Verdict,
    apply,
    decide,
    normalised,
    usual,
)
from instruct.records import REASONS, Instance, Record, read_records
from instruct.rouge import Pool, rouge_l
from instruct.selection import (
    Difficulty,
    Diverse,
    EmbeddingDistance,
    RoundTrip,
    SelfConsistency,
    admit_vectors,
    difficulty_ratios,
    embedder,
)
from model.load import LoadedModel
from tests.small import small_model


def record(instruction: str, *pairs: tuple[str, str]) -> Record:
    return Record(instruction, tuple(Instance(input, output) for input, output in pairs))


def records(*instructions: str) -> list[Record]:
    return [record(instruction, ("", "x")) for instruction in instructions]


def codes(judge, *items: Record) -> list[str | None]:
    return [verdict.code for verdict in judge(items)]


# Rules on one record -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("Reverse the list.", False),
        ("Reverse the whole list.", True),
        (" ".join(["word"] * 150), True),
        (" ".join(["word"] * 151), False),
        ("翻译吧", False),
        ("翻译句子", True),
        ("翻" * 149, True),
        ("翻" * 150, False),
        ("把 hello 翻译", True),  # three characters and a word
        ("Say 你好 to them", True),
        ("Say 你好", False),  # counted as Chinese: two characters and a word
        ("", False),
    ],
)
def test_length_counts_words_or_characters(text, passes):
    assert codes(Length(), *records(text)) == [None if passes else "length"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("Describe this Image in detail", "Image"),
        ("Please go to the shop", "go to"),
        ("Imagine a mapping of filenames", None),
        ("Write a program that sorts", "Write a program"),
        ("How do I write a program that sorts?", None),
        ("- name three colours", "-"),
        ("把map翻译成中文", "map"),
        ("请描述下面的图片", "图片"),
        ("让ChatGPT写一首诗", "GPT"),
        ("写一首关于春天的诗", None),
        ("（请）写一首诗", None),
    ],
)
def test_keywords_are_whole_words_in_any_case(text, word):
    verdict = Keywords()(records(text))[0]
    assert verdict == (PASSED if word is None else Verdict("keyword", None, repr(word)))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("Name a colour of the rainbow", 0.0),
        ("no no no", 0.0),
        ("no no no no", 1.0),
        ("say it say it say it say it", 1.0),
        ("请请请请写诗", 4 / 6),
        ("Sort the list and then sort the list and then and then and then and then stop", 8 / 17),
        ("a b c d e f g h " * 4, 1.0),
        ("a b c d e f g h i " * 4, 0.0),  # wider than the widest loop looked for
        ("", 0.0),
    ],
)
def test_repetition_measures_loops(text, share):
    assert Repetition().share(text) == pytest.approx(share)
    assert codes(Repetition(most=0.4), *records(text)) == ["repetition" if share > 0.4 else None]


def test_repetition_looks_at_answers_when_asked():
    looped = record("Say yes", ("", "yes " * 9))
    assert codes(Repetition(), looped) == [None]
    assert codes(Repetition(answers=True), looped) == ["repetition"]
    assert codes(Repetition(most=1.0, answers=True), looped) == [None]


def test_unfinished_and_echo():
    items = [
        record("Name it", ("x", " ")),
        record("Name it", ("x", "The names are:")),
        record("列出名字", ("x", "名字：")),
        record(" ", ("x", "y")),
        record("Name it"),
        record("Name it", ("x", "y")),
    ]
    assert codes(Unfinished(), *items) == ["format"] * 4 + [None, None]
    items = [
        record("Say it", ("hello", "hello ")),
        record("Say it", ("", "Say it")),
        record("Say it", ("a", "b"), ("c", "c")),
        record("Upper case", ("hello", "HELLO")),
        record("Say it", ("", "")),
    ]
    assert codes(Echo(), *items) == ["echo"] * 3 + [None, None]


# Rules on records beside each other ----------------------------------------------------------------------------------


def test_a_contradiction_takes_all_that_hold_it():
    items = [
        record("Classify the review", ("good film", "positive"), ("bad film", "negative")),
        record("classify the Review.", ("good film", "negative")),
        record("Classify the review", ("dull film", "negative")),
        record("Count the words", ("good film", "2")),
        record("Sort", ("b a", "a b"), ("b a", "b a")),
        record("Write a poem", ("", "one")),
        record("Write a poem", ("", "another")),
        record("Double", ("2", "4"), ("2", "4 ")),
    ]
    assert (
        codes(Contradiction(), *items) == ["contradiction", "contradiction", None, None, "contradiction"] + [None] * 3
    )
    assert Contradiction()(items)[4].detail == "'a b' or 'b a'"


def test_of_duplicates_exactly_the_first_stays():
    items = [
        record("Name a colour.", ("", "red")),
        record("name  a ｃolour", ("", "red ")),
        record("Name a colour.", ("", "blue")),
        record("Sort", ("b", "1"), ("a", "2")),
        record("Sort", ("a", "2"), ("b", "1")),
    ]
    assert codes(Duplicate(), *items) == [None, "duplicate", None, None, "duplicate"]


@given(st.text())
def test_normalising_is_done_once(text):
    assert normalised(normalised(text)) == normalised(text)


def test_near_duplicates_within_one_list_and_to_what_is_known():
    known = Pool(["Name three colours of the rainbow."])
    items = records(
        "Name two colours of the rainbow.",
        "Sort these words by length.",
        "Sort these words by their length.",
        "Sort these words by length.",
        "把单词翻译成英文",
        "把句子翻译成英文",
        "Sort the numbers by size.",
    )
    judge = NearDuplicate(0.7, known)
    assert codes(judge, *items) == ["rouge", None, "rouge", "rouge", None, "rouge", None]
    assert len(known) == 1
    assert "Sort these words by length" in judge(items)[2].detail
    assert codes(judge, *items[:3]) == codes(judge, *items)[:3]
    assert [verdict.score for verdict in judge(items)][1] is None
    graded = NearDuplicate(0.7, known, graded=True)(items)
    assert [verdict.code for verdict in graded] == codes(judge, *items)
    assert graded[1].score == rouge_l(items[1].instruction, known.texts[0])
    assert graded[4].score == 0.0
    assert graded[6].score == rouge_l(items[6].instruction, items[1].instruction) > 0
    assert graded[2].score == rouge_l(items[1].instruction, items[2].instruction)


# Applying ------------------------------------------------------------------------------------------------------------


def mixed() -> list[Record]:
    """For each code of the usual filters something to drop, and good ones between."""
    return [
        record("Name three colours of the rainbow.", ("", "red, green, blue")),
        record("Too short", ("", "yes")),
        record("Draw me a picture of a house", ("", "no")),
        record("please please please please help me", ("", "no")),
        record("Give back what I say", ("a b", "a b")),
        record("Say whether it is big", ("ant", "yes"), ("ant", "no")),
        record("Sort these words by length.", ("bb a", "a bb")),
        record("sort these words by length", ("bb a", "a bb")),
        record("Sort these words by their length.", ("ccc a", "a ccc")),
        record("What is the capital of France?", ("", "")),
        record("请写一首关于春天的诗", ("", "春眠不觉晓")),
    ]


EXPECTED = [
    None,
    "length",
    "keyword",
    "repetition",
    "echo",
    "contradiction",
    None,
    "duplicate",
    "rouge",
    "format",
    None,
]


def test_every_record_has_a_fate_and_none_is_changed():
    items = mixed()
    before = [dataclasses.asdict(item) for item in items]
    kept, fates = apply(usual(), items)
    assert [fate.code for fate in fates] == EXPECTED
    assert kept == [item for item, code in zip(items, EXPECTED) if code is None]
    assert all(fate.code in REASONS for fate in fates if fate.code)
    assert fates[8].scores == {
        "length": 6,
        "repetition": 0.0,
        "rouge": rouge_l(*(items[i].instruction for i in (6, 8))),
    }
    assert [dataclasses.asdict(item) for item in items] == before
    assert apply(usual(), []) == ([], [])


@dataclasses.dataclass
class Bare:
    """What filters need of a record, and no more."""

    instruction: str
    instances: tuple[Instance, ...]


def test_anything_with_an_instruction_and_instances_will_do():
    bare = [Bare(item.instruction, item.instances) for item in mixed()]
    assert [fate.code for fate in apply(usual(), bare)[1]] == EXPECTED


def test_what_was_dropped_before_shadows_nothing():
    """The first of two near duplicates falls to an earlier filter: the second one stays."""
    items = [record("Sort these words by length", ("a", "")), record("Sort these words by their length", ("a", "a!"))]
    assert [fate.code for fate in apply(usual(), items)[1]] == ["format", None]


def test_decisions_and_scores_are_written_into_records():
    judged = decide(usual(), mixed(), kept="unverified")
    assert [item.decision.code for item in judged] == [code or "unverified" for code in EXPECTED]
    assert judged[2].decision.detail == "'Draw'"
    assert judged[8].scores["rouge"] > 0.7
    scored = dataclasses.replace(mixed()[0], scores={"reward": 2.0})
    assert decide(usual(), [scored])[0].scores["reward"] == 2.0
    undecided = decide(usual(), mixed())
    assert [item.decision is None for item in undecided] == [code is None for code in EXPECTED]


def test_the_command_prints_the_funnel_and_writes_every_record(tmp_path, capsys):
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows = [
        {"instruction": item.instruction, "instances": [dataclasses.asdict(pair) for pair in item.instances]}
        for item in mixed()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    filters.main([str(path), "--out", str(out), "--json"])
    counts = json.loads(capsys.readouterr().out)
    assert counts["raw"] == 11 and counts["kept"] == {"unverified": 3}
    assert counts["dropped"] == {code: 1 for code in EXPECTED if code}
    assert [item.decision.code for item in read_records(out)] == [code or "unverified" for code in EXPECTED]
    filters.main([str(path), "--rouge", "1", "--without", "keyword", "length"])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["raw", "11"] and shown[-2].split()[:2] == ["kept", "6"]
    assert not any("keyword" in line or "length" in line or "rouge" in line for line in shown)
    filters.main([str(path), "--known", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["dropped"]["rouge"] == 4


def test_the_command_refuses_in_one_sentence(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "a", "output": "b"}\n', "utf-8")
    with pytest.raises(UserError, match=r"no filter 'lenght'.*length"):
        filters.main([str(path), "--without", "lenght"])
    with pytest.raises(UserError, match="threshold"):
        filters.main([str(path), "--rouge", "0", "--without", "length"])
    with pytest.raises(UserError, match="no file"):
        filters.main([str(tmp_path / "none.jsonl")])


# Against the truth ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Table:
    """A filter that knows its verdicts by heart."""

    verdicts: list[Verdict]
    higher_is_better: bool | None = False
    name = "table"

    def __call__(self, records):
        return self.verdicts


def test_confusion_equals_the_hand_computed_one():
    """Six records: bad, bad, bad, good, good, good; dropped are 1, 2 and 4. Of the 9 pairs of a bad and a good one the
    score has the bad one higher in 9 > 5, 1, 7; 6 > 5, 1 (not 7); 1 > none, and 1 = 1 counts half: 5.5."""
    scores = [9, 6, 1, 7, 5, 1]
    verdicts = [Verdict("rouge" if i in (0, 1, 3) else None, score) for i, score in enumerate(scores)]
    truth = [False, False, False, True, True, True]
    found = confusion(Table(verdicts), records(*"abcdef"), truth)
    assert found == {
        "dropped_bad": 2,
        "dropped_good": 1,
        "kept_bad": 1,
        "kept_good": 2,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "auc": pytest.approx(5.5 / 9),
        "good_before": 0.5,
        "good_after": 2 / 3,
    }
    assert confusion(Table(verdicts, True), records(*"abcdef"), truth)["auc"] == pytest.approx(3.5 / 9)
    assert confusion(Table(verdicts, None), records(*"abcdef"), truth)["auc"] is None


def test_confusion_states_no_share_of_nothing():
    found = confusion(Table([PASSED, PASSED]), records("a", "b"), [True, True])
    assert (found["precision"], found["recall"], found["auc"]) == (None, None, None)
    assert found["good_after"] == 1.0
    with pytest.raises(UserError, match="2 records and 1 truths"):
        confusion(Table([PASSED]), records("a", "b"), [True])


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=20))
def test_the_area_is_the_chance_of_the_right_order(pairs):
    scores, positive = np.array([s for s, _ in pairs]), np.array([p for _, p in pairs])
    order = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert area_under_curve(scores, positive) == (pytest.approx(np.mean(order)) if order else None)


# Filters that are given a model --------------------------------------------------------------------------------------


def directions(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack((np.cos(angles), np.sin(angles)), axis=1)


def table_of(texts: list[str], vectors: np.ndarray):
    known = dict(zip(texts, vectors))
    return lambda asked: np.array([known[text] for text in asked])


def test_embedding_distance_keeps_the_first_of_what_is_alike():
    """0 and 10 degrees are too near, 20 is near to 10 only, which was dropped; 90 is known."""
    texts = ["a", "b", "c", "d", "e"]
    embed = table_of(texts, directions(0, 10, 20, 95, 180))
    judge = EmbeddingDistance(embed, np.cos(np.radians(15)), known=directions(90))
    assert codes(judge, *records(*texts)) == [None, "embedding", None, "embedding", None]
    assert judge(records(*texts))[1].score == pytest.approx(np.cos(np.radians(10)))
    assert judge([]) == []
    highest, kept = admit_vectors(directions(0, 0, 180), 0.5)
    assert highest.tolist() == pytest.approx([-1, 1, -1]) and kept.tolist() == [True, False, True]


def test_self_consistency_is_the_share_of_votes():
    items = [record("Add", ("1 1", "2"), ("2 2", "5")), record("Add", ("1 1", "2 ")), record("Add")]
    said = {"Add\n1 1": ["2", "2 ", "3", "2"], "Add\n2 2": ["4", "4", "5", "4"]}
    judge = SelfConsistency(lambda asked: [said[text] for text in asked], least=0.6)
    assert judge(items) == [Verdict("inconsistent", 0.5), Verdict(None, 0.75), Verdict(None, None)]
    with pytest.raises(UserError, match="no answer"):
        SelfConsistency(lambda asked: [[] for _ in asked])(items)


def test_round_trip_compares_what_is_written_back():
    items = records("Sort the words by length", "Name a colour", "Reverse it now")
    judge = RoundTrip(lambda given: ["Sort the words by their length", "Name a fruit tree", "Reverse it now"])
    assert [verdict.code for verdict in judge(items)] == [None, "round trip", None]
    assert judge(items)[0].score == rouge_l(items[0].instruction, "Sort the words by their length")
    strict = RoundTrip(judge.back, likeness=lambda a, b: float(a == b))
    assert codes(strict, *items) == ["round trip", "round trip", None]


def test_difficulty_drops_what_does_not_help_and_keeps_the_hardest_share():
    items = records("a", "b", "c", "d", "e")
    ratios = dict(zip("abcde", [0.2, 1.2, 0.9, 0.5, np.inf]))
    judge = Difficulty(lambda pairs: [ratios[asked] for asked, _ in pairs])
    assert codes(judge, *items) == [None, "quality", None, None, "quality"]
    assert judge(items)[4].score is None and judge(items)[1].score == 1.2
    assert codes(Difficulty(judge.ratios, share=2 / 3), *items) == ["quality", "quality", None, None, "quality"]
    assert codes(Difficulty(judge.ratios, share=0.0), *items) == ["quality"] * 5


def test_diverse_keeps_the_better_one_of_two_that_are_alike():
    """Products 2, 6, 6, 1, 4. Best first: b, c (near b), e, a (near b), d; only two are wanted."""
    texts = ["a", "b", "c", "d", "e"]
    judge = Diverse(
        lambda items: [1, 2, 3, 1, 4],
        lambda items: [2, 3, 2, 1, 1],
        table_of(texts, directions(5, 0, 1, 120, 60)),
        count=2,
    )
    assert codes(judge, *records(*texts)) == ["embedding", None, "embedding", "quality", None]
    assert [verdict.score for verdict in judge(records(*texts))] == [2, 6, 6, 1, 4]
    assert judge([]) == []


def test_exactly_one_of_two_duplicates_stays_whatever_filter_looks_at_them():
    """A port of DEITA asked for the nearest neighbour in the whole set, and both copies vanished."""
    twins = records("Name three colours of the rainbow", "Name three colours of the rainbow")
    embed = lambda texts: np.ones((len(texts), 1))
    scorer = lambda items: [1.0] * len(items)
    for judge in (Duplicate(), NearDuplicate(), EmbeddingDistance(embed), Diverse(scorer, scorer, embed)):
        assert [code is None for code in codes(judge, *twins)] == [True, False], judge.name


# Scores of a model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(small_tokenizer) -> LoadedModel:
    model = small_model(vocab_size=small_tokenizer.vocab_size, context=64)
    return LoadedModel(model, small_tokenizer, ChatFormat(), Path("nowhere"))


PAIRS = [("kato miren", "solve"), ("指令 123", "ren: kaka toto mimi"), ("", "é"), ("ve " * 9, "ka")]


def conversation(asked: str | None, answer: str) -> Conversation:
    said = (Message("assistant", answer),)
    return Conversation(said if asked is None else (Message("user", asked), *said))


def loss_by_hand(loaded: LoadedModel, row: Example) -> float:
    """The mean of -log p over the answer and its end, one row, no padding, in float64."""
    logits = loaded.model(torch.from_numpy(row.ids)[None])[0].double().log_softmax(1)
    learnt = [i for i in range(1, len(row)) if row.weights[i] == 1]
    return -sum(logits[i - 1, row.ids[i]].item() for i in learnt) / len(learnt)


@torch.no_grad()
def test_difficulty_is_the_loss_after_the_question_by_the_loss_alone(loaded):
    after, alone = (
        np.array([loss_by_hand(loaded, encode(conversation(*pair), loaded.tokenizer, loaded.chat)) for pair in pairs])
        for pairs in (PAIRS, [(None, answer) for _, answer in PAIRS])
    )
    assert difficulty_ratios(loaded)(PAIRS) == pytest.approx(after / alone, rel=1e-5)
    assert difficulty_ratios(loaded, perplexity=True)(PAIRS) == pytest.approx(np.exp(after - alone), rel=1e-4)
    too_long = ("ka", "kato " * 80)
    assert difficulty_ratios(loaded)([too_long, PAIRS[0]]).tolist()[0] == np.inf
    assert codes(Difficulty(difficulty_ratios(loaded)), record(too_long[0], ("", too_long[1]))) == ["quality"]
    assert difficulty_ratios(loaded)([]).tolist() == []


def test_an_encoder_has_no_likelihood(loaded):
    with pytest.raises(UserError, match="causal"):
        encoder = LoadedModel(small_model("masked", causal=False), loaded.tokenizer, loaded.chat, Path("nowhere"))
        difficulty_ratios(encoder)(PAIRS)


@torch.no_grad()
def test_embeddings_have_length_one_and_do_not_depend_on_the_batch(loaded):
    texts = ["kato", "kato", "指令 " * 8, "", "sol ve ren"]
    vectors = embedder(loaded)(texts)
    assert vectors.shape == (5, loaded.model.config.width)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert vectors[0] == pytest.approx(vectors[1])
    ids = torch.tensor([loaded.tokenizer.bos, *loaded.tokenizer.encode(texts[4])])
    mean = loaded.model.trunk(ids[None])[0].mean(0)
    assert vectors[4] == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)
    assert embedder(loaded, batch_tokens=1)(texts) == pytest.approx(vectors, abs=1e-5)
    assert codes(EmbeddingDistance(embedder(loaded), 0.9999), *records("kato", "kato"))[1] == "embedding"
