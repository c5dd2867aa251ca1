"""What feedback gains: figures and page by hand, the noise of raters, and the arms end to end at tiny size."""

from __future__ import annotations

import json
import signal

import pytest

from configs import UserError, load, read_toml
from data.preferences import Preference, read_preferences
from instruct import lessons
from instruct.exam import KINDS
from instruct.raters import Rater, Rightness
from tests.oracle import OPERATIONS, shared_course, shared_seeds, untaught
from train import feedback
from train.advantages import METHODS
from train.distributed import Ranks
from train.feedback import BY_MODEL, PAIRED, Arms, FeedbackConfig, judged, main, table_of
from train.feedback_report import draw, figures_of, page
from train.players import Proposer
from train.trainer import Trainer


def marks(value: float) -> dict:
    return {kind: {"asked": 10, "direct": value, "plan": value / 2} for kind in KINDS}


def known(value: float, **more) -> dict:
    return {"marks": marks(value), "cpu_seconds": 120.0, "stopped": None, "records": []} | more


def rollout(step: int) -> dict:
    figures = {"reward": 0.1 * step, "kl": 0.0, "entropy": 1.0, "length": 5.0, "repetition": 0.0, "silent": 0.5}
    figures["groups"] = 3
    return {"kind": "rollouts", "step": step} | figures


def table() -> dict:
    evaluations = [
        {"kind": "evaluation", "step": 5 * i, "depth3": 0.5 * i, "depth3_right": 0.3 - 0.1 * i} for i in (1, 2)
    ]
    reports = {"reward_model": {"accuracy": 0.9, "ece": 0.05}}
    return {
        "base": {0: known(0.2), 1: known(0.3)},
        "grpo": {0: known(0.4, records=[rollout(step) for step in range(1, 13)]), 1: known(0.6)},
        "reward-watched": {0: known(0.2)},
        "dpo": {1: known(0.35, records=[{"kind": "evaluation", "step": 9, "chosen_drift": -0.04}])},
        "reward": {0: known(0.1, records=evaluations, stopped="step 7 was not taken: it fell", **reports)},
        "kto": {},
        "sft": {0: known(0.2, task={"before": 0.1, "after": 0.9}), 1: known(0.2, task={"before": 0.0, "after": 0.8})},
        "adapters": {1: known(0.2, task={"before": 0.0, "after": 0.6})},
    }


def test_points_are_taken_within_seeds():
    found = figures_of(table(), group=4)
    assert found["gains"] == pytest.approx({"grpo": 25.0, "dpo": 5.0, "reward": -10.0, "reward-watched": 0.0})
    grpo = found["arms"]["grpo"]
    assert grpo["seeds"] == [0, 1] and grpo["points"]["depth3"]["by_seed"] == pytest.approx([20.0, 30.0])
    assert grpo["points"]["depth3"]["interval"] == pytest.approx([20.0, 30.0])
    assert grpo["points_by_plan"]["open"]["mean"] == pytest.approx(12.5) and grpo["cpu_minutes"] == 2
    assert [point["step"] for point in grpo["curves"][0]] == [10, 12]
    assert [point["reward"] for point in grpo["curves"][0]] == pytest.approx([0.55, 1.15])
    assert found["arms"]["dpo"]["chosen_drift"] == [-0.04] and found["arms"]["dpo"]["seeds"] == [1]
    assert found["base"]["inputs"] == pytest.approx(0.25)
    assert found["adapters"]["seeds"] == [1] and found["adapters"]["fraction"] == pytest.approx(0.75)
    assert figures_of({"base": {0: known(0.2)}}, 4)["adapters"] == {}
    assert grpo["answers"] == 12 * 3 * 4 and "answers" not in found["arms"]["dpo"]


def test_the_page_says_gains_and_what_was_stopped(tmp_path):
    report = {"command": "c", "machine": {"torch": "2"}, "answers": 19_200} | figures_of(table(), 4)
    said = "\n".join(page(report, pictures=True))
    assert "| grpo | 2 | +25.0 (+20.0 to +30.0) |" in said and "| dpo | 1 | +5.0 |" in said and "| -4.0% |" in said
    assert "\nreward: policy gradient with a learnt reward alone; reward-watched: the same until" in said
    assert "players:" not in said
    assert said.index("| grpo |") < said.index("| dpo |") < said.index("| reward |"), "the best one comes first"
    assert "- reward, seed 0, was stopped: step 7 was not taken: it fell" in said
    assert "in 90.0%, with an expected calibration error of 0.050" in said and "| 10 | 0 | +1.00 | 10.0% |" in said
    assert "Other numbers of sampled answers: grpo 144." in said
    assert "80.0% after tuning all weights and 60.0% after tuning adapters, 75% of the gain (1 seed)" in said
    draw(report, tmp_path / "gains.png")
    assert (tmp_path / "gains.png").stat().st_size > 10_000


