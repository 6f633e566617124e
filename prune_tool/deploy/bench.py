"""How fast files run beside each other: one process, turn by turn in random order, so that drift hits all alike."""

import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from prune_tool.defaults import SEED
from prune_tool.deploy.session import open_session
from prune_tool.errors import RunError, UsageError

Latencies = NDArray[np.float64]

N_WARMUP_TURNS = 3
"""Turns of each contender that nobody counts: memory is allocated, kernels are chosen, the clock rises."""

N_CALLS = 3
"""Timed calls a turn. An untimed one goes before them: it refills the caches that the contender before emptied and
outlasts that one's threads, which keep spinning for about a millisecond."""

MIN_ROUNDS, MAX_ROUNDS = 20, 2_000
"""Rounds at each batch size: fewer give no interval worth its name, more no narrower one that matters."""

N_RESAMPLES = 1_000
"""Bootstrap resamples: the ends of a 95 % interval then rest on 25 each."""

ELEMENT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
"""Input types that files of images have."""

MEMORY = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "cuda"}
"""Where a provider's inputs and outputs live while it is timed: copies to and from the device are not the network's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What latencies depend on besides the file. ``n_threads`` None: ONNX Runtime chose, one a physical core."""

    cpu: str
    n_cores: int
    os: str
    python: str
    onnxruntime: str
    provider: str
    n_threads: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A median and its 95 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One contender at one batch size.

    Attributes:
        contender: its name.
        batch_size: images a call.
        n_calls: calls timed.
        p50_ms: latency of a call that half of them stay below; likewise ``p90_ms`` and ``p99_ms``.
        images_per_s: images over the time that all timed calls took.
        speedup: how many times faster than the first contender, as the median over rounds of the ratio within the
            round, with a moving-block bootstrap percentile interval.
    """

    contender: str
    batch_size: int
    n_calls: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    images_per_s: float
    speedup: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A file that was timed. ``input_shape`` is that of one image, as the file itself states it."""

    name: str
    file_bytes: int
    input_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """Timings of all contenders, the first being what the others are compared with."""

    environment: Environment
    contenders: tuple[Contender, ...]
    timings: tuple[Timing, ...]


def bench(
    contenders: Mapping[str, Path],
    *,
    provider: str = "cpu",
    batch_sizes: Sequence[int] = (1,),
    n_threads: int | None = None,
    seconds: float = 10.0,
    seed: int = SEED,
) -> BenchResult:
    """Time ONNX files against each other on random images of the size each file asks for.

    Args:
        contenders: name to file; the first is what the others are compared with.
        provider: "cpu", "cuda" or "tensorrt".
        batch_sizes: images a call, each timed on its own.
        n_threads: threads within an operator; None leaves it to ONNX Runtime.
        seconds: time for all contenders together at each batch size, at least ``MIN_ROUNDS`` rounds.
        seed: of the order, the images and the bootstrap.

    Raises:
        UsageError: no contenders, or a batch without images.
        ProviderError: the provider is absent.
        RunError: a file cannot be opened, or leaves more than its batch axis open.
    """
    if not contenders or not batch_sizes or min(batch_sizes) < 1:
        raise UsageError(
            asked=f"a benchmark of {len(contenders)} files at batch sizes {list(batch_sizes)}",
            found="nothing to time",
            remedy="Give at least one file and batch sizes from 1",
        )
    rng = np.random.default_rng(seed)
    sessions = {name: open_session(path, provider=provider, n_threads=n_threads) for name, path in contenders.items()}
    timings: list[Timing] = []
    for batch_size in batch_sizes:
        calls = {
            name: partial(_run_bound, session, _bind(session, batch_size, provider, rng))
            for name, session in sessions.items()
        }
        latencies = interleave(calls, seconds=seconds, rng=rng)
        reference = next(iter(latencies.values()))
        timings += [_timing(name, batch_size, times, reference, rng) for name, times in latencies.items()]
    return BenchResult(
        environment=_environment(provider, n_threads),
        contenders=tuple(
            Contender(name=name, file_bytes=path.stat().st_size, input_shape=_image_shape(sessions[name]))
            for name, path in contenders.items()
        ),
        timings=tuple(timings),
    )


