"""A Ray cluster of this machine computes the same bits, outlives a worker, and computes only what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prune_tool.errors import BadImageError, UsageError
from prune_tool.pipeline.engines import ray as engine
from prune_tool.pipeline.extract import extract
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Request
from tests.support import Killing, Refusing

N_IMAGES = 40


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two cores; started here, so that no cluster of the machine is used."""
    ray = engine.require_ray()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
        yield
        ray.shutdown()


@pytest.fixture
def on_ray(
    request_: Request, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: None
) -> Workspace:
    """An empty cache over the same backbone and images."""
    monkeypatch.setattr("prune_tool.defaults.SHARD_SIZE", 8)
    monkeypatch.setattr("prune_tool.pipeline.engines.choose._fastest", lambda *_: (1.0, 1.0))
    monkeypatch.setenv("PRUNE_TOOL_CACHE", str(tmp_path))
    made = Workspace(replace(request_, engine="ray"))
    made.__dict__.update({part: getattr(workspace, part) for part in ("source", "native", "splits")})
    return made


def test_a_cluster_computes_the_same_bits_though_a_worker_dies(on_ray: Workspace, tmp_path: Path) -> None:
    rows = on_ray.splits.train[:N_IMAGES]
    names = [tap.name for tap in on_ray.native.taps]
    source = on_ray.source
    marker = tmp_path / "killed"
    on_ray.__dict__["source"] = Killing(source, at=int(rows[20]), marker=marker)
    [entry] = extract(on_ray, [on_ray.native], rows)
    assert marker.exists()
    found = entry.read(names)
    folder = entry.folder
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert len(stamps) == 5
    lost = entry._file(1)
    lost.unlink()
    on_ray.__dict__["source"] = Refusing(source, allowed={int(row) for row in rows[8:16]})
    [resumed] = extract(on_ray, [on_ray.native], rows)
    now = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert [name for name in stamps if now[name] != stamps[name]] == [lost.name]
    local = Workspace(replace(on_ray.request, engine="local"))
    local.__dict__.update({"source": source, "native": on_ray.native})
    for path in folder.glob("*.safetensors"):
        path.unlink()
    [alone] = extract(local, [local.native], rows)
    assert alone.folder == resumed.folder
    for name, expected in alone.read(names).items():
        np.testing.assert_array_equal(found[name], expected)


def test_a_broken_image_arrives_as_itself(on_ray: Workspace) -> None:
    rows = on_ray.splits.val[:16]
    on_ray.__dict__["source"] = Refusing(on_ray.source, allowed={int(row) for row in rows[:12]})
    with pytest.raises(BadImageError, match="refused"):
        extract(on_ray, [on_ray.native], rows)


def test_without_ray_the_error_names_what_to_install(
    request_: Request, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    without = Workspace(replace(request_, engine="ray"))
    with pytest.raises(UsageError, match=r"pip install 'prune-tool\[ray\]'"):
        extract(without, [workspace.native], workspace.splits.val)
