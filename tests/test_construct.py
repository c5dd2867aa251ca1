"""One round of construction by a scripted model that is wrong now and then: what each arm keeps, and that nothing
vanishes.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from configs import ConfigError, run_main
from data.chat import ChatFormat
from instruct import propose
from instruct.construct import (
    ARMS,
    WAYS,
    ConstructConfig,
    answered_unverified,
    construct,
    give_inputs,
    judge_instructions,
    with_behaviours,
)
from instruct.funnel import funnel
from instruct.propose import Pool, ProposeConfig
from instruct.records import (
    COMBINE,
    Decision,
    Instance,
    Origin,
    Record,
    from_row,
    from_seeds,
    read_records,
    to_row,
    write_records,
)
from instruct.world.program import Program, normalise
from model.load import model_files
from model.storage import checkpoint_folder, write_folder
from tests.oracle import oracle_of, shared_course, shared_seeds
from tests.small import small_model

ROOT = Path(__file__).parent.parent
SAMPLES = 140
OWN_ARMS = ("unverified", "consistency", "verified", "interpreter")
WRITING_ARMS = ("paraphrase", *OWN_ARMS)


def configured(arm: str, **changes) -> ConstructConfig:
    votes = {"votes": 9} if arm == "consistency" else {}
    writing = ProposeConfig(samples=SAMPLES, **votes)
    return ConstructConfig(**({"arm": arm, "most": 40, "inputs": 4, "propose": writing} | changes))


def constructed(arm: str, monkeypatch, pool: Pool | None = None, **changes) -> list[Record]:
    """A round by a model of which a fifth of the answers are wrong and a tenth of the texts are none or have no end."""
    loaded, _ = oracle_of(shared_course(), monkeypatch, wrong=0.2, garbage=0.1, cut=0.1)
    share = changes.pop("share", None)
    more = {} if share is None else {"share": share}
    return construct(
        loaded, pool or Pool(shared_seeds()), shared_course().verifier, configured(arm, **changes), 1, **more
    )


@pytest.fixture(scope="module")
def rounds():
    """The records of a round by arm."""
    with pytest.MonkeyPatch.context() as patch:
        return {arm: constructed(arm, patch) for arm in ARMS}


def kept(records) -> list[Record]:
    return [record for record in records if record.kept]


# All arms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", WRITING_ARMS)
def test_every_sample_has_a_fate_and_none_vanishes(arm, rounds):
    numbers = Counter(record.origin.sampling["number"] for record in rounds[arm])
    assert numbers == dict.fromkeys(range(SAMPLES), 1)
    counts = funnel(rounds[arm], SAMPLES)
    assert counts["undecided"] == 0 and counts["raw"] == SAMPLES and counts["kept"]
    assert {"cut", "format"} <= counts["dropped"].keys()
    for record in rounds[arm]:
        assert from_row(to_row(record)) == record
        assert record.instances or not record.kept, "what is kept can be learnt from"
        assert all(instance.output for instance in record.instances) or not record.kept


def test_the_seeds_alone_get_nothing(rounds):
    assert rounds["seeds"] == []


@pytest.mark.parametrize("arm", WRITING_ARMS)
def test_ranks_that_share_the_work_write_the_same(arm, rounds, monkeypatch):
    def shared(work, items):
        parts = [work(items[0::2]), work(items[1::2])]
        return [parts[i % 2][i // 2] for i in range(len(items))]

    assert constructed(arm, monkeypatch, share=shared) == rounds[arm]


@pytest.mark.parametrize("arm", WRITING_ARMS)
def test_no_more_instructions_pass_than_are_wanted(arm, monkeypatch, rounds):
    records = constructed(arm, monkeypatch, most=7)
    assert len(kept(records)) <= 7 < len(kept(rounds[arm]))
    assert Counter(r.decision.code for r in records)["surplus"] > 5
    first = [record.id for record in kept(rounds[arm])][: len(kept(records))]
    assert [record.id for record in kept(records)] == first, "the first ones"


@pytest.mark.parametrize("arm", OWN_ARMS)
def test_no_list_that_an_exam_may_ask_is_an_input(arm, rounds, monkeypatch):
    """The scripted model writes inputs of training only, so here those with a 10 are said to be for exams."""

    def lists(records: list[Record]) -> set[str]:
        return {instance.input for record in records for instance in record.instances if " " in instance.input}

    assert any("10" in text.split() for text in lists(rounds[arm]))
    pretended = lambda text: "test" if "10" in text.split() else "train"
    monkeypatch.setattr("instruct.construct.pool_of", pretended)
    guarded = lists(kept(constructed(arm, monkeypatch)))
    assert guarded and not any("10" in text.split() for text in guarded)


def test_the_wrong_answers_of_the_model_are_counted(rounds):
    judged = [record for record in rounds["verified"] if "answers" in record.scores]
    answers, *ways = (sum(record.scores[name] for record in judged) for name in ("answers", *WAYS))
    assert sum(ways) == sum(len(record.instances) for record in judged) < answers
    assert min(ways) > 0, "each way finds some that those before it did not"
    for record in judged:
        assert sum(record.scores[way] for way in WAYS) == len(record.instances)
    parts = ways[0]
    combined = [record for record in judged if record.origin.method == COMBINE]
    assert 0 < parts == sum(record.scores[WAYS[0]] for record in combined)


@pytest.mark.parametrize("arm", OWN_ARMS)
def test_inputs_are_different_and_bounded(arm, rounds):
    for record in kept(rounds[arm]):
        assert len({instance.input for instance in record.instances}) == len(record.instances) <= 4
    assert max(len(record.instances) for record in kept(rounds[arm])) == 4


def test_what_was_combined_takes_inputs_of_its_first_part_by_turns_with_its_own(monkeypatch):
    seeds = shared_seeds()
    parts = [record for record in seeds if record.program in ("reverse_list", "first") and len(record.instances) > 4]
    child = Record("Do both.", (), "en", origin=Origin(COMBINE, 1, tuple(part.id for part in parts[:2])))
    alone = replace(child, origin=Origin("magpie"))
    written = ["3 1", "2 2", "5 1"]
    monkeypatch.setattr(propose, "give_inputs", lambda loaded, records, *rest: [written] * len(records))
    monkeypatch.setattr("instruct.construct.pool_of", lambda text: "train")
    known = {record.id: record for record in seeds}
    combined, other = give_inputs(None, [child, alone], configured("verified", inputs=6), "round 1", known)
    texts = [instance.input for instance in combined.instances]
    assert texts[1::2] == written and {*texts[::2]} <= {instance.input for instance in parts[0].instances}
    assert [instance.input for instance in other.instances] == written


# With a program ------------------------------------------------------------------------------------------------------


def new_behaviours(records: list[Record], known: dict[str, set[str]]) -> None:
    """Every kept record is new in its language, and is not held out."""
    course = shared_course()
    for record in kept(records):
        assert record.behaviour and record.behaviour not in known[record.lang]
        known[record.lang].add(record.behaviour)
        assert course.splits.touches(Program.read(record.program), record.lang) == ""
        assert not course.behaviour.trivial(Program.read(record.program))


@pytest.mark.parametrize("arm", ["verified", "interpreter"])
def test_what_a_program_judged_is_right_new_and_not_held_out(arm, rounds):
    known = defaultdict(set)
    for record in shared_seeds():
        known[record.lang].add(record.behaviour)
    new_behaviours(rounds[arm], known)
    source = {"verified": "O1", "interpreter": "O2"}[arm]
    for record in kept(rounds[arm]):
        reading = shared_course().verifier.parser.parse(record.instruction)
        for instance in record.instances:
            assert instance.verified and instance.label_source == source and record.decision.code == "verified"
            given = instance.input if reading.literal is None else reading.literal
            right = shared_course().world.run(reading.program, given, reading.language)
            assert normalise(instance.output) == normalise(right)
    fates = Counter(record.decision.code for record in rounds[arm])
    assert fates["test split"] > 3 and fates["known"] > 3 and fates["verified"] > 10


def test_a_second_round_knows_what_the_first_one_kept(rounds, monkeypatch):
    own = kept(rounds["verified"])
    loaded, _ = oracle_of(shared_course(), monkeypatch)
    again = construct(loaded, Pool(shared_seeds(), own), shared_course().verifier, configured("verified"), 2)
    known = defaultdict(set)
    for record in (*shared_seeds(), *own):
        known[record.lang].add(record.behaviour)
    assert kept(again)
    new_behaviours(again, known)


def test_no_answer_of_the_interpreter_reaches_the_verified_arm(monkeypatch):
    """A model that never answers rightly keeps nothing, whatever the program knows."""
    loaded, _ = oracle_of(shared_course(), monkeypatch, wrong=1.0)
    records = construct(loaded, Pool(shared_seeds()), shared_course().verifier, configured("verified"))
    assert not kept(records) and Counter(record.decision.code for record in records)["wrong"] > 10
    assert not any(record.instances for record in records if record.decision.code == "wrong")


def test_a_plan_helps_where_the_direct_answer_is_wrong(monkeypatch):
    loaded, oracle = oracle_of(shared_course(), monkeypatch)
    execute = oracle.execute

    def weak(text, language, rng):
        """Knows single operations only."""
        program = oracle.read(text.partition("\n")[0]).program
        return execute(text, language, rng) if len(program) == 1 else "who knows"

    oracle.execute = weak
    verified = construct(loaded, Pool(shared_seeds()), shared_course().verifier, configured("verified"))
    assert len(kept(verified)) > 10 and {len(Program.read(r.program)) for r in kept(verified)} >= {2}


def test_the_same_behaviour_is_new_once_in_each_language():
    verifier = shared_course().verifier
    program, grammar = shared_course().splits.open[0], shared_course().grammar
    texts = [grammar.phrase(program, Random(number), "zh" if number % 2 else "en") for number in range(4)]
    raw = [Record(text, origin=Origin("magpie")) for text in texts]
    judged = judge_instructions(raw, Pool(shared_seeds()), verifier)
    assert [record.decision and record.decision.code for record in judged] == [None, None, "known", "known"]
    cut = replace(raw[0], decision=Decision("cut"))
    assert judge_instructions([cut], Pool(shared_seeds()), verifier) == [cut], "what fell stays fallen"


def test_a_new_behaviour_is_kept_in_so_many_wordings_over_all_rounds():
    verifier, grammar = shared_course().verifier, shared_course().grammar
    taught = grammar.phrase(shared_course().splits.seeds[-1], Random(0), "en")
    texts = list(dict.fromkeys(grammar.phrase(shared_course().splits.open[0], Random(n), "en") for n in range(30)))[:5]
    raw = [Record(text, origin=Origin("magpie")) for text in (*texts[:2], texts[0], taught)]
    judged = judge_instructions(raw, Pool(shared_seeds()), verifier, wordings=3)
    assert [r.decision and r.decision.code for r in judged] == [None, None, "duplicate", "known"]
    more = [Record(text, origin=Origin("magpie")) for text in texts[1:]]
    again = judge_instructions(more, Pool(shared_seeds(), judged[:2]), verifier, wordings=3)
    assert [r.decision and r.decision.code for r in again] == ["duplicate", None, "known", "known"]


# Without a program ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["unverified", "consistency"])
def test_without_a_program_wrong_answers_are_kept_too(arm, rounds):
    """Nobody judged, so nothing of a program is written in the records."""
    verdicts = []
    for record in kept(rounds[arm]):
        assert record.decision.code == {"unverified": "unverified", "consistency": "consistent"}[arm]
        assert record.program is None and record.behaviour is None
        for instance in record.instances:
            assert instance.verified is None
            assert instance.label_source == {"unverified": "O3", "consistency": "O4"}[arm]
            verdict = shared_course().verifier.judge(record.instruction, instance.input, instance.output)
            verdicts.append(bool(verdict.right))
    share = sum(verdicts) / len(verdicts)
    assert (0.6 < share < 0.9) if arm == "unverified" else (share > 0.9), "a vote corrects"


def test_held_out_items_are_not_seen_by_arms_without_a_program(rounds):
    judged = [shared_course().verifier.judge(record.instruction) for record in kept(rounds["unverified"])]
    assert any(verdict.decision and verdict.decision.code == "test split" for verdict in judged)


def test_instructions_that_bring_an_input_pass_the_filters(rounds):
    """An input without an answer yet is not an unfinished item."""
    for arm in ("unverified", "consistency"):
        magpie = Counter(record.decision.code for record in rounds[arm] if record.origin.method == "magpie")
        assert magpie["format"] <= 4 < magpie.total() - magpie["cut"] - magpie["format"], arm
        brought = [r for r in kept(rounds[arm]) if r.origin.method == "magpie" and r.instances[0].input]
        assert brought, arm


@pytest.mark.parametrize(
    "agreement, votes, found", [(0.6, 5, 3), (0.7, 10, 7), (0.56, 25, 14), (1.0, 4, 4), (0.1, 2, 1)]
)
def test_consistency_wants_a_share_of_the_votes(agreement, votes, found, rounds, monkeypatch):
    """As many as are wanted are enough, one less is not."""
    record = Record("Sort them.", origin=Origin("magpie"))

    for cast, code in ((found, "consistent"), (found - 1, "inconsistent")):
        answered = replace(record, instances=(Instance("3 1", "1 3", "O4", None, cast),))
        monkeypatch.setattr(propose, "with_answers", lambda loaded, records, config, one=answered: [one])
        config = configured("consistency", agreement=agreement, propose=ProposeConfig(votes=votes))
        [judged] = answered_unverified(None, [record], config)
        assert judged.decision.code == code and bool(judged.instances) == (code == "consistent")


def test_a_paraphrase_has_the_answers_of_its_parent(rounds):
    known = {record.id: record for record in shared_seeds()}
    for record in kept(rounds["paraphrase"]):
        parent = known[record.origin.parents[0]]
        assert record.origin.method == "paraphrase" and record.instruction != parent.instruction
        assert [(i.input, i.output) for i in record.instances] == [(i.input, i.output) for i in parent.instances]
        assert {i.label_source for i in record.instances} == {"O3"}


# Settings and command ------------------------------------------------------------------------------------------------


def test_wrong_settings_are_named_together():
    with pytest.raises(ConfigError) as raised:
        ConstructConfig(arm="guess", most=0, agreement=1.5)
    for part in ("unknown arm 'guess'", "most must be positive", "agreement must be above 0 and at most 1"):
        assert part in str(raised.value)
    with pytest.raises(ConfigError, match=r"needs propose\.votes of at least 2"):
        ConstructConfig(arm="consistency")


def test_behaviours_are_found_where_the_world_can_read():
    records = [Record("What is the capital of France?"), Record("Write a poem about the sea.")]
    known, unknown = with_behaviours(records, shared_course().verifier)
    assert known.program == "capital" and known.behaviour and unknown == records[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = small_model(vocab_size=small_tokenizer.vocab_size, context=200)
    write_folder(checkpoint_folder(folder, 7), model_files(model, small_tokenizer, ChatFormat()))
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("seeds")
    poems = [Record(f"Write a poem about {what}.", (Instance("", f"Oh {what}!", "human"),)) for what in ("sea", "sky")]
    write_records(folder / "world.jsonl", shared_seeds()[:40])
    write_records(folder / "free.jsonl", [replace(poem, decision=Decision("given")) for poem in poems])
    (folder / "empty.jsonl").write_text("", "utf-8")
    (folder / "broken.jsonl").write_text('{"instruction": "Do it.", "output": "Done."}\n{"instr', "utf-8")
    return {path.stem: path for path in folder.iterdir()} | {"missing": folder / "missing.jsonl"}


SMALL = ("propose.samples=14", "propose.new_tokens=24", "propose.answer_tokens=8", "inputs=2")


def test_the_command_writes_every_item_with_its_fate(run, files, tmp_path, capsys):
    for name, arm in (("free", "unverified"), ("world", "verified")):
        out = tmp_path / f"{name}.jsonl"
        propose.main([str(run), str(files[name]), "--out", str(out), f"arm={arm}", *SMALL])
        printed = capsys.readouterr().out
        records = list(read_records(out))
        assert len(records) == 14 and all(record.decision for record in records)
        assert "asked for" in printed and "kept" in printed and "fewer than" not in printed
        seeds = {record.id for record in from_seeds(files[name])}
        assert {parent for record in records for parent in record.origin.parents} <= seeds


def test_documents_of_the_command_are_written_back(run, files, tmp_path):
    (tmp_path / "notes.txt").write_text("The sea is wide.", "utf-8")
    settings = ["arm=unverified", 'propose.methods=["back-translate"]', "--documents", str(tmp_path / "notes.txt")]
    propose.main([str(run), str(files["free"]), "--out", str(tmp_path / "out.jsonl"), *SMALL, *settings])
    origins = [record.origin for record in read_records(tmp_path / "out.jsonl")]
    assert any(not origin.parents for origin in origins) and any(origin.parents for origin in origins)


@pytest.mark.parametrize(
    "seeds, overrides, message",
    [
        ("world", ["RUN=nowhere"], "there is no checkpoint in nowhere"),
        ("missing", [], "missing.jsonl"),
        ("empty", ["arm=unverified"], "empty.jsonl has no rows"),
        ("broken", [], "broken.jsonl:2"),
        ("free", ["arm=verified"], "no program can judge items like those of"),
        ("free", [], "write arm=unverified or arm=consistency"),
        ("world", ["arm=verifed"], "verified"),
        ("world", ["propose.sample=5"], "did you mean 'samples'"),
        ("world", ["propose.methods=['guess']"], "unknown method 'guess'"),
        ("world", ["arm=consistency"], "propose.votes"),
        ("world", ["propose.new_tokens=500"], "does not fit"),
    ],
)
def test_wrong_input_is_one_sentence(seeds, overrides, message, run, files, tmp_path, capsys, monkeypatch):
    folder = next((each[4:] for each in overrides if each.startswith("RUN=")), str(run))
    overrides = [each for each in overrides if not each.startswith("RUN=")]
    out = tmp_path / "out.jsonl"
    argv = ["propose", folder, str(files[seeds]), "--out", str(out), *overrides]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as raised:
        run_main(propose.main)
    said = capsys.readouterr()
    assert raised.value.code == 2 and message in said.err and said.err.startswith("error: ")
    assert len(said.err.strip().splitlines()) == 1 and not out.exists()


def test_the_module_is_a_command(files):
    command = [sys.executable, "-m", "instruct.propose", "nowhere", str(files["world"]), "--out", "none/out.jsonl"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and len(ended.stderr.strip().splitlines()) == 1 and "nowhere" in ended.stderr
