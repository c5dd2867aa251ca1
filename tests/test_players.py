"""The proposer as a player: what it earns, by hand; what the solver gets; a game that is interrupted and goes on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from configs import ConfigError, UserError, load
from data.formats import read_rows
from instruct import lessons
from instruct.propose import Pool
from instruct.rewards import Question
from model.complete import Completion
from model.lora import ADAPTERS
from model.storage import newest_intact
from tests.oracle import OPERATIONS, oracle_of, shared_course, shared_seeds, untaught
from train import players
from train.distributed import Ranks
from train.players import PlayersConfig, Proposer, play, worth


@pytest.fixture(scope="module")
def course():
    return shared_course()


def tiny(folder, base, *overrides) -> PlayersConfig:
    names = ", ".join(f'"{name}"' for name in OPERATIONS)
    settings = [
        f"run={folder}", f"init={base}", "rounds=1", "prompts=12", "proposals=40", "inputs=3", "tries=2", "group=2",
        "asked=2", "answer_tokens=8", "measured=['inputs']", f"curriculum.operations=[{names}]",
        "curriculum.compositions=12", "curriculum.held_out=5", "curriculum.depth3=12", "health.unfinished=0",
        "train.steps=2", "train.batch_size=2", "train.save_every=1", "train.evaluate_every=0", "train.threads=1",
        *overrides,
    ]  # fmt: skip
    return load(PlayersConfig, "configs/demo/players.toml", settings)


def proposer(course, monkeypatch, **spoiled) -> Proposer:
    loaded, _ = oracle_of(course, monkeypatch, **spoiled)
    return Proposer(loaded, course, PlayersConfig(tries=8), Ranks())


@pytest.mark.parametrize("rate, wanted", [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0), (0.25, 0.5), (0.75, 0.5)])
def test_worth_is_largest_where_half_is_solved(rate, wanted):
    assert worth(rate) == pytest.approx(wanted)


def test_always_and_never_solved_earn_nothing_and_sometimes_does(course, monkeypatch):
    said = [Completion(accepted(course), True)]
    asked = [Question(lessons.combine(["Reverse the list.", "Sort the list."], "en"))]
    for wrong, low, high in ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.5, 0.2, 1.0)):
        [earned] = proposer(course, monkeypatch, wrong=wrong)(asked, said)
        assert low <= earned <= high


def accepted(course) -> str:
    """An instruction of two steps that may be trained on."""
    return next(r.instruction for r in shared_seeds() if " | " in (r.program or "") and r.instances[0].input)


def test_what_the_world_does_not_accept_is_no_item(course, monkeypatch):
    player = proposer(course, monkeypatch)
    text = accepted(course)
    item = player.item(text)
    assert item.instruction == text and course.world.holds(item.program, item.given, item.output, item.language)
    held_out = course.grammar.phrase(sorted(course.splits.held_out, key=str)[0], Random(0), "en")
    literal = next(r.instruction for r in shared_seeds() if not r.instances[0].input)
    for bad in ("Blah blah.", "", held_out, literal, "Reverse the list, then reverse the result."):
        assert player.item(bad) is None, bad
    question = Question(lessons.combine(["a", "b"], "en"))
    monkeypatch.setattr(player, "rates", lambda items: [0.5] * len(items))
    assert player([question] * 2, [Completion(text, True), Completion(text, False)]) == [1.0, 0.0], "it was cut off"


def test_the_same_meaning_in_a_step_shares_one_reward(course, monkeypatch):
    player = proposer(course, monkeypatch)
    monkeypatch.setattr(player, "rates", lambda items: [0.5] * len(items))
    one, other = (Question(lessons.combine([text, "Sort the list."], "en")) for text in ("Reverse it.", "Halve it."))
    text = accepted(course)
    program = player.item(text).program
    rng = Random(0)
    in_other_words = next(t for _ in range(200) if (t := course.grammar.phrase(program, rng, "zh")) and player.item(t))
    [different] = [r.instruction for r in shared_seeds() if r.program == "reverse_list" and r.instances[0].input][:1]
    said = [Completion(each, True) for each in (text, text, in_other_words, different, "Blah.", "Blah.")]
    assert player([one, one, other, other, one, other], said) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1.0, 0.0, 0.0])


def test_what_other_ranks_write_counts(course, monkeypatch):
    player = proposer(course, monkeypatch)
    monkeypatch.setattr(player, "rates", lambda items: [0.5] * len(items))

    class TwoAlike(Ranks):
        def gather(self, value):
            return [value, value]

    player.ranks = TwoAlike()
    assert player([Question(lessons.combine(["a", "b"], "en"))], [Completion(accepted(course), True)]) == [0.5]


def test_rates_are_the_same_in_whatever_company(course, monkeypatch):
    player = proposer(course, monkeypatch, wrong=0.5)
    items = [item for r in shared_seeds()[::7] if (item := player.item(r.instruction))][:6]
    assert len(items) > 3
    together = player.rates(items)
    assert together == [player.rates([item])[0] for item in items]
    assert all(0 <= rate <= 1 for rate in together) and len(set(together)) > 1


def test_a_rate_is_over_different_inputs(course, monkeypatch):
    player, seen = proposer(course, monkeypatch), []
    item = player.item(accepted(course))

    def three_right(loaded, asked, new_tokens, sampling, seeds):
        seen.extend(asked)
        assert sampling.temperature == 1.0 and len({*seeds}) == len(asked)
        return [course.world.run(item.program, a.input, a.language) if i < 3 else "?" for i, a in enumerate(asked)]

    monkeypatch.setattr(players, "directly", three_right)
    assert player.rates([item]) == [3 / 8]
    assert len({a.input for a in seen}) == len(seen) == 8 and {a.instruction for a in seen} == {item.instruction}
    few = player.practised(item, 3)
    monkeypatch.setattr(player, "practised", lambda item, count: few)
    assert player.rates([item]) == [3 / 8], "of three inputs, each is tried again, with other random numbers"
    assert [a.input for a in seen[8:]] == [each.input for each in (few * 3)[:8]]


def test_a_proposal_is_practised_with_different_inputs_its_own_first(course, monkeypatch):
    player = proposer(course, monkeypatch)
    for record in [r for r in shared_seeds() if r.instances[0].input][::25]:
        item = player.item(record.instruction)
        practised = player.practised(item, 16)
        assert practised[0] == item and 1 < len({each.input for each in practised}) == len(practised) <= 16
        for each in practised:
            assert (each.instruction, each.program) == (item.instruction, item.program)
            assert course.world.holds(each.program, each.given, each.output, each.language) and each.given == each.input
    assert practised == player.practised(item, 16)


def test_the_harvest_is_what_is_solved_sometimes(course, monkeypatch):
    player = proposer(course, monkeypatch, wrong=0.5, garbage=0.3)
    player.config = replace(player.config, proposals=60)
    pool = Pool(list(shared_seeds()))
    found = player.harvest(pool, 1)
    assert len(found) > 10 and len({item for item, _ in found}) == len(found)
    for item, rate in found:
        assert 0 < rate < 1 and course.splits.touches(item.program, item.language) == ""
        assert player.rates([item]) == [rate]
    assert player.harvest(pool, 1) == found != player.harvest(pool, 2)


def test_the_harvest_leaves_out_always_and_never_and_most_of_what_means_the_same(course, monkeypatch):
    player = proposer(course, monkeypatch)
    player.config = replace(player.config, proposals=100, alike=100)
    pool = Pool(list(shared_seeds()))

    def rate(item) -> float:
        return (0.0, 0.5, 1.0)[len(item.instruction) % 3]

    monkeypatch.setattr(player, "rates", lambda items: [rate(item) for item in items])
    most = player.harvest(pool, 1)
    assert most and all(rate == 0.5 for _, rate in most)
    meanings = Counter(course.behaviour.fingerprint(item.program) for item, _ in most)
    assert max(meanings.values()) > 2
    player.config = replace(player.config, alike=2)
    few = player.harvest(pool, 1)
    assert set(few) <= set(most)
    assert Counter(course.behaviour.fingerprint(item.program) for item, _ in few) == {
        meaning: min(count, 2) for meaning, count in meanings.items()
    }


# The game ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory, small_tokenizer):
    return untaught(tmp_path_factory.mktemp("base") / "run", small_tokenizer)


@pytest.fixture(autouse=True)
def few_lessons(monkeypatch):
    monkeypatch.setattr("train.reinforce.LESSONS", 50)


def test_a_proposer_without_ideas_is_one_sentence(base, tmp_path):
    with pytest.raises(UserError, match="of 40 proposals 0 are solved sometimes"):
        play(tiny(tmp_path / "run", base), Ranks())
    assert newest_intact(tmp_path / "run" / "round1" / "proposer"), "what it learnt is kept"


def test_a_game_goes_on_where_it_stopped(base, tmp_path, course, monkeypatch):
    """The model knows nothing, so its harvest is put in its place: seeds, solved half of the time."""

    def harvest(self, pool, number):
        items = [item for r in shared_seeds()[::9] if (item := self.item(r.instruction))]
        return [(item, 0.5) for item in items[:5]]

    monkeypatch.setattr(Proposer, "harvest", harvest)
    config = tiny(tmp_path / "run", base, "lora.rank=2")
    play(config, Ranks())
    round1 = tmp_path / "run" / "round1"
    rows = [row for _, row in read_rows(round1 / players.QUESTIONS)]
    assert {row["rate"] for row in rows} == {0.5}
    asked = [lessons.split_request(row["messages"][0]["content"]) for row in rows]
    assert len({*asked}) == len(asked) == 15 and len({instruction for instruction, _ in asked}) == 5
    for (instruction, given), row in zip(asked, rows):
        assert course.verifier.judge(instruction, given, row["messages"][1]["content"]).right
    before, files = newest_intact(round1 / "proposer")
    assert ADAPTERS in files
    monkeypatch.setattr(players, "policy_trainer", lambda *a, **k: pytest.fail("what is finished is not repeated"))
    play(config, Ranks())
    assert newest_intact(round1 / "proposer")[0] == before


@pytest.mark.parametrize(
    "wrong",
    [
        *("rounds=0", "tries=1", "inputs=0", "alike=0", "methods=[]", "methods=['sing']", "methods=['magpie']"),
        *("loss.method=ppo", "loss.method=dapo", "train.parallel=fsdp"),
    ],
)
def test_wrong_settings_are_refused(wrong, base, tmp_path):
    with pytest.raises(ConfigError, match=wrong.split("=")[0].split(".")[-1]):
        tiny(tmp_path, base, wrong)


def test_a_wrong_start_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        play(tiny(tmp_path / "run", tmp_path / "nothing"), Ranks())
    assert not (tmp_path / "run").exists()
