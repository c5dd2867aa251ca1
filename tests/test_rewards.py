"""Rewards: what each kind accepts, and one sentence for what is not there."""

from __future__ import annotations

import math
from random import Random

import pytest

import instruct.practice
from configs import ConfigError, UserError
from data.chat import ChatFormat, Conversation, Message
from instruct import lessons
from instruct.curriculum import Course
from instruct.practice import practice, question_of
from instruct.raters import Rightness
from instruct.rewards import Question, RewardConfig, is_right, last_number, load_function, make_reward
from instruct.verify import Verifier
from instruct.world.behaviour import Behaviour
from instruct.world.program import Program, world
from model.complete import Completion
from model.heads import Scorer
from model.load import LoadedModel, model_files
from model.reward import rewards as scores
from model.storage import write_folder
from tests.oracle import shared_course
from tests.small import small_model


def longer(prompt: str, answer: str, expected: str) -> float:
    return len(answer) - len(expected)


def broken(prompt: str, answer: str, expected: str) -> float:
    return 1 / 0


def endless(prompt: str, answer: str, expected: str) -> float:
    return math.inf


HERE = __name__


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    return Verifier(Behaviour(world()))


def said(*texts: str) -> list[Completion]:
    return [Completion(text, True) for text in texts]


def asked(text: str, expected: str = "") -> Question:
    return Question(Conversation((Message("user", text),)), expected)


def given(config: RewardConfig, verifier: Verifier, question: Question, *texts: str) -> list[float]:
    return make_reward(config, verifier)([question] * len(texts), said(*texts))


def test_the_verifier_reads_the_question():
    course = shared_course()
    phrase = course.grammar.phrase(Program.read("reverse_list"), Random(0), "en")
    question = asked(lessons.request(phrase, "3 2 1"))
    texts = ("1 2 3", "1 2 3.", "3 2 1", "", "1 2")
    assert given(RewardConfig(), course.verifier, question, *texts) == [1, 1, 0, 0, 0]
    assert given(RewardConfig(), course.verifier, asked("What shall I do?"), "rest") == [0]


def test_what_was_cut_off_is_not_right(verifier):
    question, cut = asked("2 + 2", "4"), Completion("4", False)
    for config in (RewardConfig("exact"), RewardConfig("arithmetic"), RewardConfig("pattern", pattern="4")):
        assert make_reward(config, verifier)([question, question], [cut, Completion("4", True)]) == [0, 1]


def test_exact_and_pattern(verifier):
    assert given(RewardConfig("exact"), verifier, asked("?", "Paris"), "Paris.", " Paris", "paris", "") == [1, 1, 0, 0]
    assert given(RewardConfig("exact"), verifier, asked("?"), "", "x") == [0, 0], "nothing is expected"
    assert given(RewardConfig("pattern", pattern=r"^\d+$"), verifier, asked("?"), "12", "12a", "x") == [1, 0, 0]


@pytest.mark.parametrize(
    ("question", "expected", "answer", "right"),
    [
        ("3 + 4", "", "7", True),
        ("3 + 4", "", "3 + 4 = 7", True),
        ("3 + 4", "", "3 + 4 = 8, no: 7", False),
        ("How many?", "It is 1,200.", "1200", True),
        ("How many?", "0.5", "1/2", True),
        ("How many?", "12", "12 of 13", False),
        ("How many?", "", "12", False),
        ("1 / 0", "", "0", False),
        ("3 + 4", "", "seven", False),
    ],
)
def test_arithmetic(verifier, question, expected, answer, right):
    assert given(RewardConfig("arithmetic"), verifier, asked(question, expected), answer) == [float(right)]


def test_the_last_number_is_exact():
    assert [last_number(text) for text in ("", "a", "-3.5", "1/0")] == [None, None, -3.5, None]


def test_a_function_of_ones_own(verifier):
    config = RewardConfig("function", function=f"{HERE}:longer")
    assert given(config, verifier, asked("?", "ab"), "abcd", "") == [2.0, -2.0]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nothing", "must be module:function, got 'nothing'"),
        ("no_such_module:f", "no_such_module cannot be imported"),
        (f"{HERE}:missing", "has no function 'missing'"),
        (f"{HERE}:HERE", "has no function 'HERE'"),
    ],
)
def test_a_function_that_is_not_there(name, sentence):
    with pytest.raises(UserError, match=sentence):
        load_function(name)


