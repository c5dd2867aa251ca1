"""The figures of the proof, by hand."""

from __future__ import annotations

import json

import pytest

from configs import UserError
from instruct.exam import KINDS
from train import proof
from train.proof import audited_file, gain, main
from train.proof_report import markdown
from train.rounds import RoundsConfig


def marks(value: float) -> dict:
    return {kind: {"asked": 10, "direct": value, "plan": value / 2} for kind in KINDS}


def table(**last: list[float]) -> dict:
    """Arms with a base of 0.1 and these marks after one round, one for each seed."""
    return {
        arm: {"marks": {seed: [marks(0.1), marks(v)] for seed, v in enumerate(values)}, "rounds": {}}
        for arm, values in last.items()
    }


def test_points_share_and_seeds_by_hand():
    found = gain(table(seeds=[0.2, 0.4, 0.3], verified=[0.5, 0.6, 0.2], interpreter=[0.7, 0.5, 0.6]))
    assert found["points"] == pytest.approx(100 * (0.3 + 0.2 - 0.1) / 3)
    assert found["recovered_fraction"] == pytest.approx(0.4 / 0.9)
    assert (found["seeds"], found["seeds_positive"]) == (3, 2)
    low, high = found["interval"]
    assert low == pytest.approx(-10) and low < found["points"] < high == pytest.approx(30)
    assert found["arms"]["verified"]["open"]["plan"] == [[0.05, 0.25], [0.05, 0.3], [0.05, 0.1]]


def test_arms_are_compared_within_the_seeds_that_they_share():
    some = table(seeds=[0.2, 0.4, 0.3], verified=[0.5, 0.6, 0.2], interpreter=[0.7, 0.5, 0.6])
    del some["verified"]["marks"][1], some["interpreter"]["marks"][0]
    found = gain(some)
    assert found["points"] == pytest.approx(100 * (0.3 - 0.1) / 2) and found["seeds"] == 2
    assert found["recovered_fraction"] == pytest.approx(-0.1 / 0.3), "seed 2 is all that the three share"
    assert found["arms"]["interpreter"]["points"]["open"] == pytest.approx(100 * (0.1 + 0.3) / 2)
    assert found["arms"]["interpreter"]["shared_seeds"] == 2
    assert found["arms"]["verified"]["seeds"] == [0, 2] and found["arms"]["interpreter"]["seeds"] == [1, 2]
    del some["verified"]["marks"][0], some["verified"]["marks"][2]
    assert "points" not in gain(some)


def test_without_a_ceiling_or_a_rival_nothing_is_claimed():
    assert gain(table(seeds=[0.2], verified=[0.4]))["recovered_fraction"] is None
    assert "points" not in gain(table(verified=[0.4]))


def test_the_page_says_the_gain():
    found = gain(table(seeds=[0.2, 0.2], verified=[0.5, 0.5], interpreter=[0.6, 0.6]))
    page = markdown({"gain": found, "command": "c", "machine": {}}, pictures=False)
    assert "| interpreter | 2 | +40.0 |" in page
    assert "**+30.0 points**" in page and "2 of 2 seeds" in page and "75% of what the interpreter" in page


def test_public_data_is_audited_and_its_places_are_shown(tmp_path):
    path = tmp_path / "sums.jsonl"
    rows = [{"instruction": "What is 2 + 2?", "output": answer} for answer in ("2 + 2 = 4", "2 + 2 = 5", "2 + 2 = 7")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    found = audited_file(path)
    assert [fault["place"] for fault in found["faults"]] == ["sums.jsonl:2", "sums.jsonl:3"]
    facts = {"gain": gain(table(verified=[0.4])), "command": "c", "machine": {}, "audit": [found]}
    assert f"| {tmp_path.name}/sums.jsonl | 3 | sum | 3 | 2 | 2, 3 |" in markdown(facts, pictures=False)


@pytest.mark.parametrize(
    "arguments", [["--arms", "best"], ["--seeds", "0"], ["--audit", "nowhere"], ["--rouge", "none"]]
)
def test_wrong_input_is_one_sentence(arguments):
    with pytest.raises(UserError):
        main(["configs/construct.toml", *arguments])


def test_evidence_is_measured_once_for_what_is_asked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(proof, "measured", lambda *settings: asked.append(settings[1:]) or {"yield": {"new": 0.5}})
    config = RoundsConfig(run=str(tmp_path))
    for written, weights in ((100, "a"), (100, "a"), (200, "a"), (200, "a"), (200, "b")):
        monkeypatch.setattr(proof, "weights_of", lambda config, weights=weights: [weights])
        assert proof.evidence(config, written, 4, None) == {"yield": {"new": 0.5}}
    assert asked == [(100, 4, None), (200, 4, None), (200, 4, None)]
