from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

import prune_tool.pipeline.bench
from prune_tool.deploy.bench import Conditions
from tests.cli.conftest import QUICK
from tests.support import Answer, ask


def test_analyze_prints_one_json_object_and_nothing_else(analysis: Answer, analyzed: Path) -> None:
    assert (analysis.status, analysis.err) == (0, "")
    printed = json.loads(analysis.out)
    assert printed["run"]["path"] == str(analyzed)
    assert printed["record"] == json.loads((analyzed / "run.json").read_text())
    assert printed["candidates"] == json.loads((analyzed / "frontier.json").read_text())


def test_export_prints_what_it_wrote_and_progress_elsewhere(export_answer: Answer, exported: Path) -> None:
    printed = json.loads(export_answer.out)
    assert printed == json.loads((exported / "certificate.json").read_text())
    assert printed["certificate"]["state"] == "certified"
    assert "testing the full backbone" in export_answer.err


def test_bench(exported: Path) -> None:
    answer = ask(
        "bench", exported, "--batch", "1,3", "--seconds", "0.1", "--starts", "0", "--threads", "1", "--json", "-q"
    )
    assert (answer.status, answer.err) == (0, "")
    timings = json.loads(answer.out)["timings"]
    assert [(timing["contender"], timing["batch_size"]) for timing in timings] == [
        ("full", 1),
        ("kept", 1),
        ("full", 3),
        ("kept", 3),
    ]


def test_tables_go_to_stdout_and_progress_to_stderr(exported: Path) -> None:
    answer = ask("bench", exported, "--batch", "1", "--seconds", "0.1", "--starts", "0")
    assert "speed-up" in answer.out
    assert "timing" not in answer.out
    assert answer.err.startswith("timing the files: ")


def test_a_file_that_is_not_certified_is_there_and_status_1(analyzed: Path, tmp_path: Path) -> None:
    """54 test images cannot show with a confidence of 99.99 % that nothing is lost."""
    run = tmp_path / "run"
    shutil.copytree(analyzed, run)
    answer = ask("export", run, "--budget", "0", "--confidence", "0.9999", "--json", "-q")
    assert (answer.status, answer.err) == (1, "")
    printed = json.loads(answer.out)
    assert printed["certificate"]["state"] != "certified"
    assert (run / "model.onnx").is_file()
    assert ask("bench", run, "--batch", "1", "--seconds", "0.1", "--starts", "0", "-q").status == 0


