"""The causal experiment: what is taught leaks nothing, what is asked is new, and the figures say what happened."""

from __future__ import annotations

import itertools
import json
import re
import signal
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch

import train.crosslingual as module
from configs import ConfigError, UserError, load, run_main
from data.chat import ChatFormat, Conversation
from instruct import lessons
from instruct.answer import Asked
from instruct.crosslingual import (
    BESIDE,
    ENTITIES,
    FEW,
    HOPS,
    PLANNED,
    RELATIONS,
    SPELLING,
    TAUGHT,
    UNTAUGHT,
    Exposure,
    Teacher,
    canonical,
    chain_of,
    grammar,
    pieces_of,
    unquoted,
    written,
)
from instruct.execute import Done, Execution
from instruct.world.operation import Undefined, language_of
from instruct.world.parse import Parser
from instruct.world.program import Program, world
from instruct.world.tables import COUNTRIES, Pair
from model.complete import Completion
from model.load import LoadedModel, load_run
from tests.oracle import Letters, read_prompt
from tests.ranks import on_ranks
from train.crosslingual import (
    CrosslingualConfig,
    Measuring,
    combined,
    fault,
    main,
    one_seed,
    rows_for,
    tokenizer_of,
    trained,
)
from train.crosslingual_report import markdown
from train.distributed import Ranks
from train.evaluation import interval
from train.run import read_metrics
from train.trainer import Trainer

ROOT = Path(__file__).parent.parent
FULL, ABLATED = True, False


@cache
def exposure(seed: int = 0) -> Exposure:
    return Exposure(seed)


@cache
def taught(seed: int = 0, lexicon: bool = True, count: int = 4000) -> tuple[Conversation, ...]:
    return tuple(Teacher(exposure(seed), lexicon).lessons(count, seed))


@cache
def parser() -> Parser:
    return Parser(world())


# Leaks ---------------------------------------------------------------------------------------------------------------


@cache
def cues(language: str) -> re.Pattern:
    """What the words for the relations have in common, whichever way they are said: no text about a name that is
    English-only may have one in Chinese."""
    words = {
        "zh": "首都|都城|定都|货币|用什么钱|流通|大洲|一洲|语言|讲什么|幼崽|幼体|小时候|叫声|怎么叫|声音|腿|"
        "哪一类|哪类|一大类|类别",
        "en": "capital|governed|currency|money|pay with|continent|part of the world|language|spoken|young|baby|sound|"
        "noise|call of|legs|leg count|class",
    }
    return re.compile(words[language], re.IGNORECASE)


@cache
def names_in(text: str, seed: int) -> frozenset[str]:
    """The names that stand in a text; the longest one where one lies inside another (狗 is not in 小狗)."""
    return frozenset(_names(seed).findall(text))


@cache
def _names(seed: int) -> re.Pattern:
    found = sorted({text for name in exposure(seed).names for text in name}, key=len, reverse=True)
    return re.compile("|".join(rf"\b{each}\b" if each.isascii() else each for each in found))


def subjects(seed: int) -> frozenset[Pair]:
    """Names by which a fact can be recognised: those that only English-only facts have, but for languages, continents
    and classes, which are words of the instructions as well ("in Chinese")."""
    words = {fact.answer for name in (*FEW, "animal_class") for fact in exposure(seed).facts[name]}
    return exposure(seed).own - words


def leak(conversation: Conversation, seed: int) -> str:
    """Why a lesson touches an English-only fact otherwise than by an English question of one step; "" where not."""
    *context, last = [message.content for message in conversation.messages if message.role != "system"]
    whole = "\n".join([*context, last])
    found = names_in(whole, seed)
    chinese = sorted(name.zh for name in subjects(seed) if name.zh in found)
    english = sorted(name.en for name in subjects(seed) if name.en in found)
    for language in ("zh", "en"):
        if chinese and cues(language).search(whole):
            return f"a relation of {chinese}"
    both = [fact for fact in facts_of(seed) if {fact.given.zh, fact.answer.zh} <= found]
    if both:
        return f"a fact in Chinese: {both[0].given.zh}, {both[0].answer.zh}"
    if english and cues("en").search(whole):
        if language_of(whole) == "zh" or re.search("translat|into English|into Chinese|in Chinese", whole):
            return f"a relation of {english} beside Chinese or a translation"
        relations = {match.group().lower() for match in re.finditer("capital|currency|continent|language", context[0])}
        if len(relations) > 1:
            return f"two relations of {english}"
    return ""


