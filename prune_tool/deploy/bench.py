"""How fast files run beside each other, how they start, and what they need."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime as ort

from prune_tool.defaults import SEED
from prune_tool.deploy.bound import BoundFile, take_turn
from prune_tool.deploy.hardware import Hardware, read_hardware, throttle_events
from prune_tool.deploy.interleaving import Interval, Latencies, Turn, interleave, paired_speedup
from prune_tool.deploy.isolated import Isolated
from prune_tool.deploy.worker import Order, Start
from prune_tool.errors import UsageError

MIN_CALLS_P999 = 1_000
"""Calls below which one in a thousand has not been seen, and p99.9 is not stated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What files are timed under.

    Attributes:
        provider: "cpu", "cuda" or "tensorrt".
        batch_sizes: images a call, each timed on its own.
        threads: threads within an operator, each timed on its own; None leaves it to ONNX Runtime (one a core).
        seconds: time for all contenders together at each batch size and number of threads, ``MIN_ROUNDS`` at least.
        image_size: height and width in pixels for files that leave them open; None for the size that their metadata
            state.
        isolated: one process for each contender, which take turns, instead of one for all.
        n_starts: fresh processes for each contender, for cold start and peak memory; 0 leaves them out.
        seed: of the order, the images and the bootstrap.
    """

    provider: str = "cpu"
    batch_sizes: tuple[int, ...] = (1,)
    threads: tuple[int | None, ...] = (None,)
    seconds: float = 5.0
    image_size: int | None = None
    isolated: bool = False
    n_starts: int = 0
    seed: int = SEED


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What latencies depend on besides files and conditions.

    ``n_throttle_events`` counts how often a core was slowed down for heat meanwhile; None where nothing says.
    """

    hardware: Hardware
    n_throttle_events: int | None
    os: str
    python: str
    onnxruntime: str
    prune_tool: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One contender at one batch size and number of threads.

    Attributes:
        contender: its name.
        batch_size: images a call.
        n_threads: as in ``Conditions.threads``.
        n_calls: calls timed.
        p50_ms: latency of a call that half of them stay below; likewise ``p90_ms``, ``p99_ms`` and ``p999_ms`` (99.9 %;
            None for fewer than ``MIN_CALLS_P999`` calls).
        images_per_s: images over the time that all timed calls took.
        speedup: how many times faster than the first contender, as the median over rounds of the ratio within the
            round, with a moving-block bootstrap percentile interval.
    """

    contender: str
    batch_size: int
    n_threads: int | None
    n_calls: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float | None
    images_per_s: float
    speedup: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A file that was timed.

    Attributes:
        name: in the tables.
        file_bytes: its size.
        input_type, input_shape: of one image, as it was timed.
        macs, n_params: as the file's own metadata state them; None where they do not.
        cold_start_ms: creating the session and the first call in a fresh process, libraries loaded and the file in the
            system's cache: median of ``Conditions.n_starts``, at the first batch size and number of threads.
        peak_bytes: most resident memory of those processes, interpreter and libraries included.
    """

    name: str
    file_bytes: int
    input_type: str
    input_shape: tuple[int, ...]
    macs: int | None
    n_params: int | None
    cold_start_ms: float | None
    peak_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """Timings of all contenders, the first being what the others are compared with."""

    conditions: Conditions
    environment: Environment
    contenders: tuple[Contender, ...]
    timings: tuple[Timing, ...]


def bench(contenders: Mapping[str, Path], conditions: Conditions | None = None) -> BenchResult:
    """Time ONNX files against each other on random images of the size each file asks for.

    Args:
        contenders: name to file; the first is what the others are compared with.
        conditions: what to time them under.

    Raises:
        UsageError: no contenders, or a batch without images.
        ProviderError: the provider is absent.
        RunError: a file cannot be opened, is no file of images, or leaves their size open.
    """
    under = conditions or Conditions()
    if not contenders or not under.batch_sizes or not under.threads or min(under.batch_sizes) < 1:
        raise UsageError(
            asked=f"a benchmark of {len(contenders)} files at batch sizes {list(under.batch_sizes)}",
            found="nothing to time",
            remedy="Give at least one file and batch sizes from 1",
        )
    hardware, events = read_hardware(), throttle_events()
    files = _open(contenders, under, under.threads[0])
    described = _describe(files, under)
    rng = np.random.default_rng(under.seed)
    timings: list[Timing] = []
    for n_threads in under.threads:
        if n_threads != under.threads[0] and not under.isolated:
            files = _open(contenders, under, n_threads)
        for batch_size in under.batch_sizes:
            with _turns(files, under, n_threads, batch_size) as turns:
                latencies = interleave(turns, seconds=under.seconds, rng=rng)
            reference = next(iter(latencies.values()))
            timings += [
                _timing(name, batch_size, n_threads, times, paired_speedup(reference, times, rng))
                for name, times in latencies.items()
            ]
    return BenchResult(
        conditions=under,
        environment=_environment(hardware, events),
        contenders=described,
        timings=tuple(timings),
    )