def test_compress_does_all_four(convnet: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_bench = partial(prune_tool.pipeline.bench.bench, conditions=Conditions(seconds=0.1))
    monkeypatch.setattr("prune_tool.pipeline.bench.bench", quick_bench)
    place = ("--runs", tmp_path / "runs", "--name", "mine")
    answer = ask("compress", convnet, images, *QUICK, *place, "--budget", "0.2", "--json", "-q")
    assert (answer.status, answer.err) == (0, "")
    printed = json.loads(answer.out)
    written = tmp_path / "runs" / "mine"
    assert printed["export"] == json.loads((written / "certificate.json").read_text())
    assert printed["bench"] == json.loads((written / "bench.json").read_text())
    assert printed["report"] == {"path": str(written / "report.html"), "missing": [], "plots": []}
    assert "Certified" in (written / "report.html").read_text(encoding="utf-8")
    assert not list(written.glob(".*")), "nothing half-written"


def test_compress_at_several_budgets_writes_a_run_for_each(
    convnet: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_bench = partial(prune_tool.pipeline.bench.bench, conditions=Conditions(seconds=0.1))
    monkeypatch.setattr("prune_tool.pipeline.bench.bench", quick_bench)
    place = ("--runs", tmp_path / "runs", "--name", "mine")
    answer = ask("compress", convnet, images, *QUICK, *place, "--budget", "0.2,30pp", "--json", "-q")
    assert (answer.status, answer.err) == (0, "")
    printed = json.loads(answer.out)["budgets"]
    assert [*printed] == ["0.2", "30pp"]
    for name, part in printed.items():
        written = tmp_path / "runs" / "mine" / name
        assert part["export"] == json.loads((written / "certificate.json").read_text())
        assert part["bench"] == json.loads((written / "bench.json").read_text())
        assert part["report"] == {"path": str(written / "report.html"), "missing": [], "plots": []}
        assert ask("show", written).status == 0
    run = tmp_path / "runs" / "mine"
    refused = ask("show", run)
    assert refused.status == 2
    assert f"Name one of {run / '0.2'}, {run / '30pp'}" in refused.err


def test_report_of_the_newest_run(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "runs" / "mine")
    run = tmp_path / "runs" / "mine"
    (run / "bench.json").unlink(missing_ok=True)
    answer = ask("report", "--runs", tmp_path / "runs", "--plots", "--json", "-q")
    assert (answer.status, answer.err) == (0, "")
    printed = json.loads(answer.out)
    assert printed["path"] == str(run / "report.html")
    assert printed["missing"] == [f"Latency of this file: prune-tool bench {run}"]
    assert {*printed["plots"]} == {str(path) for path in (run / "plots").iterdir()}
    shown = ask("report", run)
    assert "writing the report" in shown.err
    assert f"Report written to {run / 'report.html'}".replace(" ", "") in "".join(shown.out.split())
    assert ask("report", tmp_path / "none").status == 2


def test_inspect() -> None:
    answer = ask("inspect", "test_vit", "--json")
    assert answer.status == 0
    assert answer.err.startswith("loading the backbone: ")
    printed = json.loads(answer.out)
    assert printed["taps"][-1]["name"] == "head"
    shown = ask("inspect", "test_vit", "-q")
    assert (shown.status, shown.err) == (0, "")
    assert all(f"│ {tap['name']} " in shown.out for tap in printed["taps"])
    assert "Barriers" in shown.out
    assert [group["width"] for group in printed["groups"][:3]] == [32, 64, 192]
    assert "│ blocks.*.mlp.fc2 " in shown.out


def test_env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRUNE_TOOL_CACHE", str(tmp_path / "cache"))
    assert json.loads(ask("env", "--json").out)["cache_bytes"] == 0
    (tmp_path / "cache" / "graphs").mkdir(parents=True)
    (tmp_path / "cache" / "graphs" / "a.onnx").write_bytes(bytes(3_000_000))
    printed = json.loads(ask("env", "--json").out)
    assert printed["cache"] == str(tmp_path / "cache")
    assert printed["cache_bytes"] == 3_000_000
    assert "cpu" in printed["providers"]
    assert printed["versions"].keys() >= {"python", "prune-tool", "torch", "timm", "onnxruntime"}
    shown = ask("env")
    assert (shown.status, shown.err) == (0, "")
    assert "(3.0 MB)" in shown.out


def test_redundancy_by_the_authors_rule_and_comparisons_are_shown_on_demand(
    analyzed: Path, convnet: str, images: Path, tmp_path: Path
) -> None:
    plain, asked = (
        ask("analyze", convnet, images, *QUICK, "--runs", tmp_path, "-q", *more)
        for more in ((), ("--nearest", "--compare"))
    )
    assert "DR near" not in plain.out
    assert "principal directions" not in plain.out
    assert "DR near" in asked.out
    assert "principal directions" in asked.out


def test_a_class_that_loses_too_much_is_status_1_and_named(exported: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(exported, run)
    worst = min(
        json.loads((run / "certificate.json").read_text())["fairness"]["classes"],
        key=lambda c: c["kept"]["n_correct"] / c["kept"]["n_images"] - c["full"]["n_correct"] / c["full"]["n_images"],
    )
    lost = worst["full"]["n_correct"] - worst["kept"]["n_correct"]
    answer = ask("export", run, "--budget", "0.2", "--max-class-drop", "0pp", "-q")
    assert (answer.status == 1) == (lost > 0)
    assert ("lost" in answer.err) == (lost > 0)
    refused = ask("export", run, "--max-class-drop", "much")
    assert refused.status == 2
    assert "10pp" in refused.err