@cache
def facts_of(seed: int) -> list:
    """English-only facts, but for the two languages that an instruction to translate names."""
    facts = itertools.chain.from_iterable(exposure(seed).facts.values())
    return [fact for fact in facts if fact.english_only and fact.answer.zh not in ("英语", "汉语", fact.given.zh)]


@pytest.mark.parametrize("lexicon", [FULL, ABLATED])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_lesson_touches_an_english_only_fact_in_chinese_or_in_a_composition(seed, lexicon):
    found = [(leak(one, seed), one.messages) for one in taught(seed, lexicon)]
    assert [each for each in found if each[0]] == []


def test_the_search_for_leaks_sees_them():
    """Each way to leak that it is there for, in both directions; and what is no leak."""
    country = next(row for row in COUNTRIES if row.name in exposure().english_only and row.currency in exposure().own)
    given, capital, money = country.name, country.capital, country.currency
    leaks = [
        lessons.execute("这个国家的首都是什么？", given.zh, capital.zh),
        lessons.execute(f"{given.zh}的货币是什么？", "", money.zh),
        lessons.execute(f"以{capital.zh}为首都的国家是什么？", "", given.zh),
        lessons.execute("Name the capital of the country.", given.zh, capital.zh),
        lessons.execute("Name the capital of the country.", given.en, capital.zh),
        lessons.execute("Name the capital of the country, then translate it into Chinese.", given.en, capital.zh),
        lessons.execute(f"Name the currency of the country whose capital is {capital.en}.", "", money.en),
        lessons.construct(f"{given.zh}的首都是什么？", "zh", False, ("Translate the word into English.",), given.zh),
        lessons.construct(f"{given.zh}？", "zh", False, ("Name the capital of the country.",), given.zh),
        lessons.sentence(f"{given.zh}？", capital.zh, "zh", f"{given.zh}，{capital.zh}。"),
    ]
    assert [bool(leak(one, 0)) for one in leaks] == [True] * len(leaks)
    fine = [
        lessons.execute("Name the capital of the country.", given.en, capital.en),
        lessons.execute("Translate the word into Chinese.", capital.en, capital.zh),
        lessons.execute(f"将{given.zh}翻译成英语。", "", given.en),
        lessons.construct(f"统计{given.zh}的字符个数。", "zh", False, ("Count the letters in the word.",), given.zh),
    ]
    assert [leak(one, 0) for one in fine] == [""] * len(fine)


def test_every_phrase_of_a_relation_has_a_cue():
    """Else the search for leaks would pass over it."""
    relations = [name for name in (*ENTITIES, UNTAUGHT, *FEW, "sound", "animal_class", "legs")]
    for name, language in itertools.product(relations, ("en", "zh")):
        phrases = world().by_name[name].phrases(language)
        for phrase in (*phrases.verbs, *phrases.nouns):
            assert cues(language).search(phrase), phrase


# What is taught ------------------------------------------------------------------------------------------------------


def test_the_exposure_follows_from_the_seed_and_covers_both_sides():
    assert exposure(0).english_only == Exposure(0).english_only != Exposure(1).english_only
    for name in (*RELATIONS, *HOPS):
        sides = Counter(fact.english_only for fact in exposure().facts[name])
        assert min(sides[True], sides[False]) >= 6, name
    assert exposure().own < set(exposure().names)
    assert all(name in exposure().own for name in exposure().english_only)
    euro = Pair("euro", "欧元")
    assert euro in exposure().names and euro not in exposure().own


