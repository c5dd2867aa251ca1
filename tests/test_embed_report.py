"""The report on an embedder: a tiny run on a small world, its rivals in the same table, figures by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from configs import UserError, load
from instruct.curriculum import Course, CurriculumConfig
from instruct.paraphrases import Collection, Phrased
from instruct.world.program import Program
from tests.test_paraphrases import OPERATIONS
from train.distributed import Ranks
from train.embed import EmbedConfig, build_trainer
from train.embed_report import agreement, by_bm25, by_rouge, main, ranked, scored, separation

SETTINGS = [
    f"data.operations={list(OPERATIONS)}", "data.compositions=12", "data.held_out=4", "data.depth3=4",
    "data.phrasings=10", "data.pool=60", "data.queries=20", "tokenizer.vocab_size=480", "dimensions=16",
    "loss.sizes=[8]", "model.context=64", "model.width=32", "model.layers=1", "model.heads=2", "model.causal=false",
    "train.steps=30", "train.batch_size=8", "train.precision=float32", "train.compile=off", "train.threads=1",
    "optimizer.lr=0.01", "schedule.warmup=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "run"
    build_trainer(load(EmbedConfig, None, [*SETTINGS, f"run={folder}"]), Ranks()).fit()
    return folder


def test_the_report_has_every_figure_of_every_method(run, tmp_path, capsys):
    main([str(run), "--out", str(tmp_path), "--count", "150", "--queries", "40"])
    found = json.loads((tmp_path / "embed.json").read_text("utf-8"))
    for name in ("embedding", "bm25", "rouge_l", "untrained"):
        figures = found[name]
        for part in (figures, figures["words"], *(figures[each] for each in ("en", "zh", "en_to_zh", "zh_to_en"))):
            assert 0 <= part["recall_at_1"] <= part["recall_at_5"] <= 1 and 0 <= part["mrr"] <= 1
        assert 0 <= figures["auc"] <= 1 and -1 <= figures["agreement"] <= 1 and 0 <= figures["v_measure"] <= 1
        assert figures["queries"] == figures["taught"]["queries"] + figures["new"]["queries"] > 10
    assert found["embedding"]["auc"] > 0.7 > found["bm25"]["en_to_zh"]["recall_at_1"]
    assert list(found["sizes"]) == ["8", "16"]
    assert found["sizes"]["16"]["recall_at_1"] == pytest.approx(found["embedding"]["recall_at_1"])
    text = (tmp_path / "embed.md").read_text("utf-8")
    assert capsys.readouterr().out == text and "| this model | BM25 | ROUGE-L |" in text
    pytest.importorskip("matplotlib")
    assert (tmp_path / "embed.png").stat().st_size > 10_000


def collection_of(asked: str, there: str) -> Collection:
    """Texts named by behaviour and language: "a1" is behaviour a in English, "a2" in Chinese."""
    queries, pool = (
        [Phrased(each, each[0], "en" if each[1] == "1" else "zh") for each in texts.split()] for texts in (asked, there)
    )
    return Collection(pool, queries)


def test_figures_for_languages_and_new_behaviours_by_hand():
    found = collection_of("a1 b2", "a1 b1 a2 b2")
    table = np.array([[0.1, 0.9, 0.5, 0.4], [0.3, 0.2, 0.1, 0.9]])
    scores, relevant = scored(found, lambda queries, texts: table)
    assert relevant.tolist() == [[True, False, True, False], [False, True, False, True]]
    figures = ranked(found, frozenset("a"), scores, relevant)
    assert figures["recall_at_1"] == 0.5 and figures["mrr"] == pytest.approx((1 / 2 + 1) / 2)
    assert figures["en"]["mrr"] == 0.5 and figures["en"]["queries"] == 1
    assert figures["en_to_zh"]["mrr"] == 1 and figures["zh_to_en"]["mrr"] == 0.5
    assert figures["taught"]["recall_at_1"] == 0 and figures["new"]["recall_at_1"] == 1
    pairs = [(x, y) for x in (0.1, 0.5, 0.2, 0.9) for y in (0.9, 0.4, 0.3, 0.1)]
    assert separation(scores, relevant) == pytest.approx(sum((x > y) + (x == y) / 2 for x, y in pairs) / 16)


def test_word_overlap_scores_texts_with_texts():
    texts = ["sort the numbers", "翻译这个词"]
    for like in (by_bm25, by_rouge):
        scores = like(["sort numbers", "翻译词"], texts)
        assert scores.shape == (2, 2) and scores.argmax(1).tolist() == [0, 1] and scores[0, 1] == 0


def test_agreement_is_the_share_of_equal_outputs():
    course = Course(CurriculumConfig(operations=OPERATIONS, compositions=12, held_out=4, depth3=4))
    up, down, again = (Program.read(text) for text in ("sort_up", "sort_down", "sort_down | reverse_list"))
    assert agreement(course, up, up) == 1
    assert agreement(course, up, again) == 1
    one, other = course.behaviour.outputs(up), course.behaviour.outputs(down)
    assert agreement(course, up, down) == sum(a == b for a, b in zip(one, other)) / len(one) < 0.2


def test_wrong_input_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="give the run folder of an embedder"):
        main([str(tmp_path)])
    with pytest.raises(UserError, match="--count must be at least 2"):
        main([str(tmp_path), "--count", "1"])