def measure_starts(orders: Mapping[str, Order], n_starts: int) -> dict[str, list[Start]]:
    """How each file starts in ``n_starts`` fresh processes; contenders take turns here too."""
    starts: dict[str, list[Start]] = {name: [] for name in orders}
    for _ in range(n_starts):
        for name, order in orders.items():
            with Isolated(order) as worker:
                starts[name].append(worker.start)
    return starts


def _open(contenders: Mapping[str, Path], under: Conditions, n_threads: int | None) -> dict[str, BoundFile]:
    """Open each file once for all batch sizes: some providers compile it then, which takes minutes."""
    return {
        name: BoundFile(path, provider=under.provider, n_threads=n_threads, image_size=under.image_size)
        for name, path in contenders.items()
    }


def _describe(files: Mapping[str, BoundFile], under: Conditions) -> tuple[Contender, ...]:
    """What each file is; binds it at every batch size, so that what cannot be timed is known before anything is."""
    rng = np.random.default_rng(under.seed)
    for file in files.values():
        for batch_size in under.batch_sizes:
            file.bind(batch_size, rng)
    orders = {name: _order(file.path, under, under.threads[0], under.batch_sizes[0]) for name, file in files.items()}
    starts = measure_starts(orders, under.n_starts)
    return tuple(
        Contender(
            name=name,
            file_bytes=file.path.stat().st_size,
            input_type=file.input_type,
            input_shape=file.image_shape,
            macs=file.said_number("macs"),
            n_params=file.said_number("n_params"),
            cold_start_ms=float(np.median([s.cold_start_ms for s in starts[name]])) if starts[name] else None,
            peak_bytes=max((s.peak_bytes for s in starts[name] if s.peak_bytes is not None), default=None),
        )
        for name, file in files.items()
    )


@contextmanager
def _turns(
    files: Mapping[str, BoundFile], under: Conditions, n_threads: int | None, batch_size: int
) -> Iterator[dict[str, Turn]]:
    """What takes a turn for each contender: here, or in a process of its own."""
    turns: dict[str, Turn] = {}
    rng = np.random.default_rng(under.seed)
    with ExitStack() as workers:
        for name, file in files.items():
            if under.isolated:
                order = _order(file.path, under, n_threads, batch_size)
                turns[name] = workers.enter_context(Isolated(order)).turn
            else:
                turns[name] = partial(take_turn, partial(file.run, file.bind(batch_size, rng)))
        yield turns


def _order(path: Path, under: Conditions, n_threads: int | None, batch_size: int) -> Order:
    return Order(
        path=str(path),
        provider=under.provider,
        n_threads=n_threads,
        image_size=under.image_size,
        batch_size=batch_size,
        seed=under.seed,
    )


def _timing(name: str, batch_size: int, n_threads: int | None, times: Latencies, speedup: Interval) -> Timing:
    p50, p90, p99, p999 = np.percentile(times, [50, 90, 99, 99.9]).tolist()
    return Timing(
        contender=name,
        batch_size=batch_size,
        n_threads=n_threads,
        n_calls=times.size,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        p999_ms=p999 if times.size >= MIN_CALLS_P999 else None,
        images_per_s=1000 * batch_size / float(times.mean()),
        speedup=speedup,
    )


def _environment(hardware: Hardware, events_before: int | None) -> Environment:
    events = throttle_events()
    return Environment(
        hardware=hardware,
        n_throttle_events=None if events is None or events_before is None else events - events_before,
        os=platform.platform(),
        python=platform.python_version(),
        onnxruntime=ort.__version__,
        prune_tool=version("prune-tool"),
    )