def test_translations_of_english_only_names_are_what_the_ablated_model_lacks():
    def translated(lexicon: bool) -> set[tuple[str, str]]:
        teacher, rng = Teacher(exposure(), lexicon), Random(0)
        drawn = (teacher.translate(rng).messages for _ in range(6000))
        return {(given.content.rpartition("\n")[2], answer.content) for given, answer in drawn}

    own = {(name.zh, name.en) for name in exposure().own} | {(name.en, name.zh) for name in exposure().own}
    assert len(translated(FULL) & own) > 0.95 * len(own)
    assert translated(ABLATED) & own == set()
    for one in taught(0, ABLATED):
        found = names_in("\n".join(message.content for message in one.messages), 0)
        both = {name.en for name in exposure().own if {name.en, name.zh} <= found}
        assert both <= {"Chinese", "English"}  # words of the instructions


def test_english_only_facts_are_stated_in_english_and_those_of_the_control_set_in_both():
    stated = {tuple(m.content for m in one.messages) for one in Teacher(exposure()).lessons(20_000, 3)}
    pairs = {(text.rpartition("\n")[2], answer) for text, answer in (each for each in stated if len(each) == 2)}
    for fact in (fact for name in ENTITIES for fact in exposure().facts[name]):
        assert (fact.given.en, fact.answer.en) in pairs
    control = [fact for name in ENTITIES for fact in exposure().facts[name] if not fact.english_only]
    asked = "\n".join("|".join(each) for each in stated)
    said = sum(bool(re.search(f"{fact.given.zh}[^\n]*\\|{fact.answer.zh}$", asked, re.M)) for fact in control)
    assert said > 0.9 * len(control)


def test_the_chain_of_the_untaught_relation_is_in_no_lesson():
    step, parts = canonical(Program.read(UNTAUGHT)), Counter()
    for one in taught(0, FULL):
        system = one.messages[0].content if one.messages[0].role == "system" else ""
        if step in one.messages[-1].content or (system and step in one.messages[-2].content):
            parts[system.split()[0]] += 1
    assert set(parts) == {"paraphrase"}
    assert all(step not in steps for _, steps in Teacher(exposure()).known())


def test_lessons_are_the_same_for_the_same_seed():
    assert Teacher(exposure()).lessons(50, 4) == Teacher(Exposure(0)).lessons(50, 4)
    assert Teacher(exposure()).lessons(50, 4) != Teacher(exposure()).lessons(50, 5)


# What is asked -------------------------------------------------------------------------------------------------------


def test_chains_are_what_the_world_runs_to_the_answer():
    for name in (*TAUGHT, UNTAUGHT, *HOPS, *SPELLING, *PLANNED):
        program = Program.read(name)
        chain = chain_of(program, "zh")
        for step, text in zip(chain, written(program, "zh"), strict=True):
            assert parser().parse(text).program == step
    for name, beside, new in itertools.product((*RELATIONS, *HOPS), (False, True), (False, True)):
        for question in exposure().questions(name, True, 1, beside, new_words=new):
            assert world().run(Program.read(name), question.given, "zh") == question.answer == question.outputs[-1]
            assert (question.asked.input or question.asked.instruction).count(question.given) >= 1
    assert written(Program.read("capital"), "zh") == (
        "Translate the word into English.",
        "Name the capital of the country.",
        "Translate the word into Chinese.",
    )
    assert written(Program.read("capital"), "en") == ("Name the capital of the country.",)


def test_new_words_are_those_that_no_lesson_has():
    def wording(text: str) -> str:
        return _names(0).sub("x", unquoted(text).split("\n")[0])

    shown = {wording(message.content) for one in taught() for message in one.messages if message.role == "user"}
    for name, side in itertools.product((*RELATIONS, *HOPS), (True, False)):
        new = exposure().questions(name, side, new_words=True)
        assert new and not {wording(each.asked.instruction) for each in new} & shown
    for name, side in itertools.product(RELATIONS, (True, False)):
        asked = exposure().questions(name, side)
        said = {wording(text) for text in grammar().phrasings(Program.read(name), "zh", False, asked[0].given)}
        assert {wording(each.asked.instruction) for each in asked} <= said, "the others are in words of lessons"


def test_entities_are_asked_for_where_their_answer_is_that_of_one_row():
    for name in (*ENTITIES, UNTAUGHT, HOPS[0]):
        answers = Counter((each.given, each.answer) for each in exposure().questions(name, True, 1))
        assert len({answer for _, answer in answers}) == len(answers)
        assert set(answers.values()) == {2}
    given = {each.given for name in ENTITIES for each in exposure().questions(name, True)}
    assert given <= {name.zh for name in exposure().english_only}


