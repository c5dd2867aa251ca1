"""Finding answers end to end at tiny size: spans survive the tokenizer, learning, measuring, resuming, wrong input."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch

import train.extract
from configs import ConfigError, UserError, from_dict, load, to_dict
from instruct.labelled import Passage, passages
from instruct.world.operation import language_of
from model.config import ModelConfig
from model.heads import SpanReader
from model.load import load_run
from model.storage import newest_intact
from tests.ranks import on_ranks
from tests.small import require_only_adapters_learnt
from train.distributed import Ranks
from train.extract import (
    ExtractConfig,
    answer,
    best_span,
    build_trainer,
    encode_all,
    encode_passage,
    extract,
    main,
    overlap,
    parts,
    read_data,
    rows_of,
    span_finding,
)
from train.run import read_metrics

SIZES = {"context": 48, "width": 24, "layers": 2, "heads": 3, "hidden": 40}


# Positions -----------------------------------------------------------------------------------------------------------


def test_answers_of_the_world_survive_the_tokenizer(small_tokenizer):
    """In both languages, to the letter, and by the model's own alphabet of pieces, which was learnt from other text."""
    seen = set()
    for each in passages(80, seed=3):
        encoded = encode_passage(each.context, each.question, small_tokenizer, 2000)
        first, last = encoded.tokens_of(each.start, each.start + len(each.answer))
        assert encoded.text_of(first, last) == (each.start, each.answer)
        assert small_tokenizer.decode(encoded.ids[first : last + 1]).strip() == each.answer
        assert len(encoded.ids) - encoded.begin == len(encoded.words)
        assert small_tokenizer.decode(encoded.ids[encoded.begin :]) == each.context
        seen.add(language_of(each.context))
    assert seen == {"en", "zh"}


@pytest.mark.parametrize(
    ("context", "found", "said"),
    [
        ("  Two words, café-au-lait!  ", "café", "café"),
        ("  Two words, café-au-lait!  ", "words, café-au", "words, café-au"),
        ("cats sleep", "cat", "cats"),  # a part of a word has no tokens of its own
        ("北京是首都", "北京", "北京"),
        ("北京是首都", "京是", "京是"),
        ("他说OK了，42年", "OK", "OK"),
        ("他说OK了，42年", "42", "42"),
        ("𠀀𠀁 x\ny", "𠀁", "𠀁"),
        ("a\n\n  b\tc", "b\tc", "b\tc"),
    ],
)
def test_words_and_ideographs_have_places_of_their_own(small_tokenizer, context, found, said):
    encoded = encode_passage(context, "what?", small_tokenizer, 500)
    start = context.index(found)
    first, last = encoded.tokens_of(start, start + len(found))
    assert encoded.text_of(first, last)[1] == said
    assert small_tokenizer.decode(encoded.ids[encoded.begin :]) == context.rstrip()


def test_what_does_not_fit_is_cut(small_tokenizer):
    context = "one two three " * 30
    encoded = encode_passage(context, "why " * 100, small_tokenizer, 40)
    assert len(encoded.ids) <= 40 and encoded.begin <= 20 and encoded.ids[0] == small_tokenizer.bos
    assert encoded.ids[encoded.begin - 1] == small_tokenizer.end
    assert encoded.tokens_of(0, 3) == (encoded.begin, encoded.tokens_of(0, 3)[1])
    assert encoded.tokens_of(300, 303) is None
    edge = encoded.words[-1][1]
    assert encoded.tokens_of(edge - 1, edge + 4) is None, "half an answer is none"
    huge = encode_passage("x" * 500, "?", small_tokenizer, 20)
    assert len(huge.ids) == 20 and huge.text_of(19, 19) == (0, "x" * 500)


# Scores --------------------------------------------------------------------------------------------------------------


def test_the_loss_is_its_closed_form_in_float64(small_tokenizer):
    """The mean of two cross-entropies over the tokens of the context alone, and its gradient by finite differences."""
    found = [Passage("the cat sat on it", "who?", "cat", 4), Passage("猫坐在上面，很高兴", "谁？", "猫", 0)]
    encoded, spans, _ = encode_all(found, small_tokenizer, 48)
    batch = rows_of(encoded, spans, 48, small_tokenizer.pad).batch(np.arange(2), np.arange(2))
    model = SpanReader(ModelConfig(**SIZES, vocab_size=420, causal=False)).double()
    model.trunk.compute_dtype = torch.float64
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    scores = model.head(model.trunk(batch.tokens, batch.documents, batch.positions))
    expected = 0.0
    for row, (each, span) in enumerate(zip(encoded, spans)):
        for side in (0, 1):
            inside = [math.exp(z) for z in scores[row, each.begin : len(each.ids), side].tolist()]
            expected -= math.log(inside[span[side] - each.begin] / sum(inside)) / 2
    terms = span_finding(model, batch)
    assert float(terms.weight) == 2 and terms.total.item() == pytest.approx(expected, abs=1e-12)
    terms.total.backward()
    with torch.no_grad():
        for place in ((0, 3), (1, 7)):
            slope = model.head.weight.grad[place].item()
            model.head.weight[place] += 1e-6
            above = span_finding(model, batch).total.item()
            model.head.weight[place] -= 2e-6
            assert (above - span_finding(model, batch).total.item()) / 2e-6 == pytest.approx(slope, abs=1e-8)
            model.head.weight[place] += 1e-6


