"""From images to neurons: every tap at every asked input size, each image decoded once, kept in the cache.

Work is cut into shards of images. A shard on disk is whole or absent, so a killed run goes on where it stopped and an
interrupted one loses at most the shards in hand. Engines compute shards, wherever they like; only this process writes
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

import numpy as np
import torch
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.pipeline.engines import ray as ray_engine
from prune_tool.pipeline.engines.local import compute_here, devices_of, n_workers_for
from prune_tool.pipeline.engines.network import network_of
from prune_tool.pipeline.engines.plan import Plan, Shards
from prune_tool.pipeline.entries import device_of, open_entries, runtimes_of
from prune_tool.pipeline.subject import Subject
from prune_tool.pipeline.threads import n_threads
from prune_tool.pipeline.workspace import Workspace
from prune_tool.store.features import FeatureEntry


def extract(workspace: Workspace, subjects: Sequence[Subject], indices: NDArray[np.int64]) -> list[FeatureEntry]:
    """Neurons of every subject for the images at ``indices``, one complete cache entry a subject.

    Args:
        workspace: the images and the cache; its request names device, engine, workers and precision.
        subjects: input sizes to extract; images are decoded once for all of them.
        indices: (n,) positions in the source; row i of an entry is image ``indices[i]``.

    Raises:
        BadImageError: an image cannot be decoded.
        CacheError: the cache cannot be written.
        WorkerError: a worker process or a cluster failed.
        UsageError: ``--amp`` changes the neurons too much, or the engine is not installed.
    """
    device = device_of(workspace)
    runtimes = runtimes_of(workspace, subjects, indices)
    entries = open_entries(workspace, subjects, indices)
    if not any(entry.missing() for entry in entries):
        return entries
    with ExitStack() as locks:
        for entry in sorted(entries, key=lambda entry: entry.folder):  # one order for all, so that none waits for ever
            locks.enter_context(entry.locked())
        missing = {i: frozenset(found) for i, entry in enumerate(entries) if (found := entry.missing())}
        plan = Plan(
            source=workspace.source,
            rows=indices,
            shard_size=defaults.SHARD_SIZE,
            networks={i: network_of(workspace, subjects[i], runtimes[i]) for i in missing},
            missing=missing,
            batch_size=defaults.BATCH_SIZE[torch.device(device).type],
            amp=workspace.request.amp,
        )
        if missing:
            _fill(workspace, plan, entries, device)
    return entries


def _fill(workspace: Workspace, plan: Plan, entries: Sequence[FeatureEntry], device: str) -> None:
    """Write each missing shard as soon as an engine has computed it."""
    with (
        workspace.progress.stage("extracting features", plan.n_images, unit="images") as advance,
        closing(_computed(workspace, plan, device, advance)) as shards,
    ):
        for shard, neurons in shards:
            for i, arrays in neurons.items():
                entries[i].write(shard, arrays)


def _computed(workspace: Workspace, plan: Plan, device: str, advance: Callable[[int], None]) -> Shards:
    request = workspace.request
    if request.engine == "ray":
        return ray_engine.compute_on_cluster(plan, device, n_workers=request.workers, advance=advance)
    devices = devices_of(device)
    n_workers = n_workers_for(request.workers, device, plan.n_images, n_threads(), len(devices))
    n_each = max(1, n_threads() // len(devices))
    return compute_here(plan, devices, n_threads=n_each, n_workers=n_workers, advance=advance)