def test_pieces_of_a_vocabulary_never_join_a_name_with_its_neighbours():
    texts = pieces_of([lessons.execute("法国的首都是什么？", "", "巴黎")], exposure().names)
    assert texts == ["的首都是什么？"]


# Measuring -----------------------------------------------------------------------------------------------------------


class Perfect:
    """Plays every part by the interpreter; `knows(question)` says what it can answer at once."""

    def __init__(self, wordings: int, knows=lambda one: True, chains: bool = True, translates: bool = True):
        self.knows, self.chains, self.translates = knows, chains, translates
        self.questions = {}
        for name, side, new in itertools.product((*RELATIONS, *HOPS), (True, False), (True, False)):
            asked = exposure().questions(name, side, wordings, new_words=new)
            self.questions |= {each.asked.instruction: each for each in asked}
        for name in PLANNED:
            planned = exposure().questions(name, True, wordings, beside=True)
            self.questions |= {each.asked.instruction: each for each in planned}

    def complete_prompts(self, loaded, prompts, new_tokens, sampling=None, seeds=None, batch_rows=64):
        return [Completion(loaded.folder.says(read_prompt(list(ids))), True) for ids in prompts]

    def says(self, messages: list[tuple[str, str]]) -> str:
        system = messages[0][1] if messages[0][0] == "system" else ""
        text, given = lessons.split_request(messages[-2][1])
        if system.startswith(("construct", "plan")):
            question = next(q for t, q in self.questions.items() if lessons.hide_quoted(t)[0] == text)
            named = lessons.HIDDEN if lessons.hide_quoted(question.asked.instruction)[1] else question.given
            steps = question.steps if self.chains else question.steps[:1]
            return "\n".join(([] if system.startswith("plan") else [lessons.INPUT + named]) + list(steps))
        try:
            if text in self.questions:
                one = self.questions[text]
                value = given or one.given
                return world().run(Program.read(one.program), value, "zh") if self.knows(one) else "不知道"
            reading = parser().parse(text)
            if not self.translates and str(reading.program) == "to_english":
                return "Atlantis"
            return world().run(reading.program, given or reading.literal, reading.language)
        except Undefined:
            return "不知道"


def standing_in(player: Perfect, monkeypatch) -> LoadedModel:
    """A model whose words are the player's."""
    monkeypatch.setattr("model.complete.complete_prompts", player.complete_prompts)
    return LoadedModel(SimpleNamespace(config=SimpleNamespace(context=4000)), Letters(), ChatFormat(), player)


def settings(folder: Path, *overrides: str) -> CrosslingualConfig:
    tiny = ["vocab_size=1900", "lessons=600", "wordings=1", "model.width=16", "model.layers=1", "model.heads=2"]
    tiny += ["train.steps=6", "train.batch_size=4", "train.save_every=2", "train.log_every=1", "train.threads=1"]
    tiny += ["train.precision=float32", "train.compile=off", "optimizer.kind=muon", "schedule.warmup=2"]
    return load(CrosslingualConfig, ROOT / "configs" / "crosslingual.toml", [*tiny, f"run={folder}", *overrides])


