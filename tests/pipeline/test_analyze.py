from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prune_tool import defaults
from prune_tool.errors import BadImageError
from prune_tool.pipeline.analyze import Analyzed, analyze, probe_near
from prune_tool.pipeline.extract import extract
from prune_tool.pipeline.features import Features, fit_data
from prune_tool.pipeline.measure import kept_outputs, prefix_subset, readings_of
from prune_tool.pipeline.runs import read_analysis, read_candidates, read_record
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import COSTS, Cost, Request
from prune_tool.redundancy.held_out import HeldOut
from prune_tool.redundancy.moments import MomentsAccumulator
from prune_tool.redundancy.subsets import draw_permutations
from prune_tool.store.features import FeatureCache
from prune_tool.surgery.slicing import slice_graph
from prune_tool.surgery.taps import HEAD


class Recording:
    """An image source that remembers which images were read."""

    def __init__(self, source: object) -> None:
        self._source = source
        self.read_images: set[int] = set()

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)  # type: ignore[arg-type]

    def read(self, i: int, *, keep_grey: bool = False) -> object:
        self.read_images.add(i)
        return self._source.read(i, keep_grey=keep_grey)  # type: ignore[attr-defined]


def test_the_run_folder_reads_back_as_it_was_written(analyzed: Analyzed) -> None:
    assert read_record(analyzed.run) == analyzed.record
    assert read_analysis(analyzed.run) == analyzed.analysis
    assert read_candidates(analyzed.run) == analyzed.candidates


@pytest.mark.parametrize("cost", COSTS)
def test_the_front_is_strictly_monotone(analyzed: Analyzed, cost: Cost) -> None:
    front = analyzed.frontier(cost)
    costs, accuracies = [c.cost(cost) for c in front], [c.val.n_correct for c in front]
    assert len(costs) >= 2
    assert costs == sorted(set(costs))
    assert accuracies == sorted(set(accuracies))


def test_the_backbone_tells_the_classes_apart(analyzed: Analyzed) -> None:
    assert analyzed.analysis.full.val.accuracy > 0.8  # else nothing below proves anything


