"""Shards computed on a Ray cluster: Ray Data maps them over actors, and this process gets the neurons back.

Actors hold the networks, one a GPU where the cluster has GPUs, else one for every few cores. Neurons come back through
Ray's object store, so that no machine but this one needs the cache; a shard is a few megabytes. Ray restarts an actor
that dies and gives its task to another. Every machine of the cluster needs this package and the images, at the same
path.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from prune_tool.errors import PruneToolError, UsageError, WorkerError
from prune_tool.pipeline.engines.lane import compute
from prune_tool.pipeline.engines.local import n_workers_for
from prune_tool.pipeline.engines.network import portable
from prune_tool.pipeline.engines.plan import Plan, Shards
from prune_tool.pipeline.engines.runners import Neurons, exact_products, open_runner

ACTOR_CORES = 4
"""Cores of an actor on a cluster without GPUs: enough to share a copy of the weights, few enough to place anywhere."""

TASKS_PER_ACTOR = 8
"""Tasks that each actor gets in all, where there is enough work: so many that actors end at about the same time."""

MAX_SHARDS_PER_TASK = 64
"""A task that dies is computed again; this bounds what is lost, and still hides what starting a task costs."""


def device_of_cluster() -> str:
    """``cuda`` where the cluster has a GPU, else ``cpu``. Raises ``UsageError`` where Ray is not installed."""
    return "cuda" if _connect().cluster_resources().get("GPU", 0) >= 1 else "cpu"


def compute_on_cluster(plan: Plan, device: str, *, n_workers: int | None, advance: Callable[[int], None]) -> Shards:
    """Compute the plan's shards on the cluster of ``RAY_ADDRESS``, on one that runs on this machine, or on a new one.

    Args:
        plan: the work.
        device: ``cpu`` or ``cuda``, what each actor computes on.
        n_workers: processes that decode for each actor; ``None`` for the rule of the local engine.
        advance: told how many images are done.

    Yields:
        Shards, in the order in which they are done.

    Raises:
        PruneToolError: what an actor raised.
        WorkerError: the cluster failed.
    """
    ray = _connect()
    n_actors, n_cores = _actors(ray, device)
    shards = plan.shards
    per_task = max(1, min(MAX_SHARDS_PER_TASK, len(shards) // (TASKS_PER_ACTOR * n_actors)))
    tasks = [{"shards": shards[i : i + per_task]} for i in range(0, len(shards), per_task)]
    sent = ray.put(replace(plan, networks={i: portable(n) for i, n in plan.networks.items()}))
    computed = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
        Actor,
        fn_constructor_kwargs={"plan": [sent], "device": device, "n_cores": n_cores, "n_workers": n_workers},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(n_actors, len(tasks))),
        num_cpus=n_cores,
        num_gpus=1 if device == "cuda" else 0,
    )
    try:
        for row in computed.iter_rows():
            shard = int(row["shard"])
            yield shard, _unpacked(row["neurons"])
            advance(len(plan.rows_of(shard)))
    except ray.exceptions.RayError as error:
        raise _cause(error) from error


class Actor:
    """Computes the shards of one task after another on one device. Ray makes it, on a machine of the cluster."""

    def __init__(self, *, plan: list[Any], device: str, n_cores: int, n_workers: int | None) -> None:
        import ray  # noqa: PLC0415 - an extra

        self._plan: Plan = ray.get(plan[0])
        self._device, self._n_cores = f"{device}:0" if device == "cuda" else device, n_cores
        self._n_workers = n_workers
        self._runners = {
            i: open_runner(network, self._device, amp=self._plan.amp) for i, network in self._plan.networks.items()
        }

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The shards of one task, each as soon as it is done."""
        shards = [int(shard) for shard in batch["shards"][0]]
        n_images = sum(len(self._plan.rows_of(shard)) for shard in shards)
        with exact_products():
            for shard, neurons in compute(
                self._plan,
                self._runners,
                self._device,
                shards,
                n_threads=self._n_cores,
                n_workers=n_workers_for(self._n_workers, self._device, n_images, self._n_cores, n_lanes=1),
            ):
                yield {"shard": np.array([shard]), "neurons": np.array([_packed(neurons)], dtype=object)}


def _packed(neurons: dict[int, Neurons]) -> bytes:
    """Neurons by network and tap as one string of bytes, which Ray moves without looking into it."""
    named = {f"{i}/{tap}": np.ascontiguousarray(array) for i, taps in neurons.items() for tap, array in taps.items()}
    return save(named)


def _unpacked(packed: bytes) -> dict[int, Neurons]:
    found: dict[int, Neurons] = {}
    for name, array in load(packed).items():
        number, _, tap = name.partition("/")
        found.setdefault(int(number), {})[tap] = array
    return found


def _actors(ray: Any, device: str) -> tuple[int, int]:
    """How many actors the cluster has room for, and the cores of each."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if device == "cuda":
        able = [node for node in nodes if node.get("GPU", 0) >= 1]
        n_cores = max(1, min(int(node.get("CPU", 1) // node["GPU"]) for node in able))
        return sum(int(node["GPU"]) for node in able), n_cores
    able = [node for node in nodes if node.get("CPU", 0) >= 1]
    n_cores = min(ACTOR_CORES, *(int(node["CPU"]) for node in able))
    return sum(int(node["CPU"]) // n_cores for node in able), n_cores


def _connect() -> Any:
    """Ray, connected as the caller left it, or from now until this process ends."""
    ray = require_ray()
    if ray.is_initialized():
        return ray
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise WorkerError(
            asked=f"--engine ray: connect to {os.environ.get('RAY_ADDRESS', 'a cluster or start one here')}",
            found=str(error).strip().splitlines()[0],
            remedy="Start one (ray start --head), or unset RAY_ADDRESS; --engine local needs none",
        ) from error
    return ray


def require_ray() -> Any:
    """Ray Data, quiet. Its settings are read when it is imported. Raises ``UsageError`` where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters arrives as an exception
    try:
        import ray  # noqa: PLC0415 - an extra
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            asked="--engine ray",
            found=f"Ray Data is not installed ({error})",
            remedy="Run: pip install 'prune-tool[ray]'",
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray's own, of defaults that it gives its own settings
        context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures arrive as exceptions
    return ray


def _cause(error: BaseException) -> PruneToolError:
    """What an actor raised, from under the errors that Ray wraps around it."""
    seen: BaseException | None = error
    while seen is not None:
        inner = getattr(seen, "cause", None)
        for candidate in (seen, inner):
            if isinstance(candidate, PruneToolError):
                return candidate
        seen = inner if isinstance(inner, BaseException) else seen.__cause__
    return WorkerError(
        asked="extract features on the Ray cluster",
        found=str(error).strip().splitlines()[-1],
        remedy="Run the same command again: it goes on where it stopped; --engine local needs no cluster",
    )