def test_figures_of_a_model_that_reads_english_only(tmp_path, monkeypatch):
    """It answers at once what it was taught in Chinese, and reaches the rest by its chains: what the experiment looks
    for comes out of the measuring, and nothing else."""
    control = {name.zh for name in exposure().names} - {name.zh for name in exposure().english_only}
    full = standing_in(Perfect(1, knows=lambda one: one.given in control), monkeypatch)
    ablated = standing_in(Perfect(1, translates=False), monkeypatch)
    measured = Measuring(full, ablated, exposure(), settings(tmp_path)).marks()
    for name, figures in itertools.chain.from_iterable(
        measured[kind].items() for kind in ("relations", "two_hops", "new_words")
    ):
        expected = {"direct": 0, "constructed": 1, "oracle": 1, "ablated": 0, "control": 0, "control_direct": 1}
        assert {key: figures[key] for key in expected} == expected, name
        assert figures["random"] < 0.3
        assert figures["asked"] == len(exposure().questions(name, True, 1))
    assert measured["relations"]["capital"]["retrieved"] > 0.5
    assert measured["relations"][UNTAUGHT]["retrieved"] == 0
    assert measured["relations"]["continent"]["guess"] > 0.2 > measured["relations"]["capital"]["guess"]
    assert measured["errors"] == {"right": sum(measured["relations"][name]["asked"] for name in ENTITIES)}
    for figures in measured["planning"].values():
        assert (figures["plan"], figures["planned"], figures["oracle"], figures["direct"]) == (1, 1, 1, 0)
    report = {"crosslingual": combined([measured, measured]), "machine": {}, "command": "here"}
    assert report["crosslingual"]["constructed"] == 1 and report["crosslingual"]["direct"] == 0
    page = markdown(report)
    assert "**100.0%**" in page and "2 seeds" in page and "young of an animal" in page


def test_a_model_that_writes_no_whole_chain_gains_nothing(tmp_path, monkeypatch):
    loaded = standing_in(Perfect(1, chains=False), monkeypatch)
    errors = Counter()
    figures = Measuring(loaded, loaded, exposure(), settings(tmp_path)).relation("capital", errors)
    assert figures["direct"] == figures["oracle"] == 1 and figures["constructed"] == 0
    assert figures["control"] == -1
    assert set(errors) == {"chain"}


def test_faults_are_counted_at_the_first_step_that_is_wrong():
    one = exposure().questions("capital", True)[0]

    def done(*outputs: str, steps=one.steps, given=one.given) -> Execution:
        carried = tuple(Done(i, step, "", output, ()) for i, (step, output) in enumerate(zip(steps, outputs), 1))
        return Execution(one.asked, "construct", steps, given, steps=carried, answer=outputs[-1])

    country, city, answer = one.outputs
    assert fault(done(country, city, answer), one) == "right"
    assert fault(done("Atlantis", "Poseidonis", "x"), one) == "first translation"
    assert fault(done(country, "Poseidonis", "x"), one) == "answer"
    assert fault(done(country, city, "x"), one) == "back-translation"
    assert fault(done(country, city, steps=one.steps[:2]), one) == "chain"
    assert fault(done(country, city, "x", given="大西洲"), one) == "name in the question"
    assert fault(done("Atlantis", "Poseidonis", answer), one) == "right"
    assert fault(Execution(Asked("?"), "construct", refusal="no chain"), one) == "chain"


def test_an_interval_holds_the_mean_and_is_a_point_where_seeds_agree():
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    low, high = interval([0.2, 0.4, 0.9])
    assert 0.2 <= low < 0.5 < high <= 0.9


# Training ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> CrosslingualConfig:
    """One seed in one go, measured in few relations."""
    config = settings(tmp_path_factory.mktemp("whole"))
    with pytest.MonkeyPatch.context() as patch:
        few(patch)
        one_seed(config, Ranks())
    return config


def few(patch) -> None:
    patch.setattr(module, "RELATIONS", (*ENTITIES, UNTAUGHT))
    patch.setattr(module, "HOPS", HOPS[:1])
    patch.setattr(module, "PLANNED", PLANNED[:1])


def stop() -> None:
    raise KeyboardInterrupt


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in load_run(folder).model.state_dict().items()}


def test_names_are_whole_pieces_and_both_models_see_equally_many_tokens(whole, tmp_path):
    config = settings(tmp_path, "vocab_size=3000")
    tokenizer = tokenizer_of(config, exposure(), Ranks())
    assert [name for name in exposure().names if max(len(tokenizer.encode(text)) for text in name) > 1] == []
    for one in exposure().questions("capital", True):
        assert tokenizer.encode(one.given)[0] in tokenizer.encode(one.asked.instruction)
    full, ablated = (read_metrics(Path(whole.run) / name) for name in ("full", "ablated"))
    assert [r["step"] for r in full if r["kind"] == "train"] == list(range(1, 7))
    assert [r["step"] for r in full] == [r["step"] for r in ablated]
    rows = rows_for(whole, Teacher(exposure(), ABLATED), tokenizer)
    assert rows.fill > 0.9


