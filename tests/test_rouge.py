"""ROUGE-L: equal to its definition and to the package rouge_score to the last bit, whatever is pruned; and fast.

Pairs come from small alphabets, where the longest common subsequence is ambiguous and bounds are tight, from texts
longer than a machine word, and from edits of one another, where scores lie near the threshold.
"""

from __future__ import annotations

import json
import random
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from rouge_score.tokenize import tokenize

from configs import UserError
from instruct import rouge_bench
from instruct.rouge import BLOCK, Match, Pool, f_measure, lcs_bits, lcs_lengths, lcs_table, rouge_l, tokens
from instruct.rouge_bench import invented_instructions

SEQUENCES = st.lists(st.integers(0, 4), max_size=90)


def near_texts(count: int, seed: int = 0, longest: int = 30) -> list[str]:
    """Texts over a small vocabulary with many edits of earlier ones, some empty, some long, some Chinese."""
    draw = random.Random(seed)
    vocabulary = [*(f"w{i}" for i in range(40)), *"把单词翻成英文"]
    made: list[list[str]] = [[], ["w1"], draw.choices(vocabulary, k=150), draw.choices(vocabulary, k=140)]
    while len(made) < count:
        words = draw.choices(vocabulary, k=draw.randint(0, longest))
        if draw.random() < 0.6:
            words = draw.choice(made)[:]
            for _ in range(draw.randint(0, 4)):
                words.insert(draw.randint(0, len(words)), draw.choice(vocabulary))
                del words[draw.randrange(len(words))]
        made.append(words)
    draw.shuffle(made)
    return [" ".join(words) for words in made]


def padded(sequences: list[list[int]]) -> np.ndarray:
    filled = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
    for row, sequence in zip(filled, sequences):
        row[: len(sequence)] = sequence
    return filled


# Tokens and pairs ----------------------------------------------------------------------------------------------------


@given(st.text() | st.text("aB9 -_İKé\n."))
def test_tokens_are_those_of_rouge_score_where_no_cjk_is(text):
    assert [token for token in tokens(text) if token.isascii()] == tokenize(text, None)


def test_every_cjk_character_is_a_token():
    assert tokens("请把Hello World翻译成中文, 3个!") == [*"请把", "hello", "world", *"翻译成中文", "3", "个"]
    assert tokens("カタカナ 한국 𠀀 々") == [*"カタカナ한국𠀀々"]


@given(SEQUENCES, SEQUENCES)
def test_bits_equal_the_table(a, b):
    assert lcs_bits(a, b) == lcs_table(a, b) == lcs_bits(b, a)


def test_the_table_on_known_subsequences():
    assert lcs_table("XMJYAUZ", "MZJAWXU") == 4  # MJAU
    assert lcs_table("", "abc") == lcs_table("abc", "") == lcs_table("abc", "xyz") == 0
    assert lcs_table("abcabba", "cbabac") == 4


@pytest.mark.parametrize("longest", [1, 63, 64, 65, 128, 200])
def test_many_pairs_at_once_equal_one_at_a_time(longest):
    """Around the borders of the 64-bit words, where a carry must pass, and with few tokens, where it passes often."""
    draw = random.Random(longest)
    left, right = (
        [[draw.randint(1, 3) for _ in range(draw.choice((0, 1, longest - 1, longest)))] for _ in range(15)] + [[1]]
        for _ in range(2)
    )
    rows, columns = np.divmod(np.random.default_rng(0).permutation(16 * 16), 16)
    found = lcs_lengths(padded(left), padded(right), rows, columns)
    assert found.tolist() == [lcs_bits(left[i], right[j]) for i, j in zip(rows, columns)]


def test_scores_equal_rouge_score_to_the_last_bit():
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    texts = [text for text in near_texts(120) if text.isascii()]
    for a in texts[::2]:
        for b in texts[1::2]:
            assert rouge_l(a, b) == scorer.score(a, b)["rougeL"].fmeasure == rouge_l(b, a)


def test_scores_of_known_pairs():
    """The pairs of the paper's critique: opposite tasks look alike, equal ones do not; and Chinese is not zero."""
    assert rouge_l("Write the largest of the numbers below", "Write the smallest of the numbers below") == 6 / 7
    assert rouge_l("Add 3", "Increase by three") == 0
    assert rouge_l("把单词翻译成英文", "把句子翻译成英文") == 0.75
    assert rouge_l("", "") == rouge_l("", "word") == rouge_l("?!", "?!") == 0


