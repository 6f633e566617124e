from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from prune_tool.errors import BudgetError
from prune_tool.frontier.choice import within_budget
from prune_tool.pipeline.results import Results
from prune_tool.records import Budget, Candidate, Form, Limit, PreprocessingChange, Request, Score, Target
from prune_tool.report.reproduce import WORDS, analyze_command, commands, tightest_budget
from prune_tool.store.layout import RunFolder
from tests.support import ask

REQUESTS = [
    Request(),
    Request(model="resnet18", data="a folder/with 'quotes'", seed=7),
    Request(
        model="m", data="d", checkpoint="w.safetensors", input_sizes=(), taps=("layer1.0", "layer2"), skip_bad=True
    ),
    Request(
        model="m",
        data="d",
        input_sizes=(160, 96),
        narrow=(0.75, 0.125),
        n_calibration=64,
        allocation="allocated",
        heal=2,
        n_draws=3,
        strategy="pivoted",
        metric="balanced-accuracy",
        compare=True,
        round_to=1,
    ),
    Request(
        model="m",
        data="d",
        cost="size",
        target=Target(batch_size=8, n_threads=2),
        preprocessing=PreprocessingChange(mean=(0.1, 0.25, 0.5), crop_pct=0.9, crop_mode="squash"),
        amp=True,
        workers=3,
    ),
]


class AskedError(Exception):
    """Carries what ``analyze`` was called with."""


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Request, Path, str | None]]]:
    seen: list[tuple[Request, Path, str | None]] = []

    def analyze(workspace: object, *, runs: Path, name: str | None = None) -> None:
        seen.append((workspace.request, runs, name))  # type: ignore[attr-defined]
        raise AskedError

    monkeypatch.setattr("prune_tool.pipeline.analyze.analyze", analyze)
    return seen  # type: ignore[return-value]


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_the_analyze_command_makes_the_same_request(
    request_: Request, caught: list[tuple[Request, Path, str | None]], tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "some runs" / "mine")
    program, *words = shlex.split(analyze_command(request_, run))
    assert program == "prune-tool"
    with pytest.raises(AskedError):
        ask(*words)
    assert caught == [(request_, run.path.parent, run.name)]


def test_every_field_of_a_request_can_be_written() -> None:
    assert {*WORDS} == {field.name for field in fields(Request)}


def test_the_export_command_repeats_limits_and_form(results: Results) -> None:
    assert results.exported is not None
    limits = (
        Limit.parse("latency", "2.5ms"),
        Limit.parse("macs", "1.5G"),
        Limit.parse("params", "300k"),
        Limit.parse("size", "1.5MiB"),
    )
    form = Form(preprocess="graph", precision="int8", probabilities=True)
    built = replace(results.exported.built, form=form)
    asked = replace(results, exported=replace(results.exported, limits=limits, built=built, precisions=("int8",)))
    words = shlex.split(commands(asked)[1])
    given = dict(zip(words[3::2], words[4::2], strict=False))
    assert Limit.parse("latency", given["--max-latency"]) == limits[0]
    assert Limit.parse("macs", given["--max-macs"]) == limits[1]
    assert Limit.parse("params", given["--max-params"]) == limits[2]
    assert Limit.parse("size", given["--max-size"]) == limits[3]
    assert (given["--preprocess"], given["--precision"], words[-1]) == ("graph", "int8", "--probabilities")


def test_a_module_given_in_python_gets_no_command_that_cannot_run(tmp_path: Path) -> None:
    said = analyze_command(Request(model="module:Mine", data="d"), RunFolder(tmp_path / "mine"))
    assert said.startswith("# module:Mine")


def candidates(*correct: int) -> list[Candidate]:
    return [
        Candidate(
            reading=0, n_neurons=i, macs=i, n_params=i, n_bytes=i, val=Score(n_correct=n, n_images=1000), strength=1
        )
        for i, n in enumerate(correct, start=1)
    ]


def test_the_budget_of_a_candidate_makes_it_the_cheapest_allowed() -> None:
    full = Score(n_correct=871, n_images=1000)
    frontier = candidates(500, 501, 640, 868, 869, 870, 871)
    for candidate in frontier:
        budget = Budget.parse(tightest_budget(candidate, frontier, full).spelled)
        assert within_budget(frontier, full, budget, name=str)[0] == candidate
    assert tightest_budget(frontier[2], frontier, full).spelled == "0.27"


def test_above_the_full_backbone_the_budget_is_none() -> None:
    full = Score(n_correct=600, n_images=1000)
    frontier = candidates(500, 700, 800)
    assert [tightest_budget(c, frontier, full).spelled for c in frontier] == ["0.17", "0", "0"]


def test_a_full_backbone_that_is_never_right_has_budgets_too() -> None:
    assert tightest_budget(candidates(0)[0], candidates(0), Score(n_correct=0, n_images=9)).loss == 0


def test_commands_of_the_real_run_choose_what_they_say(results: Results) -> None:
    full = results.analysis.full.val
    for candidate in results.candidates:
        budget = tightest_budget(candidate, results.candidates, full)
        try:
            cheapest = within_budget(results.candidates, full, budget, name=str)[0]
        except BudgetError:
            pytest.fail(f"{budget} allows nothing")
        assert cheapest == candidate or min(cheapest.val.accuracy, candidate.val.accuracy) >= full.accuracy


def test_export_and_bench_are_repeated_as_they_were(results: Results) -> None:
    assert results.exported is not None
    run = shlex.quote(str(results.run.path))
    _, export, bench, report = commands(results)
    assert export == f"prune-tool export {run} --budget 0.2"
    assert bench == f"prune-tool bench {run} --batch 1,2 --threads 1"
    assert report == f"prune-tool report {run}"
    test = results.exported.certificate.test
    points = replace(test, budget=Budget.parse("5pp"), alpha=0.01)
    certificate = replace(results.exported.certificate, test=points)
    restricted = replace(results, exported=replace(results.exported, certificate=certificate, taps="last"), bench=None)
    assert commands(restricted)[1] == f"prune-tool export {run} --budget 5pp --taps last --confidence 0.99"
