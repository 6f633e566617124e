"""Shards computed on the devices of this machine: a lane a device, each taking the next shard when it has room."""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import torch

from prune_tool.pipeline.engines.lane import compute
from prune_tool.pipeline.engines.plan import Plan, Shard, Shards
from prune_tool.pipeline.engines.runners import Runner, exact_products, open_runner

WORTH_PROCESSES = 4096
"""Images from which worker processes are started unasked: they take as long to start as threads to decode so many."""

FEW_CORES = 8
"""Cores whose networks threads can feed: EfficientNet-Lite0, a fast one, runs at some 80 images a second and core."""

POLL_S = 0.1
"""Seconds after which a lane that waits for room looks whether it shall stop."""


def devices_of(device: str) -> tuple[str, ...]:
    """The devices that ``--device`` means: ``cuda`` is every GPU that PyTorch sees, ``cuda:1`` that one."""
    if device == "cuda":
        return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
    return (device,)


def n_workers_for(asked: int | None, device: str, n_images: int, n_cores: int, n_lanes: int) -> int:
    """Worker processes that decode for one device.

    Threads of one process decode some 600 images a second, held up by Python's lock. Few cores run no network faster
    than that, and threads share them at no cost; there, processes gain nothing. A GPU takes thousands, so every core
    gets a process; many cores take more than threads deliver, and decoding is about a quarter of their work.

    Args:
        asked: by the user, for all devices together; ``None`` for this rule.
        device: that images are decoded for.
        n_images: to decode.
        n_cores: that may be used.
        n_lanes: devices that share them.
    """
    if asked is None and n_images >= WORTH_PROCESSES:
        asked = n_cores if device.startswith("cuda") else n_cores // 4 if n_cores > FEW_CORES else 0
    return math.ceil((asked or 0) / n_lanes)


def compute_here(
    plan: Plan, devices: Sequence[str], *, n_threads: int, n_workers: int, advance: Callable[[int], None]
) -> Shards:
    """Compute the plan's shards on several devices at once.

    Args:
        plan: the work.
        devices: for example ``cuda:0`` and ``cuda:1``.
        n_threads: cores that each device's lane may use.
        n_workers: processes that decode for each device.
        advance: told how many images are done, from any thread.

    Yields:
        Shards, in the order in which they are done. Whoever takes them may be slow: lanes wait for room.

    Raises:
        PruneToolError: as ``lane.compute``; the first error of any lane ends them all.
    """
    table = _Table(plan.shards, room=len(devices))

    def lane(device: str, runners: Mapping[int, Runner]) -> None:
        made = compute(
            plan, runners, device, table.deal(), n_threads=n_threads, n_workers=n_workers, advance=advance
        )  # fmt: skip
        with table.ending(), closing(made):
            for shard in made:
                table.put(shard)

    with exact_products():
        opened = [{i: open_runner(n, device, amp=plan.amp) for i, n in plan.networks.items()} for device in devices]
        lanes = [threading.Thread(target=lane, args=pair, name=pair[0]) for pair in zip(devices, opened, strict=True)]
        for thread in lanes:
            thread.start()
        try:
            yield from table.taken(len(lanes))
        finally:
            table.stop.set()
            for thread in lanes:
                thread.join()


@dataclass(frozen=True, slots=True)
class _Ended:
    """What a lane says last."""

    error: BaseException | None = None


class _Stopped(Exception):  # noqa: N818 - nothing went wrong
    """Nobody takes results any more."""


class _Table:
    """Deals the numbers of shards to lanes and takes their results, with room for a few."""

    def __init__(self, shards: Sequence[int], room: int) -> None:
        self.stop = threading.Event()
        self._todo, self._lock = deque(shards), threading.Lock()
        self._results: queue.Queue[Shard | _Ended] = queue.Queue(maxsize=room)

    def deal(self) -> Iterator[int]:
        """The next shards that nobody has; for one lane."""
        while not self.stop.is_set():
            with self._lock:
                if not self._todo:
                    return
                shard = self._todo.popleft()
            yield shard

    def put(self, result: Shard | _Ended) -> None:
        """Hand a result over as soon as there is room. Raises ``_Stopped``."""
        while not self.stop.is_set():
            with suppress(queue.Full):
                self._results.put(result, timeout=POLL_S)
                return
        raise _Stopped

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Say how a lane ended."""
        with suppress(_Stopped):
            try:
                yield
            except _Stopped:
                return
            except BaseException as error:  # noqa: BLE001 - ``taken`` raises it
                self.put(_Ended(error))
            else:
                self.put(_Ended())

    def taken(self, n_lanes: int) -> Shards:
        """Results until every lane has ended. Raises what a lane raised."""
        while n_lanes:
            result = self._results.get()
            if not isinstance(result, _Ended):
                yield result
            elif result.error is not None:
                raise result.error
            else:
                n_lanes -= 1