def test_the_best_span_is_that_of_a_search():
    draw = random.Random(0)
    for _ in range(60):
        T, longest = draw.randint(1, 12), draw.randint(1, 5)
        start, end = (torch.tensor([draw.gauss(0, 1) for _ in range(T)]) for _ in range(2))
        for hidden in range(draw.randint(0, T - 1)):
            start[hidden] = end[hidden] = -torch.inf
        spans = [(i, j) for i in range(T) for j in range(i, min(T, i + longest))]
        expected = max(spans, key=lambda span: float(start[span[0]] + end[span[1]]))
        first, last, score = best_span(start, end, longest)
        assert (first, last) == expected and score == pytest.approx(float(start[first] + end[last]))


def test_overlap_and_equality_by_hand():
    assert parts("The  Café, 北京") == ["the", "café", ",", "北", "京"]
    assert parts(" the cat") == parts("The cat") != parts("the cats")
    assert overlap("the big cat", "big cat sat") == pytest.approx(2 * 2 / 6)
    assert overlap("北京市", "北京") == pytest.approx(2 * 2 / 5)
    assert overlap("the the the", "the") == pytest.approx(2 * 1 / 4) and overlap("x", "y") == 0


# Learning ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Where is the thing that is asked for? It stands behind its name: "apple: red." in either language."""
    draw, rows = random.Random(0), []
    things, colours = ("apple", "car", "屋子", "狗"), ("red", "blue", "green", "白色", "黑色")
    for number in range(300):
        asked, chosen = draw.choice(things), draw.sample(things, 2)
        chosen[0] = asked if asked not in chosen else chosen[0]
        draw.shuffle(chosen)
        context, start, said = f"{number} ;", 0, ""
        for thing in chosen:
            context += f" {thing} : "
            colour = draw.choice(colours)
            if thing == asked:
                start, said = len(context), colour
            context += f"{colour} ;"
        rows.append({"context": context, "question": asked, "answer": said, "start": start})
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def config_of(path, folder, *more) -> ExtractConfig:
    overrides = [
        f"run={folder}", f"data.paths=['{path}']", "data.validation=0.2", "tokenizer.vocab_size=320",
        "model.context=64", "model.width=48", "model.layers=2", "model.heads=2", "model.causal=false", "epochs=25",
        "train.batch_size=16", "train.precision=float32", "train.compile=off", "train.threads=1", "train.log_every=1",
        "optimizer.lr=0.01", "optimizer.kind=muon", "schedule.warmup=5", "longest=4", *more,
    ]  # fmt: skip
    return load(ExtractConfig, None, overrides)


def trainer(path, folder, *more, ranks: Ranks | None = None):
    return build_trainer(config_of(path, folder, *more), ranks or Ranks())


