"""The benchmark of attention: what it refuses to rank, how it reads disturbance, what it writes; never speed."""

import json
import os

import pytest
import torch

from configs import UserError
from kernels import Full, attention, bench
from kernels import table as table_module
from kernels.bench_report import rules_from
from kernels.cases import document_borders, parse_mask, sdpa_chunked, sdpa_documents
from kernels.masks import __main__ as draw

CELL = bench.Cell("causal", "float32", "fwd", B=1, H=2, K=1, T=16, S=16, D=8)


def test_writes_table_json_and_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    command = "--masks causal,document:2 --tokens 16,24 --heads 2 --kv-heads 1 --dtypes float32 --repeats 1"
    command += f" --impls auto,sdpa,blocked,sdpa-documents --json {tmp_path}/out.json --plot {tmp_path}/out.png"
    bench.main(command.split())
    stored = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (tmp_path / "out.png").stat().st_size > 10_000
    assert stored["machine"]["gemm_gflops"]["float32"] > 0
    names = (
        "impl mask dtype pass B H K T S D ms ratio_to_sdpa gflops peak_share extra_bytes error_ratio compile_seconds"
    )
    for row in stored["rows"]:
        assert {*names.split(), "status"} <= set(row), row
        assert row["ms"] > 0 and row["error_ratio"] <= 2 and row["status"] in ("ok", "disturbed")
        assert row["ratio_to_sdpa"] == 1 or row["impl"] != "sdpa"
    assert len(stored["rows"]) == 2 * 2 * (3 + 4)  # passes x lengths x (causal without, documents with the loop)
    assert "sdpa-documents" in capsys.readouterr().out


def test_what_is_wrong_is_shown_and_never_ranked(monkeypatch):
    monkeypatch.setitem(bench.IMPLEMENTATIONS, "blocked", lambda q, k, v, mask, **_: 1.1 * attention(q, k, v))
    rows = {row["impl"]: row for row in bench.measure(CELL, ["sdpa", "blocked"], "cpu", 1, 1e9)}
    assert rows["blocked"]["status"] == "wrong" and rows["blocked"]["ratio_to_sdpa"] is None
    assert rows["sdpa"]["ratio_to_sdpa"] == 1.0


def test_what_fails_is_shown_and_the_others_go_on(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such instruction\nsecond line")

    monkeypatch.setitem(bench.IMPLEMENTATIONS, "blocked", broken)
    rows = {row["impl"]: row for row in bench.measure(CELL, ["sdpa", "blocked"], "cpu", 1, 1e9)}
    assert rows["blocked"]["status"] == "failed: RuntimeError: no such instruction" and "ms" in rows["sdpa"]


def test_falling_back_to_eager_fails_the_run():
    compiled = torch.compile(lambda x: x + 1, dynamic=False)
    torch.compiler.reset()
    with (
        torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=1),
        pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit),
    ):
        for n in (2, 3):
            compiled(torch.ones(n))


def test_foreign_share():
    cores = os.cpu_count()
    assert bench.foreign_share((0.0, 0.0), (1.0, 1.0), 1.0) == 0  # all of it was ours
    assert bench.foreign_share((0.0, 0.0), (1.0, 0.0), 1.0) == pytest.approx(1 / cores, rel=0.05)


def test_disturbed_samples_are_not_used(monkeypatch):
    runner = bench.Runner("sdpa", CELL, "cpu")
    runner.row["error_ratio"], runner.calls = 0.0, 1
    shares = iter([0.5, 0.0, 0.0, 0.9])
    monkeypatch.setattr(bench, "foreign_share", lambda *_: next(shares))
    monkeypatch.setattr(bench.Runner, "seconds", lambda self, calls: 1.0 if len(self.samples) < 2 else 9.0)
    bench.take_samples([runner], 2)
    assert runner.samples == [1.0, 1.0] and len(runner.disturbed) == 1
    assert runner.finish(2, 100.0, 1e9)["status"] == "ok" and runner.row["ms"] == 1000.0
    assert runner.finish(3, 100.0, 1e9)["status"] == "disturbed"


def test_peak_memory_counts_what_is_held_at_once():
    def call():
        for _ in range(5):
            torch.empty(1_000_000)  # freed before the next one

    assert 4_000_000 <= bench.peak_bytes(call, "cpu") < 8_100_000


def test_baselines_are_right():
    q, k, v = (torch.randn(2, h, 24, 8, generator=torch.Generator().manual_seed(h)) for h in (4, 2, 2))
    mask = parse_mask("window:8", 2, 24, 24)
    torch.testing.assert_close(sdpa_chunked(q, k, v, mask), attention(q, k, v, mask, impl="reference"))
    mask = parse_mask("document:3", 2, 24, 24)
    ours = sdpa_documents(document_borders(mask))(q, k, v, mask)
    torch.testing.assert_close(ours, attention(q, k, v, mask, impl="reference"))


def test_calibration_keeps_the_fastest_of_each_length(tmp_path, monkeypatch):
    make = lambda impl, T, ms, status="ok", mask="causal": {
        "impl": impl, "mask": mask, "dtype": "bfloat16", "pass": "fwd", "T": T, "S": T, "ms": ms, "status": status,
    }  # fmt: skip
    rows = [make("sdpa", 256, 3.0), make("reference", 256, 1.0), make("blocked", 256, 0.1, "wrong")]
    rows += [make("sdpa", 1024, 3.0), make("blocked", 1024, 2.0)]
    rows += [make("sdpa", 1024, 1.0, mask="window:8"), make("sdpa", 1024, 9.0, mask="prefix:8")]
    rows += [make("blocked", 1024, 2.0, mask="window:8"), make("blocked", 1024, 2.0, mask="prefix:8")]
    rows += [make("segments", 1024, 1.0, mask="document:8")]
    rules = rules_from(rows, "cpu")
    assert rules["cpu/bfloat16/plain/forward"] == ((1024, "reference"), (None, "blocked"))
    assert rules["cpu/bfloat16/masked/forward"] == ((None, "blocked"),)
    assert rules["cpu/bfloat16/documents/forward"] == ((None, "segments"),)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table_module.write_calibration(rules)
    assert table_module.rules("cpu/bfloat16/plain/forward") == ((1024, "reference"), (None, "blocked"))
    table_module._calibrated.cache_clear()


@pytest.mark.parametrize(
    ("command", "words"),
    [("--masks diagonal", "unknown mask"), ("--heads 3 --kv-heads 2", "multiple"), ("--repeats 0", "1 or more")],
)
def test_wrong_input_is_one_sentence(command, words):
    with pytest.raises(UserError, match=words):
        bench.main(command.split())


def test_drawing(capsys):
    draw.main(["causal,window:2", "--tokens", "4", "--width", "4", "--block", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:6] == ["██······", "████····", "██████··", "··██████"]
    assert lines[-2:] == ["▒▒··", "▒▒▒▒"] and "1 empty" in lines[7]
    assert torch.equal(draw.shares(Full().dense(1, 6, 9)[0, 0], 3, 3), torch.ones(3, 3, dtype=torch.float64))
    with pytest.raises(UserError, match="unknown mask"):
        draw.main(["circle"])