def test_test_images_are_not_read(request_: Request, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNE_TOOL_CACHE", str(home / "cache-of-its-own"))
    workspace = Workspace(request_)
    workspace.bad_images  # noqa: B018 - the check for broken files reads every image, and keeps nothing of it
    recording = Recording(workspace.source)
    workspace.__dict__["source"] = recording
    analyze(workspace, runs=home / "runs-recorded")
    splits = workspace.splits
    assert recording.read_images == {*splits.train.tolist(), *splits.val.tolist()}


@pytest.fixture
def empty_cache(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureCache:
    """A cache of the workspace's own that holds nothing yet."""
    cache = FeatureCache(tmp_path / "cache")
    monkeypatch.setitem(workspace.__dict__, "cache", cache)
    return cache


def test_features_do_not_depend_on_shards_batches_or_company(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_cache: FeatureCache
) -> None:
    """Rows of an extraction equal those of an extraction of other images in another order of shards."""
    rows = workspace.splits.train[:23]
    together = extract(workspace, [workspace.native], rows)[0].read(["head"])["head"]
    monkeypatch.setitem(workspace.__dict__, "cache", FeatureCache(tmp_path / "another"))
    monkeypatch.setattr("prune_tool.defaults.SHARD_SIZE", 5)
    monkeypatch.setitem(defaults.BATCH_SIZE, "cpu", 2)
    apart = extract(workspace, [workspace.native], rows[::-1].copy())[0].read(["head"])["head"][::-1]
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)


def test_a_second_analysis_computes_only_what_is_new(
    request_: Request, analyzed: Analyzed, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the backbone was run again")

    monkeypatch.setattr("prune_tool.pipeline.extract.compute_here", refuse)
    other_draws = analyze(Workspace(replace(request_, n_draws=4)), runs=home / "runs")
    assert other_draws.analysis != analyzed.analysis
    monkeypatch.setattr("prune_tool.pipeline.analyze.fit_data", refuse)
    again = analyze(Workspace(request_), runs=home / "runs")
    assert again.run.name != analyzed.run.name
    assert again.analysis == analyzed.analysis
    assert again.candidates == analyzed.candidates


@pytest.mark.parametrize("damage", [lambda text: text[:1000], lambda text: text.replace("0", "1", 1)])
def test_damaged_findings_are_measured_again(
    request_: Request, analyzed: Analyzed, home: Path, damage: Callable[[str], str]
) -> None:
    findings = [path for path in (home / "cache" / "findings").iterdir() if not path.name.endswith(".seal.json")]
    assert findings
    for path in findings:
        path.write_text(damage(path.read_text()))
    assert analyze(Workspace(request_), runs=home / "runs").analysis == analyzed.analysis


def test_extraction_goes_on_where_it_was_stopped(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_cache: FeatureCache
) -> None:
    """An extraction that dies half-way leaves whole shards, and the next one computes only the others."""
    monkeypatch.setattr("prune_tool.defaults.SHARD_SIZE", 8)
    rows = workspace.splits.val[::-1].copy()
    source, calls = workspace.source, []
    stop_at = rows[20]

    class Dying(Recording):
        def read(self, i: int, *, keep_grey: bool = False) -> object:
            calls.append(i)
            if i == stop_at:
                raise KeyboardInterrupt
            return super().read(i, keep_grey=keep_grey)

    monkeypatch.setitem(workspace.__dict__, "source", Dying(source))
    with pytest.raises(KeyboardInterrupt):
        extract(workspace, [workspace.native], rows)
    resumed = Recording(source)
    monkeypatch.setitem(workspace.__dict__, "source", resumed)
    found = extract(workspace, [workspace.native], rows)[0].read(["head"])["head"]
    assert resumed.read_images == set(rows[16:].tolist())
    monkeypatch.setitem(workspace.__dict__, "cache", FeatureCache(tmp_path / "another"))
    expected = extract(workspace, [workspace.native], workspace.splits.val)[0].read(["head"])["head"]
    np.testing.assert_allclose(found[::-1], expected, rtol=1e-4, atol=1e-5)


def test_the_swept_columns_are_what_the_sliced_network_puts_out(workspace: Workspace) -> None:
    import torch

    from prune_tool.pipeline.build import parity_images

    subject = workspace.native
    pool = [r for r in readings_of(subject) if r.kind == "pool"][-1]
    subset = prefix_subset(pool, subject, draw_permutations(pool.width, 1, 7)[0], pool.width // 3)
    assert len(subset) > 1
    images = torch.from_numpy(parity_images(workspace, subject))
    sliced = slice_graph(subject.captured, kept_outputs(subset, subject), round_to=8)
    rows = workspace.splits.val[: len(images)]
    swept = Features(workspace, [subject], rows).columns(subject.trunk, subset, np.arange(len(rows)))
    with torch.no_grad():
        np.testing.assert_allclose(sliced(images), swept, rtol=1e-3, atol=1e-4)


def test_subsets_of_a_draw_are_nested_and_repeat(workspace: Workspace) -> None:
    subject = workspace.native
    pool = [r for r in readings_of(subject) if r.kind == "pool"][-1]
    order = draw_permutations(pool.width, 2, 3)[1]
    small, large = (prefix_subset(pool, subject, order, n) for n in (20, 40))
    assert all(np.isin(neurons, large[tap]).all() for tap, neurons in small.items())
    assert sum(len(neurons) for neurons in small.values()) == 20
    again = prefix_subset(pool, subject, draw_permutations(pool.width, 4, 3)[1], 20)
    assert all(np.array_equal(small[tap], again[tap]) for tap in small)


def test_sweep_on_real_features_equals_a_direct_solve(workspace: Workspace) -> None:
    """Every size of one draw against numpy's solver, ridge probe by ridge probe."""
    from prune_tool.redundancy.sweep import sweep

    data = fit_data(workspace)
    width, rows = workspace.native.taps[-1].width, np.arange(len(data.labels))
    X = data.features.columns(workspace.native.trunk, {"head": np.arange(width)}, rows).astype(np.float64)
    train, val, labels = X[data.train], X[data.val], data.labels
    accumulator = MomentsAccumulator(X.shape[1], 3)
    accumulator.update(train, labels[data.train])
    moments = accumulator.freeze()
    order = draw_permutations(X.shape[1], 1, 0)[0]
    sizes = np.arange(1, X.shape[1] + 1)
    swept = sweep(moments, HeldOut(val, labels[data.val]), order, sizes, 1e-2)
    Xt, Xv = moments.standardise(train), moments.standardise(val)
    Y = np.eye(3)[labels[data.train]] - moments.prior
    for k, n_correct in zip(sizes, swept, strict=True):
        S = order[:k]
        W = np.linalg.solve(Xt[:, S].T @ Xt[:, S] + 1e-2 * len(Xt) * np.eye(k), Xt[:, S].T @ Y)
        direct = ((Xv[:, S] @ W + moments.prior).argmax(1) == labels[data.val]).sum()
        assert abs(int(direct) - int(n_correct)) <= 1, k  # one image may lie on the boundary to rounding


def test_a_broken_image_is_named_and_can_be_skipped(request_: Request, home: Path, images: Path) -> None:
    import shutil

    broken = home / "broken"
    shutil.copytree(images, broken)
    (broken / "rows" / "000.png").write_bytes(b"<html>not found</html>")
    bad = replace(request_, data=str(broken))
    with pytest.raises(BadImageError, match=r"rows.000\.png"):
        analyze(Workspace(bad), runs=home / "runs-bad")
    assert not (home / "runs-bad").exists()
    done = analyze(Workspace(replace(bad, skip_bad=True)), runs=home / "runs-bad")
    assert json.loads(done.run.run.read_text())["n_bad_images"] == 1


def test_comparisons_end_at_the_whole_layer(request_: Request, home: Path) -> None:
    compared = analyze(Workspace(replace(request_, compare=True)), runs=home / "runs-compared")
    comparisons = {c.name: c for c in compared.analysis.comparisons}
    assert len(comparisons) == 5
    assert len({c.accuracy[-1] for c in comparisons.values()}) == 1
    assert comparisons["random neurons"].cka[-1] == pytest.approx(1)
    head = next(m for m in compared.analysis.measured if m.reading.taps == ("head",))
    assert comparisons["random neurons"].accuracy == pytest.approx(head.accuracy)


def test_the_full_backbone_is_a_candidate_of_the_search_and_of_any_that_may_read_its_head(
    workspace: Workspace, analyzed: Analyzed
) -> None:
    full, data = analyzed.analysis.full, fit_data(workspace)
    last, _ = probe_near(workspace, data, analyzed.analysis.measured, frozenset({HEAD}))
    first, _ = probe_near(workspace, data, analyzed.analysis.measured, frozenset({workspace.native.taps[0].name}))
    for candidates in (analyzed.candidates, last):
        whole = candidates[-1]
        reading = analyzed.analysis.measured[whole.reading].reading
        assert (reading.taps, reading.trunk, whole.n_neurons) == ((HEAD,), workspace.native.trunk, full.width)
        assert (whole.macs, whole.n_params, whole.val) == (full.macs, full.n_params, full.val)
    assert all(analyzed.analysis.measured[c.reading].reading.taps != (HEAD,) for c in first)