@pytest.fixture(scope="module")
def finished(questions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert extract(config_of(questions, folder), Ranks()).finished
    return folder


def test_reading_is_learnt(questions, finished, tmp_path):
    """The same figures from the run that is loaded again; before training it finds nothing."""
    [figures] = [record for record in read_metrics(finished) if record["kind"] == "evaluation"]
    assert figures["exact"] >= 0.95 and figures["f1"] >= figures["exact"]
    assert trainer(questions, tmp_path / "new").evaluate()["exact"] < 0.5
    loaded = load_run(finished, heads=["spans"])
    _, held_out = read_data(config_of(questions, finished))
    said = answer(loaded, [(each.context, each.question) for each in held_out], 4)
    right = [parts(text) == parts(each.answer) for (_, text, _), each in zip(said, held_out)]
    assert sum(right) / len(right) == pytest.approx(figures["exact"])
    for (start, text, share), each in zip(said, held_out):
        assert each.context[start : start + len(text)] == text and 0 < share <= 1


def test_a_resumed_run_is_bit_identical(questions, tmp_path):
    more = ["epochs=0", "train.steps=8", "train.save_every=4", "model.dropout=0.1"]
    trainer(questions, tmp_path / "whole", *more).fit()
    broken = trainer(questions, tmp_path / "broken", *more)
    for _ in range(4):
        broken.step()
    broken.save()
    broken.saver.finish()
    continued = trainer(questions, tmp_path / "broken", *more)
    assert continued.state.step == 4
    continued.fit()
    one, other = (newest_intact(tmp_path / name)[1] for name in ("whole", "broken"))
    assert one["model.safetensors"] == other["model.safetensors"]
    assert one["optimizer.safetensors"] == other["optimizer.safetensors"]


def figures_of_rank(ranks: Ranks, path, folder) -> list[float]:
    run = trainer(path, f"{folder}{ranks.world}", "epochs=0", "train.steps=6", ranks=ranks)
    run.fit()
    return list(run.evaluate().values())


def test_two_ranks_equal_one(questions, tmp_path):
    one, two = (on_ranks(world, figures_of_rank, str(questions), str(tmp_path / "run")) for world in (1, 2))
    assert two[0] == two[1] == pytest.approx(one[0], abs=1e-4)
    curves = [
        [record["loss"] for record in read_metrics(tmp_path / f"run{world}") if record["kind"] == "train"]
        for world in (1, 2)
    ]
    assert len(curves[0]) == 6 and curves[1] == pytest.approx(curves[0], abs=1e-4)


def test_adapters_stand_beside_a_reader(questions, finished, tmp_path):
    settings = to_dict(config_of(questions, tmp_path / "run"))
    for name in ("model", "tokenizer"):
        settings.pop(name)
    run = build_trainer(from_dict(ExtractConfig, settings | {"init": str(finished), "lora": {"rank": 4}}), Ranks())
    run.step()
    require_only_adapters_learnt(run.model, load_run(finished, heads=["spans"]).model)


def test_passages_of_the_world_need_no_file(tmp_path):
    config = load(ExtractConfig, "configs/demo/extract.toml", ["data.count=60"])
    known, held_out = read_data(config)
    assert len(known) + len(held_out) == 60 and held_out
    assert not {each.context for each in known} & {each.context for each in held_out}


def test_answers_beyond_the_context_count_as_wrong(questions, tmp_path, monkeypatch):
    """Half of the answers stand there: a model that finds all others is right in one half of all."""
    rows = [json.loads(line) for line in questions.read_text("utf-8").splitlines()]
    far = [{**row, "context": "long " * 90 + row["context"], "start": row["start"] + 450} for row in rows[:40]]
    path = tmp_path / "far.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in far + rows[40:80]), "utf-8")
    made = trainer(questions, tmp_path / "run", f"data.validation_paths=['{path}']")
    monkeypatch.setattr(train.extract, "measure", lambda *_: {"loss": 40.0, "exact": 40.0, "f1": 40.0})
    assert made.evaluate() == {"loss": 1.0, "exact": 0.5, "f1": 0.5}
    path.write_text("".join(json.dumps(row) + "\n" for row in far), "utf-8")
    with pytest.raises(UserError, match="no answer stands within the first 64 tokens"):
        trainer(questions, tmp_path / "other", f"data.validation_paths=['{path}']")


# New questions and wrong input ---------------------------------------------------------------------------------------


def test_new_questions_are_answered(questions, finished, tmp_path, capsys):
    """Line by line, what the model says to each; answers that the file has are not looked at."""
    asked = [json.loads(line) for line in questions.read_text("utf-8").splitlines()][:70]
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps({**row, "answer": "?"}) + "\n" for row in asked), "utf-8")
    main(["predict", str(finished), str(file)])
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["question"] for row in said] == [row["question"] for row in asked]
    right = [(one["answer"], one["start"]) == (other["answer"], other["start"]) for one, other in zip(said, asked)]
    assert sum(right) >= 0.95 * len(asked)
    expected = answer(load_run(finished, heads=["spans"]), [(row["context"], row["question"]) for row in asked])
    assert [(row["start"], row["answer"], row["probability"]) for row in said] == expected


def test_wrong_input_is_one_sentence(finished, questions, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"context": "a b", "question": "?"}\n{"context": "a b"}\n', "utf-8")
    with pytest.raises(UserError, match=r"bad\.jsonl:2: `question` must be text"):
        main(["predict", str(finished), str(bad)])
    with pytest.raises(UserError, match=r"bad\.jsonl:1: `answer` must be text"):
        trainer(bad, tmp_path / "run")
    with pytest.raises(UserError, match="both are needed"):
        trainer(questions, tmp_path / "run", "data.validation=0.0000001")
    assert not (tmp_path / "run").exists()
    for setting, message in (
        ("longest=0", "longest must be positive"),
        ("data.count=0", "count must be positive"),
        ("data.validation=0", "validation must lie between 0 and 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            load(ExtractConfig, None, [setting])