def test_a_rater_is_as_often_wrong_as_one_says():
    course = shared_course()
    pairs = []
    for record in shared_seeds():
        for instance in record.instances:
            if instance.input:
                prompt = lessons.execute(record.instruction, instance.input).messages
                pairs.append(Preference(prompt, instance.output, instance.output + " 1", simulated=True))
    pairs = pairs[:1500]
    for noise in (0.0, 0.3):
        rater = Rater("verifier", (Rightness(course.verifier),), noise, 0)
        found = [judged(rater, pair) for pair in pairs]
        turned = sum(new.chosen == old.rejected for new, old in zip(found, pairs)) / len(pairs)
        assert abs(turned - noise) < 0.04
        assert {(new.rater, new.simulated) for new in found} == {(f"verifier, noise {noise:g}", True)}


# The arms ------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def few_lessons(monkeypatch):
    monkeypatch.setattr("train.reinforce.LESSONS", 50)


def tiny(folder, *overrides) -> FeedbackConfig:
    names = ", ".join(f'"{name}"' for name in OPERATIONS)
    short = ("steps=2", "batch_size=2", "save_every=1", "evaluate_every=2", "compile=off")
    settings = [
        f"run={folder}/run", f"bases={folder}/base", "exam=2", f"curriculum.operations=[{names}]",
        "curriculum.compositions=12", "curriculum.held_out=5", "curriculum.depth3=12", "reinforce.group=2",
        "reinforce.asked=2", "reinforce.answer_tokens=6", "reinforce.data.count=10", "reinforce.health.unfinished=0",
        "prefer.data.pairs.questions=4", "prefer.data.pairs.samples=2", "prefer.epochs=0", "prefer.answer_tokens=6",
        "prefer.asked=2", "prefer.data.validation=0.3", "prefer.health.unfinished=0", "reward.epochs=0",
        "reward.data.validation=0.3", "players.prompts=6", "players.proposals=6", "players.tries=2", "players.group=2",
        "players.asked=2", "players.answer_tokens=6", "players.health.unfinished=0", "players.train.steps=1",
        "players.train.batch_size=2", *(f"{stage}.train.{each}" for stage in ("reinforce", "prefer", "reward", "sft",
        "adapters") for each in short), *(f"{stage}.data.{each}" for stage in ("sft", "adapters") for each in
        ("lessons=30", "asked=2")), *overrides,
    ]  # fmt: skip
    return load(FeedbackConfig, "configs/feedback.toml", settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_tokenizer):
    folder = tmp_path_factory.mktemp("feedback")
    untaught(folder / "base", small_tokenizer)
    return folder