def test_a_function_that_fails(verifier):
    for name, sentence in [("broken", "ZeroDivisionError"), ("endless", "must give a number")]:
        with pytest.raises(UserError, match=sentence):
            given(RewardConfig("function", function=f"{HERE}:{name}"), verifier, asked("?"), "x")


def test_a_reward_model(verifier, small_tokenizer, tmp_path):
    config = small_model(vocab_size=small_tokenizer.vocab_size).config
    scorer = Scorer(config)
    write_folder(tmp_path / "checkpoints" / "step-00000001", model_files(scorer, small_tokenizer, ChatFormat()))
    question, texts = asked("ka to"), ["mi", "ren sol", "7"]
    found = given(RewardConfig("model", model=str(tmp_path)), verifier, question, *texts)
    conversations = [Conversation((*question.conversation.messages, Message("assistant", text))) for text in texts]
    assert found == scores(LoadedModel(scorer.eval(), small_tokenizer, ChatFormat(), tmp_path), conversations)
    with pytest.raises(UserError, match="there is no checkpoint"):
        make_reward(RewardConfig("model", model=str(tmp_path / "none")), verifier)


@pytest.mark.parametrize(
    "wrong", [{"kind": "pattern"}, {"pattern": "x"}, {"kind": "pattern", "pattern": "("}, {"kind": "function"}]
)
def test_settings_that_do_not_belong_together(wrong):
    with pytest.raises(ConfigError):
        RewardConfig(**wrong)


# Practice ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def course() -> Course:
    return shared_course()


def test_practice_is_never_what_is_tested(course):
    questions = practice(course, (2, 3), 60)
    assert len({question.text for question in questions}) == 60
    assert {len(question.item.program) for question in questions} == {2, 3}
    tested = course.splits._behaviours(course.splits.depth3) | course.splits._behaviours(course.splits.held_out)
    for question in questions:
        assert not course.splits.touches(question.item.program, question.item.language)
        assert not any(course.behaviour.fingerprints(p) & tested for p in question.item.program.parts(2))
        assert is_right(question, question.expected, course.verifier)
        assert not is_right(question, question.expected + " x", course.verifier)
    shallow = sum(len(question.item.program) == 1 for question in practice(course, (1, 3), 60))
    assert abs(shallow - 30) <= 3, "few operations, and as many questions about them"
    assert [q.text for q in practice(course, (2, 3), 60)] == [q.text for q in questions]
    assert [q.text for q in practice(course, (2, 3), 60, seed=1)] != [q.text for q in questions]


def test_questions_of_the_world_and_the_same_read_anew_are_judged_alike(course):
    for item in course.splits.items("depth3", 12, literals=0.0):
        question = question_of(item, course)
        for text in (item.output, "5", ""):
            reread = Question(question.conversation)
            assert is_right(question, text, course.verifier) == is_right(reread, text, course.verifier)


def judged_alike(question: Question, lines: list[str], verifier: Verifier) -> bool:
    """Whether a plan is right, which the reward, a rater, and the reward of the same question read anew agree on."""
    text = "\n".join(lines)
    found = is_right(question, text, verifier)
    assert found == Rightness(verifier)(question.conversation.messages, text)
    assert found == is_right(Question(question.conversation), text, verifier)
    return found


def test_a_plan_is_right_where_its_single_steps_do_what_is_asked(course):
    swapped = 0
    for question in practice(course, (2, 3), 40, ask="plan"):
        item, steps = question.item, question.expected.split("\n")
        assert lessons.is_plan(question.conversation.messages) and len(steps) == len(item.program)
        other = {"en": "zh", "zh": "en"}[item.language]
        foreign = [course.grammar.phrase(Program((step,)), Random(0), other) for step in item.program.steps]
        assert judged_alike(question, steps, course.verifier)
        for wrong in ([], steps[:-1], [item.instruction], [*steps[:-1], "Sing."], ["input: 1", *steps], foreign):
            assert not judged_alike(question, wrong, course.verifier)
        turned = Program(item.program.steps[::-1])
        means_the_same = course.world.well_typed(turned) and course.behaviour.same(turned, item.program)
        assert judged_alike(question, steps[::-1], course.verifier) == means_the_same
        swapped += not means_the_same
    assert swapped > 20
    assert Rightness(course.verifier)(lessons.plan("Sing.", "en").messages, "Sing.") == 0.5


def test_too_many_questions_are_refused(course, monkeypatch):
    monkeypatch.setattr(instruct.practice, "TRIES", 0)
    with pytest.raises(UserError, match="the world has 0 questions of depth 3"):
        practice(course, (3,), 40)
