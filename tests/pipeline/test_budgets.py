"""Several budgets at once: one file each, as if each had been asked for alone; what they share is done once."""

from __future__ import annotations

import html
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

import prune_tool
from prune_tool import defaults
from prune_tool.deploy.bench import Conditions
from prune_tool.errors import BudgetError, RunError, UsageError
from prune_tool.pipeline import export as exporting
from prune_tool.pipeline.analyze import Analyzed
from prune_tool.pipeline.choosing import Pool, choose
from prune_tool.pipeline.export import export, export_each
from prune_tool.pipeline.exported import Exported
from prune_tool.pipeline.features import fit_data
from prune_tool.pipeline.files import describe
from prune_tool.pipeline.push import push
from prune_tool.pipeline.results import read_results
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import COSTS, Budget, Cost, Form
from prune_tool.report.budgets import budget_tables
from prune_tool.report.html import write_report
from prune_tool.report.reproduce import commands
from prune_tool.store.layout import RunFolder, open_run

BUDGETS = Budget.parse_all("0.02,30pp")
Copy = Callable[[str], RunFolder]


@dataclass(frozen=True, kw_only=True)
class Several:
    """A run that was exported at one budget, and then at both.

    Attributes:
        run: the folder.
        alone: what was exported first, and the bytes of its file.
        exported: what both budgets gave.
        analysed: names in the folder before the first export.
        calls: what was done for both budgets, that matters.
    """

    run: RunFolder
    alone: tuple[Exported, bytes]
    exported: dict[RunFolder, Exported]
    analysed: frozenset[str]
    calls: tuple[str, ...]


def names(run: RunFolder) -> set[str]:
    return {path.name for path in run.path.iterdir()}


@pytest.fixture(scope="module")
def analysed(analyzed: Analyzed, home: Path) -> Copy:
    """A copy of the shared run, not exported, under a name of its own."""

    def copy(name: str) -> RunFolder:
        run = RunFolder(home / "budgets" / name)
        run.path.mkdir(parents=True)
        for path in (analyzed.run.run, analyzed.run.analysis, analyzed.run.frontier):
            shutil.copy(path, run.path)
        return run

    return copy


@pytest.fixture(scope="module")
def pool(workspace: Workspace, analyzed: Analyzed) -> Pool:
    return Pool(
        workspace=workspace,
        data=fit_data(workspace),
        analysis=analyzed.analysis,
        probed=analyzed.candidates,
        form=Form(),
    )


def counted(name: str, original: Callable[..., object], calls: list[str]) -> Callable[..., object]:
    def call(*args: object) -> object:
        calls.append(name)
        return original(*args)

    return call


@pytest.fixture(scope="module")
def several(workspace: Workspace, analysed: Copy) -> Several:
    run, calls = analysed("several"), []
    before = names(run)
    alone = export(workspace, run, budget=BUDGETS[1])
    model = run.model.read_bytes()
    run.report.write_text("of the file that stood here alone")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("build_full", "open_trial", "NeuronsOnTest", "open_pool"):
            patch.setattr(exporting, name, counted(name, getattr(exporting, name), calls))
        exported = export_each(workspace, run, budgets=BUDGETS)
    return Several(
        run=run, alone=(alone, model), exported=exported, analysed=frozenset(before), calls=tuple(sorted(calls))
    )


@pytest.mark.parametrize("cost", COSTS)
def test_a_tighter_budget_never_chooses_a_cheaper_network(pool: Pool, workspace: Workspace, cost: Cost) -> None:
    """On a real run, at every loss from none to a half."""
    request = replace(workspace.request, cost=cost)
    priced = Workspace(request)
    priced.__dict__.update({key: value for key, value in workspace.__dict__.items() if key != "request"})
    chosen = []
    for loss in (0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5):
        budget = Budget(kind="relative", loss=loss)
        try:
            candidate = choose(replace(pool, workspace=priced), budget).candidate
        except BudgetError:
            assert not chosen, "a looser budget refuses what a tighter one found"
            continue
        assert budget.is_met(candidate.val, pool.analysis.full.val)
        chosen.append(candidate.cost(cost))
    assert all(tight >= loose for tight, loose in pairwise(chosen))
    assert chosen[0] > chosen[-1], "the budgets made a difference"


def test_a_budget_of_nothing_gives_the_full_accuracy_or_says_that_it_cannot(pool: Pool) -> None:
    none, full = Budget.parse("0"), pool.analysis.full.val
    assert choose(pool, none).candidate.val.accuracy >= full.accuracy
    weak = tuple(c for c in pool.probed if c.val.accuracy < full.accuracy)
    assert weak
    with pytest.raises(BudgetError) as caught:
        choose(replace(pool, probed=weak), none)
    proposed = caught.value.remedy.removeprefix("--budget ").removesuffix(" would take it")
    assert choose(replace(pool, probed=weak), Budget.parse(proposed)).candidate.val.n_correct < full.n_correct


def test_each_file_is_the_one_that_its_budget_gives_alone(several: Several) -> None:
    alone, model = several.alone
    place = several.run.at_budget("30pp")
    together = several.exported[place]
    assert together.built.candidate == alone.built.candidate
    assert (together.certificate, together.tested) == (alone.certificate, alone.tested)
    assert place.model.read_bytes() == model
    assert [place.name for place in several.exported] == ["0.02", "30pp"]
    tight, loose = (each.built.candidate.cost("latency") for each in several.exported.values())
    assert tight >= loose


