"""Engines compute the same neurons whatever decodes, runs or shares the work; what rounds otherwise is kept apart."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prune_tool import defaults
from prune_tool.errors import CacheError, UsageError
from prune_tool.pipeline import extract as extraction
from prune_tool.pipeline.engines import choose, runners
from prune_tool.pipeline.engines.local import WORTH_PROCESSES, compute_here, n_workers_for
from prune_tool.pipeline.engines.network import network_of, portable
from prune_tool.pipeline.engines.plan import CHUNK, Plan
from prune_tool.pipeline.engines.runners import STREAM_BATCH, open_runner
from prune_tool.pipeline.extract import extract
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Request
from prune_tool.store.features import FeatureEntry

N_IMAGES = 45


@pytest.fixture
def rows(workspace: Workspace) -> np.ndarray:
    return workspace.splits.train[:N_IMAGES]


@pytest.fixture
def fresh(
    request_: Request, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Workspace]:
    """A workspace over the same backbone and images, with compiled graphs at hand and no features."""
    monkeypatch.setattr("prune_tool.defaults.SHARD_SIZE", 8)
    monkeypatch.setattr("prune_tool.pipeline.engines.choose._fastest", lambda *_: (1.0, 1.0))
    graphs = workspace.cache.root / "graphs"
    graphs.mkdir(parents=True, exist_ok=True)

    def make(name: str, **changes: object) -> Workspace:
        shutil.copytree(graphs, tmp_path / name / "graphs", ignore=shutil.ignore_patterns("*.json", "*.lock"))
        monkeypatch.setenv("PRUNE_TOOL_CACHE", str(tmp_path / name))
        made = Workspace(replace(request_, **changes))
        made.__dict__.update({part: getattr(workspace, part) for part in ("source", "native", "splits")})
        assert made.cache.root == tmp_path / name
        return made

    return make


def neurons(workspace: Workspace, rows: np.ndarray) -> tuple[FeatureEntry, np.ndarray]:
    """The entry, and the neurons of all taps side by side."""
    [entry] = extract(workspace, [workspace.native], rows)
    names = [tap.name for tap in workspace.native.taps]
    assert entry.missing() == []
    return entry, np.concatenate([*entry.read(names).values()], axis=1)


def plan_of(workspace: Workspace, rows: np.ndarray, runtime: str = "onnxruntime", **changes: object) -> Plan:
    plan = Plan(
        source=workspace.source,
        rows=rows,
        shard_size=8,
        networks={0: network_of(workspace, workspace.native, runtime)},
        missing={0: frozenset(range(-(-len(rows) // 8)))},
        batch_size=defaults.BATCH_SIZE["cpu"],
    )
    return replace(plan, **changes)


def test_worker_processes_change_no_bit(fresh: Callable[..., Workspace], rows: np.ndarray) -> None:
    _, threads = neurons(fresh("threads", workers=0), rows)
    _, processes = neurons(fresh("processes", workers=2), rows)
    np.testing.assert_array_equal(threads, processes)


@pytest.mark.parametrize("n_devices", [1, 2, 3])
def test_several_devices_change_no_bit(workspace: Workspace, rows: np.ndarray, n_devices: int) -> None:
    n_shards = 15  # lanes read a few ahead, and every one must find some
    plan = plan_of(workspace, rows, shard_size=3, missing={0: frozenset(range(n_shards))})
    by: set[int] = set()
    advanced: list[int] = []
    all_have_begun = threading.Barrier(n_devices)

    class Waiting(runners.OnnxRunner):
        """One a device; none is done with its first batch before every other has one."""

        def __call__(self, pixels: object) -> runners.Neurons:
            if id(self) not in by:
                by.add(id(self))
                all_have_begun.wait(timeout=60)
            return super().__call__(pixels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runners, "OnnxRunner", Waiting)
        found = dict(compute_here(plan, ["cpu"] * n_devices, n_threads=1, n_workers=0, advance=advanced.append))
    assert sum(advanced) == N_IMAGES
    assert len(by) == n_devices
    [alone] = [open_runner(plan.networks[0], "cpu", amp=False)]
    for shard in plan.shards:
        pixels = plan.decoder(next(plan.chunks([shard])).batch)[0]
        for tap, expected in alone([pixels]).items():
            np.testing.assert_array_equal(found[shard][0][tap], expected)


def test_an_error_in_one_lane_ends_them_all(workspace: Workspace, rows: np.ndarray) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            return getattr(workspace.source, name)

        def read(self, i: int, *, keep_grey: bool = False) -> object:
            if i == rows[20]:
                raise OSError("the disk is on fire")
            return workspace.source.read(i, keep_grey=keep_grey)

    before = threading.active_count()
    with pytest.raises(OSError, match="on fire"):
        list(compute_here(plan_of(workspace, rows, source=Broken()), ["cpu"] * 2, n_threads=1, n_workers=0, advance=id))
    assert threading.active_count() == before


def test_chunks_cover_every_image_once_within_batches_and_shards(workspace: Workspace) -> None:
    rows = np.arange(1000, 1000 + 200)
    plan = plan_of(workspace, rows, shard_size=90, batch_size=70, missing={0: frozenset([0, 2]), 1: frozenset([2])})
    chunks = list(plan.chunks(plan.shards))
    np.testing.assert_array_equal(np.concatenate([c.batch.rows for c in chunks]), np.r_[rows[:90], rows[180:]])
    assert plan.n_images == 110
    assert max(len(c.batch.rows) for c in chunks) == CHUNK
    assert [c.n_batch for c in chunks if c.ends_batch] == [70, 20, 20]
    assert [(c.shard, c.batch.wanted) for c in chunks if c.ends_shard] == [(0, (0,)), (2, (0, 1))]


def test_the_runtimes_agree_and_are_kept_apart(
    fresh: Callable[..., Workspace], rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = fresh("one")
    onnx_entry, onnx = neurons(one, rows)
    torch_workspace = fresh("other")
    monkeypatch.setattr("prune_tool.pipeline.engines.choose._fastest", lambda *_: (1.2, 1.0))
    torch_entry, torch_ = neurons(torch_workspace, rows)
    assert onnx_entry.folder.name != torch_entry.folder.name
    np.testing.assert_allclose(onnx, torch_, rtol=1e-4, atol=1e-5)


def test_a_trial_decides_once(
    fresh: Callable[..., Workspace], rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials: list[tuple[float, float]] = []

    def timed(onnx_s: float) -> Callable[..., tuple[float, float]]:
        def fastest(*_: object) -> tuple[float, float]:
            trials.append((onnx_s, 1.0))
            return trials[-1]

        return fastest

    workspace = fresh("cache")
    monkeypatch.setattr(choose, "_fastest", timed(1.05))  # within the margin: ONNX Runtime stays
    assert choose.choose_runtime(workspace, workspace.native, "cpu", rows) == "onnxruntime"
    monkeypatch.setattr(choose, "_fastest", timed(5.0))
    assert choose.choose_runtime(workspace, workspace.native, "cpu", rows) == "onnxruntime"
    assert len(trials) == 1
    [memory] = (workspace.cache.root / "runtimes").glob("*[!l].json")  # not the seal
    memory.write_text("{")
    assert choose.choose_runtime(workspace, workspace.native, "cpu", rows) == "pytorch"
    assert choose.choose_runtime(workspace, workspace.native, "cuda", rows) == "pytorch"
    assert len(trials) == 2


def test_a_cache_that_cannot_be_written_is_named(
    fresh: Callable[..., Workspace], rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    workspace = fresh("full")
    monkeypatch.setattr("prune_tool.store.kept.replacing", full)
    with pytest.raises(CacheError, match=r"No space left.*PRUNE_TOOL_CACHE"):
        choose.choose_runtime(workspace, workspace.native, "cpu", rows)


def test_the_trial_times_both(workspace: Workspace, rows: np.ndarray) -> None:
    calls = {"onnx": 0, "torch": 0}

    def runner(name: str, images_a_call: int) -> Callable[..., dict[str, np.ndarray]]:
        def run(pixels: list[torch.Tensor]) -> dict[str, np.ndarray]:
            calls[name] += sum(map(len, pixels))
            assert sum(map(len, pixels)) <= images_a_call
            return {}

        return run

    seconds = choose._fastest(runner("onnx", 16), runner("torch", 16), torch.zeros(16, 4, 4, 3))
    assert min(seconds) > 0
    assert calls["onnx"] == calls["torch"] >= 2 * 16


def test_a_network_that_travels_computes_the_same(workspace: Workspace, rows: np.ndarray) -> None:
    pixels = plan_of(workspace, rows).decoder(next(plan_of(workspace, rows).chunks([0])).batch)[0]
    for runtime in ("onnxruntime", "pytorch"):
        network = network_of(workspace, workspace.native, runtime)
        sent = portable(network)
        assert isinstance(sent.form, bytes)
        here, there = (open_runner(n, "cpu", amp=False)([pixels]) for n in (network, sent))
        for tap in network.taps:
            np.testing.assert_array_equal(here[tap], there[tap])


def test_half_precision_is_close_checked_and_kept_apart(
    fresh: Callable[..., Workspace], rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact_entry, exact = neurons(fresh("exact"), rows)
    amp = fresh("amp", amp=True)
    entry, rounded = neurons(amp, rows)
    assert entry.folder.name != exact_entry.folder.name
    assert rounded.dtype == np.float32
    assert not np.array_equal(exact, rounded)
    spread = np.linalg.norm(exact - exact.mean(0))
    assert 1e-4 < np.linalg.norm(exact - rounded) / spread < runners.AMP_TOLERANCE

    monkeypatch.setattr(runners, "AMP_TOLERANCE", 1e-6)
    with pytest.raises(UsageError, match="of their spread over images") as raised:
        neurons(fresh("too-far", amp=True), rows)
    assert raised.value.remedy == "Run without --amp"
    neurons(fresh("without", amp=False), rows)


def test_a_batch_that_does_not_fit_is_halved(workspace: Workspace, rows: np.ndarray) -> None:
    network = network_of(workspace, workspace.native, "pytorch")
    pixels = plan_of(workspace, rows).decoder(next(plan_of(workspace, rows).chunks([0])).batch)[0]
    small = runners.TorchRunner(network, "cpu")
    whole = small([pixels])
    module, sizes = small._module, []

    def hungry(batch: torch.Tensor) -> object:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("as a GPU would")
        return module(batch)

    small._module = hungry
    for tap, neurons_ in small([pixels]).items():
        np.testing.assert_allclose(neurons_, whole[tap], rtol=1e-4, atol=1e-5)
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


def test_numbers_do_not_depend_on_the_cores(workspace: Workspace, rows: np.ndarray) -> None:
    plan = plan_of(workspace, rows)
    one, four = (
        dict(compute_here(plan, ["cpu"], n_threads=n, n_workers=0, advance=lambda _: None)) for n in (1, 4)
    )  # fmt: skip
    for shard in plan.shards:
        for tap in plan.networks[0].taps:
            np.testing.assert_array_equal(one[shard][0][tap], four[shard][0][tap])
    assert STREAM_BATCH < 8


def test_who_decodes_unasked() -> None:
    many = WORTH_PROCESSES
    assert n_workers_for(None, "cpu", many, n_cores=8, n_lanes=1) == 0
    assert n_workers_for(None, "cpu", many, n_cores=16, n_lanes=1) == 4
    assert n_workers_for(None, "cpu", many - 1, n_cores=16, n_lanes=1) == 0
    assert n_workers_for(None, "cuda", many, n_cores=16, n_lanes=1) == 16
    assert n_workers_for(None, "cuda", many - 1, n_cores=16, n_lanes=1) == 0
    assert n_workers_for(None, "cuda", many, n_cores=16, n_lanes=8) == 2
    assert n_workers_for(3, "cpu", 10, n_cores=2, n_lanes=1) == 3
    assert n_workers_for(0, "cuda", many, n_cores=16, n_lanes=1) == 0


def test_cuda_means_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert extraction.devices_of("cuda") == ("cuda:0", "cuda:1", "cuda:2")
    assert extraction.devices_of("cuda:1") == ("cuda:1",)
    assert extraction.devices_of("cpu") == ("cpu",)
