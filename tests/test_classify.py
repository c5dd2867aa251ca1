"""Classification end to end at tiny size: learning, measuring, resuming, two ranks, new texts, wrong input."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch

from configs import ConfigError, UserError, load
from data.batches import PADDING
from data.vocabulary import TokenizerConfig
from instruct.labelled import Labelled
from model.heads import Classifier
from model.load import load_run
from model.storage import newest_intact
from tests.ranks import on_ranks
from tests.small import require_only_adapters_learnt
from tests.test_trainer import trainer_of
from train.classify import (
    ClassifyConfig,
    Measure,
    build_trainer,
    classification,
    classify,
    indicators,
    main,
    measure,
    named,
    predict,
    read_data,
)
from train.distributed import Ranks
from train.run import read_metrics
from train.texts import STEP, TextRows, start_from

FRUIT, TOOLS = ("apple", "pear", "plum", "桃子"), ("hammer", "saw", "drill", "剪刀")
TEXTS = 400
FILLER = ("the", "old", "blue", "on", "a", "table", "放", "着")


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def mixed(draw, words, named):
    """The named words somewhere among the others, but not in front."""
    found = list(words)
    for each in named:
        found.insert(draw.randint(1, len(found)), each)
    return found


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """Texts about fruit or tools, with one label, and with the list of all kinds that they name (two, one or none)."""
    draw, single, several = random.Random(0), [], []
    for _ in range(TEXTS):
        kinds = {"fruit": FRUIT, "tool": TOOLS}
        words = draw.choices(FILLER, k=draw.randint(2, 20))
        kind = draw.choice(list(kinds))
        single.append({"text": " ".join(mixed(draw, words, [draw.choice(kinds[kind])])), "label": kind})
        present = [name for name in kinds if draw.random() < 0.5]
        named = [draw.choice(kinds[name]) for name in present]
        several.append({"instruction": " ".join(mixed(draw, words, named)), "labels": present})
    folder = tmp_path_factory.mktemp("things")
    return write(folder / "single.jsonl", single), write(folder / "several.jsonl", several)


def overrides(path, folder, *more) -> list[str]:
    return [
        f"run={folder}", f"data.paths=['{path}']", "data.validation=0.25", "tokenizer.vocab_size=330",
        "model.context=64", "model.width=32", "model.layers=1", "model.heads=2", "model.causal=false", "epochs=10",
        "train.batch_size=16", "train.precision=float32", "train.compile=off", "train.threads=1", "train.log_every=1",
        "optimizer.lr=0.01", "schedule.warmup=2", *more,
    ]  # fmt: skip


def trainer(path, folder, *more, ranks: Ranks | None = None):
    return build_trainer(load(ClassifyConfig, None, overrides(path, folder, *more)), ranks or Ranks())


def evaluations(folder) -> list[dict]:
    return [record for record in read_metrics(folder) if record["kind"] == "evaluation"]


# Learning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", ["false", "true"])
def test_a_separable_task_is_learnt(things, tmp_path, causal):
    """From scratch, by an encoder and by a decoder; the run says the same of new texts as of its held-out ones."""
    before = trainer(things[0], tmp_path / "run", f"model.causal={causal}")
    assert before.evaluate()["accuracy"] < 0.9
    config = load(ClassifyConfig, None, overrides(things[0], tmp_path / "run", f"model.causal={causal}"))
    assert classify(config, Ranks()).finished
    [figures] = evaluations(tmp_path / "run")
    assert figures["accuracy"] >= 0.95 and figures["macro_f1"] >= 0.95
    loaded = load_run(tmp_path / "run", heads=["classes"])
    _, held_out = read_data(config)
    said = [loaded.model.classes[i] for i in predict(loaded, [each.text for each in held_out]).argmax(1).tolist()]
    right = sum((one,) == each.labels for one, each in zip(said, held_out))
    assert right / len(held_out) == pytest.approx(figures["accuracy"])
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert report["texts"] == len(held_out) == sum(row["texts"] for row in report["classes"].values())
    assert sum(row["trained"] for row in report["classes"].values()) + len(held_out) == TEXTS
    assert sum(row["right"] for row in report["classes"].values()) == right


def test_several_labels_are_learnt_with_binary_cross_entropy(things, tmp_path):
    trainer(things[1], tmp_path, "loss=binary", "epochs=12").fit()
    [figures] = evaluations(tmp_path)
    assert figures["exact_match"] >= 0.95 and figures["micro_f1"] >= 0.95
    loaded = load_run(tmp_path, heads=["classes"])
    shares = predict(loaded, ["the old pear", "blue saw on a table", "the 桃子 a hammer 放 着", "on the old table"])
    assert (shares > 0.5).tolist() == [[True, False], [False, True], [True, True], [False, False]]


def test_tuning_starts_from_the_trunk_of_any_run(things, tmp_path):
    """An encoder or decoder that was pretrained, or a classifier: its weights, its tokenizer, its architecture."""
    source = trainer_of(tmp_path / "pretrained", "model.context=64", "train.steps=3")
    source.fit()
    more = [f"init={tmp_path / 'pretrained' / 'run'}", "model.context=1024", "model.width=256", "model.layers=4"]
    more += ["model.heads=4", "model.causal=true", "tokenizer.vocab_size=4096"]  # the defaults again
    tuned = trainer(things[0], tmp_path / "a", *more, "epochs=0", "train.steps=3")
    for name, value in source.model.trunk.state_dict().items():
        assert torch.equal(tuned.model.trunk.state_dict()[name], value), name
    tuned.fit()
    more[0] = f"init={tmp_path / 'a'}"
    again = trainer(things[1], tmp_path / "b", *more, "loss=binary")
    assert torch.equal(again.model.trunk.embedding.weight, tuned.model.trunk.embedding.weight)
    assert again.files()["tokenizer.model"] == source.files()["tokenizer.model"]
    adapters = trainer(things[0], tmp_path / "c", *more, "epochs=0", "train.steps=3", "lora.rank=4")
    adapters.fit()
    require_only_adapters_learnt(adapters.model, tuned.model)
    with pytest.raises(ConfigError, match="needs init"):
        trainer(things[0], tmp_path / "d", "lora.rank=4")


def test_epochs_decide_the_steps(things, tmp_path):
    made = trainer(things[0], tmp_path, "epochs=2.5")
    assert made.config.steps == math.ceil(2.5 * len(made.rows) / 16)
    assert trainer(things[0], tmp_path / "b", "epochs=0", "train.steps=7").config.steps == 7


def test_a_resumed_run_is_bit_identical(things, tmp_path):
    more = ["epochs=0", "train.steps=12", "train.save_every=4", "model.dropout=0.1"]
    trainer(things[0], tmp_path / "whole", *more).fit()
    broken = trainer(things[0], tmp_path / "broken", *more)
    for _ in range(4):
        broken.step()
    broken.save()
    broken.saver.finish()
    continued = trainer(things[0], tmp_path / "broken", *more)
    assert continued.state.step == 4
    continued.fit()
    one, other = (newest_intact(tmp_path / name)[1] for name in ("whole", "broken"))
    assert one["model.safetensors"] == other["model.safetensors"]
    assert one["optimizer.safetensors"] == other["optimizer.safetensors"]


def test_other_classes_do_not_continue_a_run(things, tmp_path):
    """The data have changed since: scores of one class would be read as those of another."""
    path = write(tmp_path / "a.jsonl", [json.loads(line) for line in things[0].read_text("utf-8").splitlines()])
    trainer(path, tmp_path / "run", "epochs=0", "train.steps=1").fit()
    path.write_text(path.read_text("utf-8").replace('"fruit"', '"vegetable"'), "utf-8")
    with pytest.raises(UserError, match=r"model\.json is not that of this run"):
        trainer(path, tmp_path / "run", "epochs=0", "train.steps=1")


def train_on(ranks: Ranks, path, folder, parallel) -> None:
    more = ["epochs=0", "train.steps=8", "train.micro_batch=4", f"train.parallel={parallel}"]
    trainer(path, folder, *more, ranks=ranks).fit()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_equal_one(things, tmp_path, parallel):
    """Losses of every step and all held-out figures, of texts of unequal length; the run can be loaded."""
    for world in (1, 2):
        on_ranks(world, train_on, str(things[0]), str(tmp_path / f"run{world}"), parallel)
    one, two = (
        [[value for name, value in record.items() if name != "tokens_per_second"] for record in read_metrics(folder)]
        for folder in (tmp_path / "run1", tmp_path / "run2")
    )
    assert len(one) == len(two) == 9
    for left, right in zip(one, two):
        assert right[0] == left[0] and right[1:] == pytest.approx(left[1:], abs=1e-4)
    models = [load_run(tmp_path / name, heads=["classes"]).model for name in ("run1", "run2")]
    for left, right in zip(models[0].parameters(), models[1].parameters()):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=0)


def test_instructions_of_the_world_need_no_file(tmp_path):
    config = load(ClassifyConfig, "configs/demo/classify.toml", ["init=", "data.phrasings=2", f"run={tmp_path}"])
    train, held_out = read_data(config)
    assert len(train) > 500 and len(held_out) > 300 and not {t.text for t in train} & {t.text for t in held_out}


# Rows and figures ----------------------------------------------------------------------------------------------------


def test_rows_hold_their_texts_and_nothing_else():
    ids = [[2, 7, 8], [2, *range(30, 63)], [2]]
    rows = TextRows(ids, torch.eye(3), 48, pad=0, begins=[1, 2, 0])
    batch = rows.batch([0, 2], [5, 6])
    assert batch.tokens.shape == (2, STEP) and torch.equal(batch.targets, torch.eye(3)[[0, 2]])
    assert rows.batch([1], [0]).tokens.shape == (1, 48), "never more than the context"
    for row, sample in enumerate([0, 2]):
        length = len(ids[sample])
        assert batch.tokens[row, :length].tolist() == ids[sample]
        assert (batch.documents[row, :length] == 0).all() and (batch.documents[row, length:] == PADDING).all()
        assert batch.weights[row].nonzero()[:, 0].tolist() == list(range([1, 2, 0][sample], length))
    assert batch.positions[0].tolist() == list(range(STEP)) and batch.samples.tolist() == [0, 2]


class Fixed(torch.nn.Module):
    """Says what it was told, text after text."""

    def __init__(self, logits, multiple):
        super().__init__()
        self.logits, self.multiple, self.classes = logits, multiple, ("a", "b", "c", "never")

    def forward(self, tokens, documents, positions):
        return self.logits[tokens[:, 0]]

    losses = Classifier.losses


def figures_of(logits, labels, multiple) -> Measure:
    targets = indicators([Labelled("", tuple(each)) for each in labels], ("a", "b", "c", "never"))
    rows = TextRows([[i] for i in range(len(labels))], targets, 8, 0)
    return measure(Fixed(torch.tensor(logits), multiple), rows, Ranks())


def test_figures_of_single_labels_by_hand():
    """Named: a a b a; right: a b b c. F1: a 2 / (1 + 3), b 2 / (2 + 1), c 0; the fourth is nowhere."""
    logits = [[3.0, 1, 0, 0], [3.0, 2, 0, 0], [0.0, 5, 0, 0], [1.0, 0, 0.5, 0]]
    found = figures_of(logits, ["a", "b", "b", "c"], multiple=False).figures()
    assert found["accuracy"] == 0.5
    assert found["macro_f1"] == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)
    losses = [math.log(sum(map(math.exp, row))) - row[k] for row, k in zip(logits, (0, 1, 1, 2))]
    assert found["loss"] == pytest.approx(sum(losses) / 4) and "exact_match" not in found


def test_figures_of_several_labels_by_hand():
    """Named: ab, a, none, none; right: ab, ab, none, c."""
    logits = [[1.0, 2, -1, -9], [1.0, -2, -1, -9], [-1.0, -1, -1, -9], [-0.1, -1, -0.2, -9]]
    measured = figures_of(logits, ["ab", "ab", "", "c"], multiple=True)
    found = measured.figures()
    assert found["exact_match"] == 0.5
    assert found["micro_f1"] == pytest.approx(2 * 3 / (3 + 5))
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found["accuracy"] == 0.5, "the likeliest class is one of its labels"
    report = measured.report(("a", "b", "c", "never"), (5, 6, 7, 8))
    assert report["classes"]["b"] == {"trained": 6, "texts": 2, "named": 1, "right": 1, "f1": pytest.approx(2 / 3)}


def test_one_class_is_named_or_those_above_one_half():
    logits = torch.tensor([[-3.0, -0.1], [4.0, 0.1]])
    assert named(Fixed(None, False), logits).tolist() == [[False, True], [True, False]]
    assert named(Fixed(None, True), logits).tolist() == [[False, False], [True, True]]


def test_the_loss_of_a_step_is_the_mean_over_texts():
    """Every text weighs one, whatever its length."""
    rows = TextRows([[0], [1, 5, 5], [2, 5]], torch.eye(4)[[0, 2, 1]], 8, 0)
    logits = torch.randn(3, 4)
    terms = classification(Fixed(logits, False), rows.batch([0, 1, 2], [0, 1, 2]))
    assert float(terms.weight) == 3
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2, 1]), reduction="sum")
    assert float(terms.total) == pytest.approx(float(expected))


# New texts and wrong input -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(things, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    trainer(things[0], folder / "single").fit()
    trainer(things[1], folder / "several", "loss=binary", "epochs=12").fit()
    return folder


def test_new_texts_are_labelled(finished, tmp_path, capsys):
    file = write(tmp_path / "new.jsonl", [{"text": "an old pear"}, {"instruction": "the 剪刀 on it"}])
    main(["predict", str(finished / "single"), str(file)])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["text"], row["label"]) for row in rows] == [("an old pear", "fruit"), ("the 剪刀 on it", "tool")]
    assert all(0.5 < row["probability"] <= 1 for row in rows)
    main(["predict", str(finished / "several"), str(file), "--out", str(tmp_path / "out.jsonl")])
    assert capsys.readouterr().out == ""
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [row["labels"] for row in rows] == [["fruit"], ["tool"]]
    assert all(row["probabilities"].keys() == {"fruit", "tool"} for row in rows)


def test_wrong_input_of_predict_is_one_sentence(finished, tmp_path):
    good = write(tmp_path / "good.jsonl", [{"text": "a"}])
    for file, message in (
        (write(tmp_path / "bad.jsonl", [{"text": "a"}, {"txt": "b"}]), r"bad\.jsonl:2: `text` must be text"),
        (tmp_path / "none.jsonl", "there is no file"),
        (write(tmp_path / "empty.jsonl", []), "has no rows"),
    ):
        with pytest.raises(UserError, match=message):
            main(["predict", str(finished / "single"), str(file), "--out", str(tmp_path / "out")])
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="there is no checkpoint in"):
        main(["predict", str(tmp_path / "nowhere"), str(good)])


def test_wrong_input_is_one_sentence_and_leaves_nothing(things, tmp_path):
    run = tmp_path / "run"
    cases = [
        (things[1], [], r"several\.jsonl:\d+: [02] labels; one is needed, or set loss=binary"),
        (tmp_path / "missing.jsonl", [], r"missing\.jsonl"),
        (write(tmp_path / "one.jsonl", [{"text": "a", "label": "x"}]), [], "both are needed"),
        (write(tmp_path / "same.jsonl", [{"text": f"a {i}", "label": "x"} for i in range(40)]), [], "nothing to learn"),
        (write(tmp_path / "un.jsonl", [{"text": f"a {i}", "labels": []} for i in range(40)]), ["loss=binary"], "none"),
        (things[0], [f"data.validation_paths=['{tmp_path}/v.jsonl']"], r"v\.jsonl"),
        (things[0], ["tokenizer.vocab_size=60000"], "vocab"),
    ]
    for path, more, message in cases:
        with pytest.raises(UserError, match=message):
            trainer(path, run, *more)
        assert not run.exists()
    with pytest.raises(UserError, match="there is no checkpoint in"):
        build_trainer(load(ClassifyConfig, None, [f"init={tmp_path / 'no'}", f"data.paths=['{things[0]}']"]), Ranks())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loss=hinge", "loss must be"),
        ("epochs=-1", "epochs must not be negative"),
        ("data.validation=1", "validation must lie between 0 and 1"),
        ("data.phrasings=0", "phrasings must be positive"),
        ("data.validation_paths=['x']", "validation_paths need paths"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        load(ClassifyConfig, None, [setting])


def test_a_model_beside_init_is_refused():
    with pytest.raises(ConfigError, match="model and tokenizer are those of init"):
        load(ClassifyConfig, None, ["init=runs/x", "model.width=64"])


def test_held_out_files_of_their_own(things, tmp_path):
    other = write(tmp_path / "other.jsonl", [{"text": "a new label", "label": "neither"}])
    made = trainer(things[0], tmp_path / "run", f"data.validation_paths=['{other}']")
    assert len(made.rows) == TEXTS and made.model.classes == ("fruit", "neither", "tool")
    assert made.evaluate()["accuracy"] in (0, 1)
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    assert report["classes"]["neither"]["trained"] == 0 and report["texts"] == 1


def test_texts_beyond_the_context_are_cut_and_counted(tmp_path, capsys):
    rows = [{"text": f"{kind} {i} " + "long " * 90 * (i % 2), "label": kind} for i in range(30) for kind in "ab"]
    made = trainer(write(tmp_path / "a.jsonl", rows), tmp_path / "run", "tokenizer.vocab_size=285")
    assert max(map(len, made.rows.ids)) == 64
    cut = sum(len(ids) == 64 for ids in made.rows.ids)
    assert f"{cut} of {len(made.rows)} texts are longer than the context of 64 tokens" in capsys.readouterr().out


def test_a_learnt_tokenizer_is_the_same_on_all_ranks():
    """The main rank learns it and hands it on."""
    texts = ["one two three", "two three four"] * 20

    class Second(Ranks):
        def from_main(self, value):
            assert value == b"", "another rank learns none"
            return first.tokenizer.model_bytes

    config = load(ClassifyConfig, None, ["model.width=32"]).model
    first = start_from("", config, TokenizerConfig(vocab_size=290), texts, Ranks())
    second = start_from("", config, TokenizerConfig(vocab_size=290), texts, Second(1, 2))
    assert first.tokenizer.sha256 == second.tokenizer.sha256 and first.config == second.config
    assert first.config.vocab_size == 290