def test_every_arm_has_marks_and_is_not_run_twice(folder, monkeypatch):
    """The model gives no answers that could be paired and no proposals, so both are put in their places."""
    proposer = Proposer(None, shared_course(), tiny(folder).players, Ranks())
    items = [item for record in shared_seeds()[::3] if (item := proposer.item(record.instruction))]

    clock = [0.0]

    def made(loaded, course, config, seed, share):
        clock[0] += 60
        return [
            Preference(lessons.execute(i.instruction, i.input).messages, i.output, "no", simulated=True)
            for i in items[:30]
        ]

    monkeypatch.setattr(feedback, "make_pairs", made)
    monkeypatch.setattr(feedback.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(Proposer, "harvest", lambda self, pool, number: [(item, 0.5) for item in items[:5]])
    arms = ["grpo", "rft", "lessons", "dpo", "kto", "dpo-30", "reward", "reward-watched", "players", "adapters"]
    found = table_of(tiny(folder), 1, arms, Ranks())
    assert found.keys() == {"base", *arms}
    for name in arms:
        assert found[name][0]["marks"].keys() == set(KINDS) and found[name][0]["stopped"] is None
        assert found[name][0]["cpu_seconds"] == 60 * (name in PAIRED)  # the pairs
        if name == "adapters":
            assert found[name][0]["task"].keys() == {"before", "after"}
            continue
        kinds = [record["kind"] for record in found[name][0]["records"]]
        assert "evaluation" in kinds
        assert ("rollouts" in kinds) == (name in (*METHODS, "lessons", *BY_MODEL, "players"))
    assert {"accuracy", "ece"} <= found["reward"][0]["reward_model"].keys()
    assert all("depth3_right" in r for r in found["reward"][0]["records"] if r["kind"] == "evaluation")
    reward, watched, only_lessons = (
        read_toml(folder / "run" / "seed0" / name / "run" / "config.toml")["health"] for name in (*BY_MODEL, "lessons")
    )
    assert reward["right"] == 0.0 < watched["right"], "only one of the two is watched"
    assert only_lessons["silent"] == 0.0 < watched["silent"], "without rewards all is silent"
    silent = [record["silent"] for record in found["lessons"][0]["records"] if record["kind"] == "rollouts"]
    assert silent == [1.0, 1.0] and "lessons" in found["lessons"][0]["records"][0], "no reward, only lessons"
    seed0 = folder / "run" / "seed0"
    clean, noisy = (read_preferences(seed0 / f"pairs-{name}.jsonl") for name in ("0", "30"))
    assert len(clean) == len(noisy) == 30 and clean != noisy
    monkeypatch.setattr(Arms, "_run", lambda self, name: pytest.fail("what is finished is not repeated"))
    assert table_of(tiny(folder), 1, arms, Ranks()) == found
    assert table_of(tiny(folder), 1, ["ppo"], Ranks(), finished=True)["ppo"] == {}


@pytest.mark.parametrize("name", ["grpo", "dpo", "reward", "players", "sft"])
def test_an_interrupted_arm_has_no_marks_and_goes_on(name, folder, tmp_path, monkeypatch):
    """Interrupted as by SIGTERM in its first step: of the reward model, of the proposer, of the run itself."""
    proposer = Proposer(None, shared_course(), tiny(folder).players, Ranks())
    items = [item for record in shared_seeds()[::3] if (item := proposer.item(record.instruction))]
    monkeypatch.setattr(Proposer, "harvest", lambda self, pool, number: [(item, 0.5) for item in items[:5]])
    pairs = [Preference(lessons.execute(i.instruction, i.input).messages, i.output, "no") for i in items[:30]]
    monkeypatch.setattr(feedback, "make_pairs", lambda *a: pairs)
    arms = Arms(tiny(folder, f"run={tmp_path}", "players.train.steps=2", "players.train.batch_size=1"), 0, Ranks())
    launch, steps = Trainer.launch, []

    def interrupted(trainer):
        trainer.asked = 0 if steps else signal.SIGTERM
        steps.append(trainer.run.path)
        launch(trainer)

    monkeypatch.setattr(Trainer, "launch", interrupted)
    with pytest.raises(UserError, match=f"{name}.*interrupted at step 1; the same command goes on"):
        arms.marks(name)
    assert len(steps) == 1 and not (tmp_path / "seed0" / name / "marks.json").exists()
    assert arms.marks(name)["stopped"] is None
    assert steps.count(steps[0]) == 2, "the second of its two steps"


def test_an_arm_that_health_stops_keeps_its_last_marks(folder):
    config = tiny(
        folder, f"run={folder}/stopped", "reinforce.health.silent=0.5", "reinforce.health.patience=2",
        "reinforce.train.steps=4", "prefer.data.pairs.questions=8", "players.train.steps=2",
    )  # fmt: skip
    found = Arms(config, 0, Ranks()).marks("grpo")
    assert "silent" in found["stopped"] and found["marks"].keys() == set(KINDS)
    assert len([record for record in found["records"] if record["kind"] == "rollouts"]) == 2


def test_no_method_samples_more_than_the_others(folder, monkeypatch):
    seen = {}
    monkeypatch.setattr(feedback, "reinforce", lambda config, ranks: seen.update({config.loss.method: config}))
    arms = Arms(tiny(folder, "reinforce.train.batch_size=10"), 0, Ranks())
    for method in METHODS:
        arms._reinforced(folder / "unused", method)()
    sizes = {method: config.train.batch_size for method, config in seen.items()}
    assert sizes == dict.fromkeys(METHODS, 10) | {"dapo": 2}, "it asks four times at most"


def test_unequal_numbers_of_answers_are_refused(folder):
    tiny(folder).require_comparable()
    with pytest.raises(UserError, match="reinforce samples 8 answers, prefer 10"):
        tiny(folder, "prefer.data.pairs.questions=5").require_comparable()
    with pytest.raises(UserError, match=r"players\.group must be that of reinforce, 2"):
        tiny(folder, "players.group=4", "players.train.batch_size=1").require_comparable()
    with pytest.raises(UserError, match="above 0"):
        tiny(folder, "adapters.lora.rank=0").require_comparable()
    with pytest.raises(UserError, match="the arm lessons needs"):
        Arms(tiny(folder, f"run={folder}/deaf", "reinforce.loss.rehearsal=0"), 0, Ranks()).marks("lessons")


@pytest.mark.parametrize(
    "arguments, wrong",
    [(["--arms", "best"], "unknown arm best"), (["--seeds", "0"], "at least 1"), (["bases=gone"], "no base gone")],
)
def test_wrong_input_is_one_sentence(arguments, wrong):
    with pytest.raises(UserError, match=wrong):
        main(["configs/feedback.toml", *arguments])


def test_the_figures_can_be_written(folder, tmp_path):
    report = {"command": "c", "machine": {}, "answers": 1} | figures_of(table(), 4)
    assert json.loads(json.dumps(report))["headline"] == "depth3"