# Pool ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.3, 0.7, 1.0])
def test_close_pairs_equal_brute_force(threshold, monkeypatch):
    """Small blocks and small parts, so that every border is crossed."""
    monkeypatch.setattr("instruct.rouge.BLOCK", 37)
    monkeypatch.setattr("instruct.rouge.PAIRS", 100)
    texts = near_texts(300)
    found: dict[tuple[int, int], float] = {}
    for first, second, scores in Pool(texts).close_pairs(threshold):
        for i, j, score in zip(first.tolist(), second.tolist(), scores.tolist()):
            assert (max(i, j), min(i, j)) not in found
            found[max(i, j), min(i, j)] = score
    cut = [tokens(text) for text in texts]
    expected = {}
    for i in range(len(texts)):
        for j in range(i):
            score = float(f_measure(*map(np.array, (lcs_bits(cut[i], cut[j]), len(cut[i]), len(cut[j])))))
            if score >= threshold:
                expected[i, j] = score
    assert found == expected
    assert len(found) > 50


def admit_one_by_one(texts: list[str], threshold: float, kept: list[str]) -> list[Match | None]:
    """The definition of `Pool.admit`; `kept` grows."""
    verdicts = []
    for text in texts:
        matches = [Match(i, rouge_l(text, other)) for i, other in enumerate(kept)]
        best = max(matches, key=lambda match: (match.score, -match.index), default=Match(-1, 0.0))
        verdicts.append(best if best.score >= threshold else None)
        if verdicts[-1] is None:
            kept.append(text)
    return verdicts


@pytest.mark.parametrize("block", [1, 23, BLOCK])
def test_admitting_equals_the_definition(block, monkeypatch):
    """However the texts are cut into blocks and calls: a decision depends on what was kept before, and on nothing
    else."""
    monkeypatch.setattr("instruct.rouge.BLOCK", block)
    texts = near_texts(160)
    pool, kept = Pool(texts[:10]), texts[:10]
    for start in range(10, 160, 50):
        part = texts[start : start + 50]
        assert pool.admit(part, 0.7) == admit_one_by_one(part, 0.7, kept)
    assert pool.texts == kept
    assert 10 < len(kept) < 160


def test_duplicates_within_one_batch_collide():
    """BELLE built its index once before the loop, so that new items were never compared with each other."""
    pool = Pool(["Name three colours of the rainbow."])
    verdicts = pool.admit(
        ["Sort these words by length.", "Sort these words by their length.", "Sort these words by length."]
    )
    assert [verdict is None for verdict in verdicts] == [True, False, False]
    assert [verdict.index for verdict in verdicts[1:]] == [1, 1]
    assert len(pool) == 2


def test_what_was_refused_shadows_nothing():
    """b is too near to a, c is near to b only: c is kept."""
    a, b, c = "a b c d e f g h i j", "a b c d e f g h x y", "q r c d e f g h x y"
    assert rouge_l(a, b) >= 0.7 and rouge_l(b, c) >= 0.7 > rouge_l(a, c)
    assert Pool().admit([a, b, c]) == [None, Match(0, rouge_l(a, b)), None]


def test_of_equally_near_texts_the_earliest_is_named():
    pool = Pool(["x y z", "a b c d", "a b c d"])
    assert pool.admit(["a b c d", "a b c e d"]) == [Match(1, 1.0), Match(1, rouge_l("a b c d", "a b c e d"))]


def test_texts_without_tokens_are_near_to_nothing():
    assert Pool().admit(["", "?!", "word", ""]) == [None] * 4


def test_single_questions_to_a_pool_that_grows():
    """Added one by one, so that blocks are made anew; unknown tokens count in the length."""
    texts = near_texts(60)
    pool = Pool()
    for count, text in enumerate(texts):
        query = f"{text} neverseen"
        expected = [rouge_l(query, other) for other in texts[:count]]
        assert pool.scores(query).tolist() == expected
        assert pool.max_similarity(query) == max(expected, default=0)
        within = [i for i, score in enumerate(expected) if score >= 0.5]
        assert pool.first_within(query, 0.5) == (Match(within[0], expected[within[0]]) if within else None)
        assert pool.add(text) == count
    best = pool.nearest(texts[7], 10)
    ranked = sorted((-rouge_l(texts[7], other), i) for i, other in enumerate(texts))
    assert [(-match.score, match.index) for match in best] == ranked[:10]
    assert len(pool.nearest(texts[7], 100)) == 60


