"""Narrowed trunks as one more axis: calibrated once, remembered, measured, shipped and certified like any other."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from prune_tool import defaults
from prune_tool.errors import UsageError
from prune_tool.pipeline.analyze import Analyzed, analyze
from prune_tool.pipeline.build import parity_images
from prune_tool.pipeline.cutter import Plan
from prune_tool.pipeline.decode import images_of
from prune_tool.pipeline.export import export
from prune_tool.pipeline.features import fit_data
from prune_tool.pipeline.narrow import Narrower
from prune_tool.pipeline.reach import reach_of
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Allocation, Budget, Request, Trunk
from prune_tool.store.atomic import write_json
from prune_tool.surgery.capture import capture
from prune_tool.surgery.cost import cost_of
from tests.support import Noted, ask

SHARE = 0.6


@pytest.fixture(scope="module")
def narrow_request(request_: Request) -> Request:
    return replace(request_, narrow=(SHARE,), n_calibration=24, n_draws=2, cost="macs")


@pytest.fixture(scope="module")
def workspace(narrow_request: Request) -> Workspace:
    return Workspace(narrow_request)


@pytest.fixture(scope="module")
def analyzed(workspace: Workspace, home: Path) -> Analyzed:
    return analyze(workspace, runs=home / "narrow-runs")


def test_the_narrowed_trunk_stands_beside_the_whole_one(workspace: Workspace, analyzed: Analyzed) -> None:
    whole, narrow = analyzed.record.trunks
    assert (whole, narrow) == (Trunk(input_size=64), Trunk(input_size=64, narrow=SHARE))
    assert str(narrow) == "64 px narrowed to 60 %"
    macs = {trunk: cost_of(workspace.subject(trunk).captured).macs for trunk in (whole, narrow)}
    assert macs[narrow] <= SHARE * macs[whole]
    readings = {m.reading.trunk: m.reading for m in analyzed.analysis.measured}
    assert set(readings) == {whole, narrow}
    by_tap = {m.reading: m.macs for m in analyzed.analysis.measured}
    for reading, n_macs in by_tap.items():
        if reading.trunk == whole:
            assert by_tap[replace(reading, trunk=narrow)] <= n_macs


def test_probes_read_the_narrowed_trunks_own_neurons(workspace: Workspace) -> None:
    data = fit_data(workspace)
    narrow = workspace.subject(Trunk(input_size=64, narrow=SHARE))
    images = torch.from_numpy(parity_images(workspace, narrow))
    rows = data.val[: len(images)]
    with torch.inference_mode():
        outputs = narrow.captured(images)
    for tap, expected in zip(narrow.taps, outputs, strict=True):
        found = data.features.columns(narrow.trunk, {tap.name: np.arange(tap.width)}, rows)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_a_narrowed_candidate_ships_verified_and_tested(
    workspace: Workspace, analyzed: Analyzed, tmp_path: Path
) -> None:
    measured = analyzed.analysis.measured
    narrow = [c for c in analyzed.candidates if measured[c.reading].reading.trunk.narrow is not None]
    assert narrow, "some of them are near the front"
    shutil.copytree(analyzed.run.path, tmp_path / "run")
    run = replace(analyzed.run, path=tmp_path / "run")
    write_json(run.frontier, narrow)
    exported = export(workspace, run, budget=Budget.parse("0.5"))
    assert exported.built.reading.trunk == Trunk(input_size=64, narrow=SHARE)
    assert exported.certificate.test.kept.n_images == len(workspace.splits.test)
    images = parity_images(workspace, workspace.subject(exported.built.reading.trunk))
    session = ort.InferenceSession(run.model, providers=["CPUExecutionProvider"])
    assert session.run(None, {"images": images})[0].shape == (len(images), 3)
    assert ask("show", run.path).status == 0
    assert "narrowed to 60 %" in ask("show", run.path, "--json").out


def test_calibration_is_remembered(
    narrow_request: Request, analyzed: Analyzed, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*_: object, **__: object) -> None:
        raise AssertionError("calibrated again")

    trunk = Trunk(input_size=64, narrow=SHARE)
    images = torch.zeros(2, 3, 64, 64)
    before = Workspace(narrow_request).subject(trunk)
    expected = before.captured(images)
    monkeypatch.setattr("prune_tool.pipeline.narrowed.Narrower", again)
    for found, wanted in zip(Workspace(narrow_request).subject(trunk).captured(images), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    for change in (
        {"seed": 1},
        {"n_calibration": 30},
        {"round_to": 1},
        {"narrow": (0.7,)},
        {"allocation": "allocated"},
    ):
        other = Workspace(replace(narrow_request, **change)).subjects[1]  # type: ignore[arg-type]
        assert other.trunk_fingerprint != before.trunk_fingerprint
        with pytest.raises(AssertionError, match="calibrated again"):
            _ = other.captured


def test_neurons_are_shared_out_as_asked(narrow_request: Request) -> None:
    plan = Plan(share=SHARE, round_to=1)
    kept = {}
    for allocation in get_args(Allocation):
        workspace = Workspace(replace(narrow_request, allocation=allocation, round_to=1))
        whole, narrow = workspace.subjects
        images = images_of(workspace.source, workspace.calibrated, whole.backbone.preprocessing)
        record, _ = Narrower(whole.captured, images).narrow(replace(plan, allocation=allocation))
        assert cost_of(narrow.captured).macs == record.macs <= SHARE * record.full_macs
        kept[allocation] = {width.name: len(width.kept) / width.width for width in record.widths}
    spread = {allocation: np.ptp(list(shares.values())) for allocation, shares in kept.items()}
    assert spread["uniform"] < spread["allocated"]


def test_without_narrowing_there_is_none(request_: Request) -> None:
    assert all(subject.trunk.narrow is None for subject in Workspace(request_).subjects)
    assert Request().narrow == ()
    assert 0 < min(defaults.NARROW_SHARES) < 1


def test_a_share_that_cannot_be_had_says_what_can(narrow_request: Request) -> None:
    with pytest.raises(UsageError, match="fewest neurons") as caught:
        _ = Workspace(replace(narrow_request, narrow=(0.01,))).subjects[1].captured
    share = float(caught.value.remedy.split()[2])
    assert Workspace(replace(narrow_request, narrow=(share,))).subjects[1].captured


def test_a_share_that_the_tool_chose_and_that_cannot_be_had_is_passed_over_with_a_note(
    narrow_request: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "NARROW_SHARES", (SHARE, 0.01))
    noted = Noted()
    whole, narrow = Workspace(replace(narrow_request, narrow=None), noted).subjects
    assert narrow.trunk.narrow == SHARE
    (note,) = noted.notes
    least = re.search(r"64 px to 1 % of the MACs: its hidden widths leave (\d+) % at least", note)
    assert least is not None
    assert 100 * reach_of(whole.captured, narrow_request.round_to) == pytest.approx(int(least.group(1)), abs=0.5)


def test_a_network_without_hidden_widths_cannot_be_narrowed_at_all() -> None:
    graph = capture(nn.Sequential(nn.Conv2d(3, 8, 3)), torch.zeros(2, 3, 8, 8))
    assert reach_of(graph, 8) == 1.0


def test_healing_or_allocating_without_narrowing_is_refused(request_: Request) -> None:
    for asked in (replace(request_, heal=2), replace(request_, allocation="allocated")):
        with pytest.raises(UsageError, match="Add --narrow auto"):
            Workspace(asked)


def test_the_command_line_narrows(convnet: str, images: Path, tmp_path: Path) -> None:
    answer = ask(
        "analyze", convnet, images, "--narrow", f"{SHARE}", "--calibration", "24", "--input-size", "native",
        "--draws", "2", "--cost", "macs", "--runs", tmp_path, "--name", "run", "-q",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    assert "narrow" in (tmp_path / "run" / "run.json").read_text()
    assert "narrowings" in ask("cache", "ls", "--json").out
