"""Curves: every value is drawn where it belongs, the axes say what is there, and what is missing is said."""

from __future__ import annotations

import json
import math
import runpy
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import UserError
from train.watch import (
    HEIGHT,
    MARKS,
    Curve,
    axis_labels,
    column_means,
    curves,
    draw,
    follow,
    main,
    read_run,
    row_of,
    running_means,
    table,
)


def train(step: int, loss: float, **more) -> dict:
    return {"kind": "train", "step": step, "loss": loss, "gradient_norm": 1.0, "tokens_per_second": 1000.0, **more}


def write_run(folder: Path, records: list[dict]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return str(folder)


def exit_status(monkeypatch, module: str, *arguments: str) -> int:
    """The exit status of `python -m MODULE ARGUMENTS`, in this process."""
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    return ended.value.code


@pytest.fixture
def run(tmp_path) -> str:
    """30 steps of a falling loss, an evaluation every tenth, one skipped step."""
    records: list[dict] = [train(step, 6 - step / 10) for step in range(1, 31)]
    records[10:10] = [{"kind": "evaluation", "step": 10, "loss": 5.5, "bits_per_byte": 2.5}]
    records += [{"kind": "evaluation", "step": step, "loss": 6 - step / 20} for step in (20, 30)]
    records.insert(7, {"kind": "skipped", "step": 7, "samples": [1, 2]})
    return write_run(tmp_path / "run", records)


def plot_area(text: str) -> list[str]:
    """The lines between the axes."""
    return [line.split("|", 1)[1] for line in text.splitlines() if "|" in line]


# What is drawn -------------------------------------------------------------------------------------------------------


def test_a_falling_line_falls_and_ends_where_the_axes_say(capsys, monkeypatch, run):
    monkeypatch.setenv("COLUMNS", "80")
    main([run])
    text = capsys.readouterr().out
    area = plot_area(text)
    assert len(area) == HEIGHT and max(map(len, text.splitlines()[:20])) <= 80
    stars = [row for column in range(66) for row, line in enumerate(area) if line[column : column + 1] == "*"]
    assert len(stars) >= 27 and stars == sorted(stars) and (stars[0], stars[-1]) == (0, HEIGHT - 1), text
    assert text.splitlines()[1].split("|")[0].strip() == "5.9"
    assert text.splitlines()[HEIGHT].split("|")[0].strip() == "3"
    assert "1" + "step 30".rjust(65) in text
    assert f"* {run}\n" in text and f"o {run}, held out" in text and sum(line.count("o") for line in area) == 3


def test_each_mark_is_the_mean_of_its_column_and_it_is_said():
    points = [(step, float(step % 2)) for step in range(400)]
    text = draw([Curve("a", points, 0)], "loss", 34)
    assert "each mark is the mean of the 1 to 21 values in its column" in text
    means = column_means(points, 0, 399, 20)
    assert sum(count for _, count in means.values()) == 400
    assert all(abs(mean - 0.5) < 0.06 for mean, _ in means.values())


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(-1e6, 1e6)), min_size=1, max_size=60), st.integers(20, 200))
def test_whatever_the_values_the_picture_holds_them(points, width):
    """No value falls outside, the picture keeps its size, and every column that has a value has one mark."""
    points = sorted(points)
    text = draw([Curve("a", points, 0)], "x", width)
    area = plot_area(text)
    assert len(area) == HEIGHT
    columns = max(16, width - 14)
    assert all(len(line) <= columns for line in area)
    means = column_means(points, points[0][0], points[-1][0], columns)
    assert sum(line.count("*") for line in area) == len(means)
    assert math.isclose(sum(c * m for m, c in means.values()), sum(v for _, v in points), abs_tol=1e-3, rel_tol=1e-9)


def test_axis_labels_tell_their_values_apart():
    assert axis_labels(1.0, 3.0, 17) == {0: "3", 8: "2", 16: "1"}
    assert axis_labels(1.0001, 1.0003, 17) == {0: "1.0003", 8: "1.0002", 16: "1.0001"}
    assert axis_labels(1.0, 1.0 + 2e-9, 17) == {0: "+ 2e-09", 16: "1"}
    assert axis_labels(5.0, 5.0, 17) == {8: "5"}
    assert [row_of(value, 1.0, 3.0, 17) for value in (3.0, 2.0, 1.0)] == [0, 8, 16]
    assert row_of(5.0, 5.0, 5.0, 17) == 8  # where its label stands