def test_a_copy_grows_on_its_own():
    pool = Pool(["a b c"])
    twin = pool.copy()
    twin.admit(["x y z", "u v w"])
    assert (len(pool), len(twin)) == (1, 3)
    assert pool.max_similarity("x y z") == 0


def test_long_texts_are_decided_exactly_too():
    """Several words of bits, and more tokens than the bound has buckets for at the usual length."""
    draw = random.Random(0)
    base = [f"t{draw.randrange(900)}" for _ in range(1500)]
    texts = [" ".join(word for word in base if draw.random() < share) for share in (1.0, 0.7, 0.54, 0.5)]
    pool = Pool(texts)
    found = {(max(i, j), min(i, j)) for a, b, _ in pool.close_pairs(0.7) for i, j in zip(a.tolist(), b.tolist())}
    assert found == {(i, j) for i in range(4) for j in range(i) if rouge_l(texts[i], texts[j]) >= 0.7}
    assert 0 < len(found) < 6


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5, float("nan")])
def test_a_threshold_that_means_nothing_is_refused(threshold):
    with pytest.raises(UserError, match="threshold"):
        Pool(["a"]).admit(["b"], threshold)


# Speed and the benchmark ---------------------------------------------------------------------------------------------


def test_it_is_much_faster_than_plain_python():
    """At least 100 times the table in Python, in processor time of the same run; mostly it is some thousand times."""
    texts = invented_instructions(4000)
    cut = [tokens(text) for text in texts]
    start = time.process_time()
    for i in range(600):
        lcs_table(cut[i], cut[-i - 1])
    plain = (time.process_time() - start) / 600
    start = time.process_time()
    close = sum(len(scores) for _, _, scores in Pool(texts).close_pairs(0.7))
    fast = (time.process_time() - start) / (4000 * 3999 / 2)
    assert close > 1000
    assert plain > 100 * fast


def test_the_invented_instructions_are_what_they_should_be():
    texts = invented_instructions(3000)
    assert texts == invented_instructions(3000) != invented_instructions(3000, seed=1)
    lengths = [len(tokens(text)) for text in texts]
    assert min(lengths) >= 3 and max(lengths) <= 60
    assert 0.2 < sum(not text.isascii() for text in texts) / len(texts) < 0.6
    symbols = {*rouge_bench.ENGLISH, *rouge_bench.CHINESE} - {"frame"}
    assert not any(symbol in text for text in texts for symbol in symbols)
    assert 100 < sum(verdict is None for verdict in Pool().admit(texts)) < 2900
    assert len(set(texts)) > 2000


def test_the_benchmark_runs_and_agrees(tmp_path, capsys):
    out = tmp_path / "out.json"
    rouge_bench.main(["--texts", "400", "--pairs", "1000", "--timed-pairs", "50", "--json", str(out)])
    figures = json.loads(out.read_text("utf-8"))
    assert figures["decisions"] == 400 * 399 // 2
    check = figures["agreement"]
    assert check["pairs"] == 1000 and check["within_threshold"] > 20 and check["with_cjk"] > 100
    assert check["disagreements"] == check["scores_that_differ"] == 0
    assert "0 disagreements" in capsys.readouterr().out


def test_the_benchmark_notices_a_wrong_decision(monkeypatch):
    texts = invented_instructions(200)
    draw = random.Random(0)
    keys = rouge_bench.sample_keys(400, texts, draw)
    _, decisions = rouge_bench.decide_all(texts, keys)
    decisions[3] ^= True
    monkeypatch.setattr(rouge_bench, "rouge_l", lambda a, b: -1.0)
    check = rouge_bench.agreement(texts, keys, decisions)
    assert (check["disagreements"], check["scores_that_differ"]) == (1, 400)


def test_the_benchmark_reads_files(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"name {i} things", "output": "x"} for i in range(5)]
    rows += [{"question": "把单词翻译成英文", "answer": "yes"}, {"question": "把句子翻译成英文", "answer": "yes"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert rouge_bench.read_instructions([str(path)])[4:6] == ["name 4 things", "把单词翻译成英文"]
    rouge_bench.main([str(path), "--pairs", "20", "--timed-pairs", "5"])
    assert "7 texts" in capsys.readouterr().out


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UserError, match="pip install rouge_score"):
        rouge_bench.reference(["a"])