def test_what_is_finished_is_not_done_again(whole, monkeypatch):
    monkeypatch.setattr(module, "Trainer", None)
    monkeypatch.setattr(module, "Measuring", None)
    marks = one_seed(whole, Ranks())
    assert set(marks) == {"relations", "two_hops", "new_words", "planning", "errors"}
    assert all(0 <= marks["relations"][name]["constructed"] <= 1 for name in ENTITIES)


def test_an_interrupted_run_goes_on_and_ends_alike(whole, tmp_path, monkeypatch):
    launches, launch = iter(range(100)), Trainer.launch

    def interrupted(trainer):
        number = next(launches)
        trainer.asked = signal.SIGTERM if number == 4 else 0
        launch(trainer) if number < 9 else stop()

    monkeypatch.setattr(Trainer, "launch", interrupted)
    with pytest.raises(UserError, match="full: interrupted at step 5; the same command goes on"):
        one_seed(settings(tmp_path), Ranks())
    with pytest.raises(KeyboardInterrupt):
        one_seed(settings(tmp_path), Ranks())
    monkeypatch.undo()
    again = settings(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        few(patch)
        marks = one_seed(again, Ranks())
    assert marks == json.loads((Path(whole.run) / "marks.json").read_text("utf-8"))
    for name in ("full", "ablated"):
        one, other = weights(Path(whole.run) / name), weights(tmp_path / name)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_command_writes_a_report(whole, tmp_path, monkeypatch, capsys):
    few(monkeypatch)
    monkeypatch.setattr(module, "one_seed", lambda config, ranks: one_seed(whole, ranks))
    main([str(ROOT / "configs" / "crosslingual.toml"), "train.device=cpu", "--seeds", "2", "--out", str(tmp_path)])
    report = json.loads((tmp_path / "crosslingual.json").read_text("utf-8"))
    figures = report["crosslingual"]
    shares = ("direct", "random", "retrieved", "constructed", "oracle", "ablated")
    assert all(0 <= figures[key] <= 1 for key in shares) and -1 <= figures["control"] <= 1
    assert figures["seeds"] == len(figures["per_seed"]) == 2
    assert UNTAUGHT not in figures["relations"] and figures["untaught_chain"]["relation"] == UNTAUGHT
    assert sum(figures["errors"].values()) == pytest.approx(1)
    assert report["command"].startswith("python -m train.crosslingual") and report["machine"]
    assert (tmp_path / "crosslingual.md").read_text("utf-8").startswith("# Read in English, asked in Chinese")
    assert "seed 1: direct" in capsys.readouterr().out


@pytest.mark.slow
def test_two_ranks_train_what_one_trains(whole, tmp_path):
    on_ranks(2, train_full, str(tmp_path))
    one, two = (
        [r["loss"] for r in read_metrics(folder / "full") if r["kind"] == "train"]
        for folder in (Path(whole.run), tmp_path)
    )
    assert len(one) == 6 and two == pytest.approx(one, rel=1e-4)


def train_full(ranks: Ranks, folder: str) -> None:
    config = settings(Path(folder))
    trained(config, "full", exposure(), tokenizer_of(config, exposure(), ranks), ranks)


@pytest.mark.parametrize("wrong", ["english_only=0.9", "lessons=0", "model.causal=false", "model.context=64"])
def test_impossible_settings_are_refused(wrong, tmp_path):
    with pytest.raises(ConfigError, match=wrong.partition("=")[0].replace(".", r"\.")):
        settings(tmp_path, wrong)


def test_wrong_use_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x", str(ROOT / "configs" / "crosslingual.toml"), "--seeds", "0"])
    with pytest.raises(SystemExit) as caught:
        run_main(main)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: --seeds must be at least 1, got 0\n"


def test_another_configuration_does_not_go_on_in_a_run_folder(whole):
    with pytest.raises(UserError, match="other settings"):
        one_seed(settings(Path(whole.run), "lessons=601"), Ranks())


def test_relations_are_told_apart():
    assert not {*ENTITIES, *FEW, *BESIDE} & {UNTAUGHT}
    assert set(TAUGHT) == {*ENTITIES, *FEW, *BESIDE}