def interleave(
    calls: Mapping[str, Callable[[], object]], *, seconds: float, rng: np.random.Generator
) -> dict[str, Latencies]:
    """Time callables round by round, each once a round in random order.

    Returns:
        For each name, (n_rounds, N_CALLS) float64 latencies in milliseconds.
    """
    names = list(calls)
    started = time.perf_counter()
    for _ in range(N_WARMUP_TURNS):
        for call in calls.values():
            _turn(call)
    a_round = (time.perf_counter() - started) / N_WARMUP_TURNS
    n_rounds = int(min(max(seconds / a_round, MIN_ROUNDS), MAX_ROUNDS))
    latencies = np.empty((len(names), n_rounds, N_CALLS))
    for i in range(n_rounds):
        for contender in rng.permutation(len(names)):
            latencies[contender, i] = _turn(calls[names[contender]])
    return dict(zip(names, latencies, strict=True))


def paired_speedup(reference: Latencies, times: Latencies, rng: np.random.Generator) -> Interval:
    """How many times faster ``times`` is than ``reference``, both (n_rounds, n_calls), round by round.

    The interval is the percentile one of a moving-block bootstrap (Kuensch, Ann. Stat. 1989) with blocks of
    ``n_rounds ** (1/3)`` rounds, because neighbouring rounds share their disturbances.
    """
    ratios = reference.mean(axis=1) / times.mean(axis=1)
    n = len(ratios)
    length = math.ceil(n ** (1 / 3))
    starts = rng.integers(0, n - length + 1, size=(N_RESAMPLES, math.ceil(n / length)))
    rounds = (starts[:, :, None] + np.arange(length)).reshape(N_RESAMPLES, -1)[:, :n]
    low, high = np.percentile(np.median(ratios[rounds], axis=1), [2.5, 97.5])
    return Interval(median=float(np.median(ratios)), low=float(low), high=float(high))


def _turn(call: Callable[[], object]) -> list[float]:
    """Latencies in milliseconds of ``N_CALLS`` calls, after one that is not timed."""
    call()
    times = []
    for _ in range(N_CALLS):
        started = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - started) / 1e6)
    return times


def _timing(name: str, batch_size: int, times: Latencies, reference: Latencies, rng: np.random.Generator) -> Timing:
    p50, p90, p99 = np.percentile(times, [50, 90, 99]).tolist()
    return Timing(
        contender=name,
        batch_size=batch_size,
        n_calls=times.size,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        images_per_s=1000 * batch_size / float(times.mean()),
        speedup=paired_speedup(reference, times, rng),
    )


def _bind(session: ort.InferenceSession, batch_size: int, provider: str, rng: np.random.Generator) -> ort.IOBinding:
    """Bind one random batch and the outputs to the provider's own memory."""
    entry = session.get_inputs()[0]
    shape, dtype = (batch_size, *_image_shape(session)), ELEMENT_TYPES[entry.type]
    batch = rng.integers(0, 256, size=shape) if dtype is np.uint8 else rng.standard_normal(shape)
    binding = session.io_binding()
    binding.bind_ortvalue_input(entry.name, ort.OrtValue.ortvalue_from_numpy(batch.astype(dtype), MEMORY[provider], 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, MEMORY[provider])
    return binding


def _run_bound(session: ort.InferenceSession, binding: ort.IOBinding) -> None:
    """One call on what is bound; returns when the outputs are there."""
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()


def _image_shape(session: ort.InferenceSession) -> tuple[int, ...]:
    """Shape of one image as the file states it; raises ``RunError`` unless only the batch axis is open."""
    entry = session.get_inputs()[0]
    if entry.type not in ELEMENT_TYPES or not all(isinstance(size, int) for size in entry.shape[1:]):
        raise RunError(
            asked="time an ONNX file",
            found=f"its input is {entry.type} {entry.shape}",
            remedy=f"Export it with a fixed image size and one of {', '.join(ELEMENT_TYPES)}",
        )
    return tuple(entry.shape[1:])


def _environment(provider: str, n_threads: int | None) -> Environment:
    return Environment(
        cpu=cpu_model(),
        n_cores=os.cpu_count() or 1,
        os=platform.platform(),
        python=platform.python_version(),
        onnxruntime=ort.__version__,
        provider=provider,
        n_threads=n_threads,
    )


def cpu_model() -> str:
    """The processor's name; Linux alone keeps it in a file, elsewhere Python knows it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