def test_values_that_are_not_finite_are_counted_not_drawn(tmp_path):
    run = write_run(tmp_path / "r", [train(1, 2.0), train(2, math.nan), train(3, math.inf), train(4, 1.0)])
    [curve] = curves({run: read_run(run)}, "loss")
    assert curve == Curve(run, [(1, 2.0), (4, 1.0)], 2)
    assert "2 values are not finite" in draw([curve], "loss", 60)


def test_several_runs_have_a_mark_each(tmp_path, capsys):
    runs = [write_run(tmp_path / name, [train(1, 3.0), train(9, level)]) for name, level in (("a", 2.0), ("b", 1.0))]
    main(runs)
    text = capsys.readouterr().out
    assert f"* {runs[0]}\n" in text and f"o {runs[1]}\n" in text
    assert sum(line.count("o") for line in plot_area(text)) == 2
    assert sum(line.count("*") for line in plot_area(text)) == 1  # at step 1 both stand at 3.0: the later is seen


def test_the_table_has_the_last_figures(run):
    header, line = table({"name": read_run(run)}).splitlines()
    assert header.split() == ["run", "step", "loss", "held", "out", "tokens/s", "skipped"]
    assert line.split() == ["name", "30", "3.0000", "4.5000", "1,000", "1"]
    assert table({"x": [{"kind": "evaluation", "step": 2, "loss": 1.0}]}).splitlines()[1].split() == [
        *("x", "2", "-", "1.0000", "-", "0")
    ]


# Following -----------------------------------------------------------------------------------------------------------


def test_following_prints_what_is_new_and_ends_with_ctrl_c(tmp_path, capsys):
    views = iter(["one", "one", UserError("no steps yet"), "two"])

    def look() -> str:
        view = next(views)
        if isinstance(view, UserError):
            raise view
        return view

    looks = 0

    def wait(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 4:
            raise KeyboardInterrupt

    follow(look, wait)
    assert capsys.readouterr().out == "one\nwaiting: no steps yet\ntwo\n"


# As a picture --------------------------------------------------------------------------------------------------------


def test_a_picture_is_written(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run = write_run(tmp_path / "r", [train(step, 5 / step) for step in range(1, 500)])
    for name in ("a.png", "a.SVG"):
        main([run, "--plot", str(tmp_path / name)])
        assert (tmp_path / name).stat().st_size > 5000
    assert "mean of 4 values" in (tmp_path / "a.SVG").read_text("utf-8") or "wrote" in capsys.readouterr().out


def test_running_means():
    assert running_means([(1, 1.0), (2, 2.0), (3, 6.0)], 2) == ([2, 3], [1.5, 4.0])
    assert running_means([(1, 1.0)], 1) == ([1], [1.0])


def test_without_matplotlib_the_extra_is_named(run, tmp_path, monkeypatch):
    monkeypatch.setattr("train.plots.can_plot", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'zhiling\[plot\]'"):
        main([run, "--plot", str(tmp_path / "a.png")])


# Wrong input ---------------------------------------------------------------------------------------------------------


def test_a_missing_figure_names_those_that_exist(run):
    with pytest.raises(UserError) as caught:
        main([run, "--metric", "perplexity"])
    assert str(caught.value) == (
        "no figure is called 'perplexity'; there are bits_per_byte, gradient_norm, loss, tokens_per_second"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "there is no run .*nowhere"),
        (["empty"], "there is no .*metrics.jsonl"),
        (["blank"], "has no figures"),
        (["binary"], "is not UTF-8"),
        (["odd"], "has no figures"),
        (["nan"], "no value of loss is finite"),
        (["good", "--plot", "x.gif"], "ends in .png or .pdf or .svg"),
        (["good", "--plot", "x.png", "--follow"], "leave out --follow or --plot"),
        ([*["good"] * 1, *(f"good/../good{'/.' * n}" for n in range(len(MARKS)))], "at most .* can be told apart"),
    ],
)
def test_wrong_input_is_one_sentence(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "good", [train(1, 1.0)])
    write_run(tmp_path / "nan", [train(1, math.nan)])
    write_run(tmp_path / "blank", [])
    write_run(tmp_path / "odd", [5, [1], {"kind": "train"}, {"step": 3}, {"kind": "train", "step": "one", "loss": 2}])
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=sentence) as caught:
        main(arguments)
    assert "\n" not in str(caught.value)


def test_the_command_exits_with_2_and_without_traceback(tmp_path, monkeypatch, capsys):
    assert exit_status(monkeypatch, "train.watch", str(tmp_path / "nowhere")) == 2
    assert capsys.readouterr().err == f"error: there is no run {tmp_path}/nowhere; give the folder of a run\n"
