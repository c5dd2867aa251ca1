"""The report on reliability: every trial runs, counts what it did, and sees a promise that is broken.

At tiny counts here; the full report is `python -m train.reliability`. Each reader is given every kind of damage once,
so that a reader that begins to accept or to crash is seen in the default suite.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from configs import UserError
from model.storage import list_checkpoints
from tests.tiny import write_corpus
from train.reliability import damage, endings, forgery, malformed, peers, promises, tokenizers
from train.reliability.__main__ import TRIALS, main
from train.reliability.trials import Laboratory, Outcome, difference, never_left, spawn, wait


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory) -> Laboratory:
    return Laboratory(tmp_path_factory.mktemp("laboratory"))


def kept(outcomes: list[Outcome], tried: int | None = None) -> None:
    for outcome in outcomes:
        assert outcome.kept, (outcome.promise, outcome.failures)
        assert tried is None or outcome.tried == tried
        assert outcome.how and outcome.promise


# The processes -------------------------------------------------------------------------------------------------------


def refuse() -> None:
    raise UserError("no")


@pytest.mark.parametrize(
    ("work", "code"),
    [(lambda: None, 0), (lambda: 3, 3), (refuse, 2), (lambda: 1 // 0, 1), (lambda: os.kill(os.getpid(), 9), -9)],
)
def test_a_forked_process_ends_as_a_command_does(tmp_path, work, code):
    assert wait(spawn(work, tmp_path / "log")) == code


def test_a_process_that_does_not_end_is_killed_and_none_is_left(tmp_path):
    process = spawn(lambda: time.sleep(60), tmp_path / "log")
    assert wait(process, 0.1) is None
    with never_left([process]):
        pass  # it is gone: its number may be another's
    process = spawn(lambda: time.sleep(60), tmp_path / "log")
    with never_left([process]):
        pass
    with pytest.raises(ChildProcessError):
        os.waitpid(process, 0)


def test_a_difference_is_seen(laboratory):
    """Weights, optimizer and every logged figure: one bit or one digit is enough."""
    quiet = ("train.evaluate_every=0", "train.steps=6")
    one, other = laboratory.trial("one", "causal", 1, *quiet), laboratory.trial("other", "causal", 1, *quiet)
    assert one.complete() == other.complete() == [0]
    assert difference(one, other) is None
    metrics = other.run / "metrics.jsonl"
    before = metrics.read_text("utf-8")
    metrics.write_text(before.replace('"loss": ', '"loss": 1', 1), "utf-8")
    assert "metrics.jsonl differs" in difference(one, other)
    metrics.write_text(before, "utf-8")
    newest = list_checkpoints(other.run)[-1]
    for name in ("optimizer.safetensors", "model.safetensors"):
        damage.flip_bit(newest / name, random.Random(0))
        forgery.reseal(newest)
        assert difference(one, other) == f"{name} differs"


# The promises --------------------------------------------------------------------------------------------------------


def test_killed_runs_end_with_the_same_bits(laboratory):
    """nanoGPT#467, litgpt#1712, Megatron-Bridge#5257: what is called a resume begins with other data or random
    numbers.
    """
    kept(promises.kills(laboratory, 2), 2)


def test_a_watcher_finds_a_checkpoint_at_every_moment(laboratory):
    saved, complete, steady = promises.saves(laboratory, 40)
    kept([saved, complete])
    assert saved.tried == 40 and complete.tried > 40 and steady.tried == 1


def test_gradients_do_not_depend_on_the_split(laboratory):
    """On ranks too: accumulation synchronised too late (build-nanogpt#30), gradients clipped before the reduction or
    by the norm of one rank (twinkle#290, OLMo#601), ragged rows (torchtune#2980, nanochat#59, torchtitan#1842).
    """
    kept(promises.splits(laboratory, 2), 8)


def test_bad_steps_are_refused_on_both_ranks(laboratory):
    """nan_grad on rank 1 alone, and the samples of rank 1 are named too."""
    kept(promises.poisoned(laboratory, 4), 4)


def test_a_full_disk_costs_a_checkpoint(laboratory):
    kept(endings.full_disks(laboratory, 1), 1)


def test_signals_to_one_rank_end_all_after_the_same_step(laboratory):
    """A rank that left the loop by itself left the others waiting for it."""
    trial = laboratory.trial("asked", "causal", 2, "train.save_every=0", "train.steps=400", "train.evaluate_every=0")
    for _ in range(2):
        codes, _ = endings.stop_with(trial, signal.SIGTERM, trial.steps_logged() + 5, everyone=False)
        assert codes == [0, 0]
    assert trial.state().step < 400


def test_corrupted_checkpoints_are_passed_over(laboratory):
    """pytorch-lightning#21431, returnn#1829: a run that could not be continued for one bad file."""
    kept(malformed.corrupted(laboratory, len(forgery.DAMAGES)), len(forgery.DAMAGES))


def test_pickles_are_never_executed(laboratory):
    """litgpt#2189, nanoGPT#540: every file of every reader."""
    kept(malformed.pickles(laboratory, 12), 12)


@pytest.mark.parametrize("number", range(5))
def test_every_kind_of_damage_is_refused_in_one_sentence(laboratory, tmp_path, number):
    reader = malformed.readers(laboratory)[number]
    kept([malformed.try_reader(reader, tmp_path, len(reader.damages), 1)], len(reader.damages))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["elastic", "signals", "hangs", "restarts"])
def test_the_slower_trials(laboratory, name):
    kept(TRIALS[name][0](laboratory, 3))


@pytest.mark.slow
def test_a_hundred_and_fifty_malformed_inputs_to_every_reader(laboratory):
    kept(malformed.malformed(laboratory, 150), 150)


# The trials see what is broken ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "seen"),
    [
        (lambda: None, "accepted"),
        (lambda: 1 // 0, "a traceback: ZeroDivisionError"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "the process ended with -9"),
        (lambda: print("error: a\nerror: b", file=sys.stderr) or sys.exit(2), "not one sentence but 2 lines"),
        (lambda: sys.exit(3), "exit code 3"),
    ],
)
def test_a_reader_that_breaks_its_promise_is_counted(laboratory, tmp_path, harm, seen):
    good = malformed.readers(laboratory)[0]

    def read(folder: Path) -> None:
        if folder.name != "good":
            harm()

    reader = malformed.Reader("broken", "", good.make, read, good.damages[:3])
    outcome = malformed.try_reader(reader, tmp_path, 3, 0)
    assert (outcome.tried, outcome.held) == (3, 0)
    assert all(seen in failure for failure in outcome.failures)


def test_a_reader_that_hangs_is_counted(laboratory, tmp_path, monkeypatch):
    monkeypatch.setattr(malformed, "SECONDS", 1)
    good = malformed.readers(laboratory)[0]
    read = lambda folder: folder.name == "good" or time.sleep(30)
    outcome = malformed.try_reader(malformed.Reader("broken", "", good.make, read, good.damages), tmp_path, 1, 0)
    assert outcome.failures == [f"{outcome.failures[0].partition(':')[0]}: the process ended with -14"]


def test_damages_change_the_file_and_depend_on_their_numbers_only(laboratory, tmp_path):
    """Of every reader: a damage that left the file as it was would be counted as a promise that is broken."""
    for reader in malformed.readers(laboratory):
        for number, chosen in enumerate(reader.damages):
            results = []
            for attempt in range(2):
                folder = tmp_path / reader.name.split(" ")[0] / f"{number}-{attempt}"
                reader.make(folder)
                before = content(folder)
                chosen(folder, random.Random(number))
                results.append(content(folder))
                assert results[-1] != before, chosen.__name__
            if "gzip" not in chosen.__name__:  # whose header has the time
                assert results[0] == results[1], chosen.__name__


def content(folder: Path) -> dict[str, bytes | None]:
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


def test_a_model_file_taken_apart_and_put_together_is_the_same(laboratory):
    raw = next((laboratory.folder / "start" / "data").rglob("tokenizer.model")).read_bytes()
    fields = tokenizers.fields_of(raw)
    assert tokenizers.of_fields(fields) == raw and [field for field, _ in fields[:14]] == [1] * 14


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_report(tmp_path, capsys):
    write_corpus(tmp_path / "corpus")  # what lies in the folder stays
    assert main(["--out", str(tmp_path), "--only", "pickles", "--divide", "40"]) == 0
    report = json.loads((tmp_path / "reliability.json").read_text("utf-8"))
    assert report["command"] == "python -m train.reliability --divide 40 --only pickles --seed 0 --out results/"
    assert [(row["tried"], row["held"]) for row in report["promises"]] == [(3, 3)]
    assert all(row["promise"] and row["how"] for row in report["promises"])
    page = (tmp_path / "reliability.md").read_text("utf-8")
    assert "| 3 | 3 | not run |" in page and str(tmp_path) not in page
    assert "1 of 1 promises held" in capsys.readouterr().out


def test_what_did_not_hold_is_in_the_report(tmp_path, monkeypatch):
    def broken(laboratory: Laboratory, count: int) -> list[Outcome]:
        outcome = Outcome("never", "by hand", "kills")
        outcome.count(None, 4)
        outcome.count(f"it broke in {laboratory.folder}/x")
        return [outcome]

    monkeypatch.setitem(TRIALS, "kills", (broken, 50))
    peer = {
        "peer": "P",
        "versions": "1",
        "command": "c",
        "how": "h",
        "seen": {"kills": {"tried": 9, "held": 2, "what": "w"}},
    }
    (tmp_path / "reliability-peers.json").write_text(json.dumps(peer), "utf-8")
    assert main(["--out", str(tmp_path), "--only", "kills"]) == 1
    page = (tmp_path / "reliability.md").read_text("utf-8")
    assert "| never | 5 | 4 | 2 of 9: w |" in page and "- never: it broke in .../x" in page
    assert "0 of 1 promises held in every trial" in page


@pytest.mark.parametrize("arguments", [["--divide", "0"], ["--only", "kills,walks"]])
def test_wrong_arguments_are_one_sentence(tmp_path, arguments):
    with pytest.raises(UserError, match=r"--divide must|--only knows"):
        main(["--out", str(tmp_path), *arguments])


def test_without_the_peer_it_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"need transformers and accelerate: pip install 'zhiling\[peers\]'"):
        peers.main(["--out", str(tmp_path)])