def test_each_is_a_run_by_itself(several: Several, images: Path, workspace: Workspace) -> None:
    exported = several.exported
    picture = min(images.glob("*/*.png"))
    for place, each in exported.items():
        opened = open_run(place.path)
        assert describe(opened.path).sha256 == each.model_sha256
        assert prune_tool.predict(opened.path, [picture]).predictions
        assert prune_tool.load(opened.path) is not None
        assert push(opened, "me/mine", dry_run=True).files
        timed = prune_tool.bench(opened, Conditions(seconds=0.1, threads=(1,)))
        assert read_results(opened).bench == timed
        assert write_report(opened, workspace=workspace).missing == ()
        page = html.unescape(opened.report.read_text(encoding="utf-8")).replace("\u00a0", " ")
        assert each.sentence in page
    full = [place.full.stat() for place in exported]
    if hasattr(os, "link"):
        assert len({(stat.st_dev, stat.st_ino) for stat in full}) == 1, "the full backbone takes room once"


def test_the_run_around_says_which_to_name(several: Several, images: Path, workspace: Workspace) -> None:
    run, exported = several.run, several.exported
    asks: list[Callable[[Path], object]] = [
        describe,
        prune_tool.load,
        lambda path: prune_tool.predict(path, [min(images.glob("*/*.png"))]),
        lambda path: push(RunFolder(path), "me/mine", dry_run=True),
        lambda path: prune_tool.bench(RunFolder(path), Conditions(seconds=0.1, threads=(1,))),
    ]
    for ask_for in asks:
        with pytest.raises(RunError, match="one for each budget") as caught:
            ask_for(run.path)
        named = [Path(each) for each in caught.value.remedy.removeprefix("Name one of ").split(", ")]
        assert named == [place.path for place in exported]
        ask_for(named[0])
    report = write_report(run, workspace=workspace)
    assert [line.rsplit(" ", 1)[1] for line in report.missing] == [str(place.path) for place in exported]
    run.report.unlink()


def test_how_to_reproduce_names_the_run_and_all_budgets(several: Several) -> None:
    run, exported = several.run, several.exported
    analyze, again, *_ = commands(read_results(next(iter(exported))))
    assert again == f"prune-tool export {run.path} --budget 0.02,30pp"
    assert analyze.endswith(f"--runs {run.path.parent} --name {run.name}")


def test_what_is_shared_is_done_once(several: Several) -> None:
    assert several.calls == ("NeuronsOnTest", "build_full", "open_pool", "open_trial")


def test_an_export_replaces_the_one_before(workspace: Workspace, several: Several, home: Path) -> None:
    assert names(several.run) == several.analysed | {"0.02", "30pp"}, "what stood there alone is gone"
    run = RunFolder(home / "budgets" / "replaced")
    shutil.copytree(several.run.path, run.path)
    export(workspace, run, budget=BUDGETS[1])
    assert not names(run) & {"0.02", "30pp"}
    assert run.model.read_bytes() == several.alone[1]


def test_what_they_are_beside_each_other_is_shown(several: Several, analyzed: Analyzed) -> None:
    console = Console(width=200)
    with console.capture() as page:
        for table in budget_tables(several.exported, analyzed.analysis, analyzed.record.classes):
            console.print(table)
    shown = page.get()
    for place, each in several.exported.items():
        assert f"Budget {place.name}" in shown
        row = next(line for line in shown.splitlines() if f" {place.path} " in line and "│" in line)
        assert each.certificate.state in row
        assert f"{each.built.n_bytes / 1e6:.2f}" in row


def test_where_one_budget_cannot_be_met_nothing_is_written(
    workspace: Workspace, analysed: Copy, analyzed: Analyzed
) -> None:
    run = analysed("none")
    weak = [c for c in analyzed.candidates if c.val.accuracy < analyzed.analysis.full.val.accuracy]
    run.frontier.write_text(json.dumps([json.loads(json.dumps(c, default=_fields)) for c in weak]))
    before = names(run)
    with pytest.raises(BudgetError):
        export_each(workspace, run, budgets=Budget.parse_all("0.3,0"))
    assert names(run) == before


def _fields(value: object) -> object:
    from dataclasses import asdict

    return asdict(value)  # type: ignore[call-overload]


def test_a_budgets_folder_is_no_place_for_an_export(workspace: Workspace, several: Several) -> None:
    run, exported = several.run, several.exported
    with pytest.raises(RunError, match="one of several budgets") as caught:
        export(workspace, next(iter(exported)), budget=BUDGETS[0])
    assert f"prune-tool export {run.path}" in caught.value.remedy


def test_something_else_of_that_name_is_left_alone(workspace: Workspace, analysed: Copy) -> None:
    run = analysed("taken")
    (run.path / "30pp").mkdir()
    (run.path / "30pp" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="something else has that name"):
        export_each(workspace, run, budgets=BUDGETS)
    assert run.budgets == (), "nor would another export remove it"


@pytest.mark.parametrize("budgets", [(), (BUDGETS[0], BUDGETS[0])])
def test_a_list_of_none_or_with_one_twice_is_refused(
    workspace: Workspace, analysed: Copy, budgets: tuple[Budget, ...]
) -> None:
    with pytest.raises(UsageError, match="Give each budget once"):
        export_each(workspace, analysed(f"list-{len(budgets)}"), budgets=budgets)


def test_other_forms_stand_for_all_budgets_before_a_test_image_is_read(
    workspace: Workspace, analysed: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "MAX_FILES", 1)
    run = analysed("none-form")
    before = names(run)

    class ReachedError(Exception):
        pass

    def testing(*_: object) -> None:
        there = sorted(path.parts[-3] for path in run.path.glob(".partial-*/*/*/model.onnx"))
        raise ReachedError(*there)

    monkeypatch.setattr(exporting, "open_trial", testing)
    with pytest.raises(ReachedError) as reached:
        export_each(workspace, run, budgets=BUDGETS, form=Form(preprocess="none"))
    assert reached.value.args == ("0.02", "30pp")
    assert names(run) == before
