"""Contenders take turns in random order, so that drift hits all alike, and are compared round by round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Latencies = NDArray[np.float64]
Turn = Callable[[], Sequence[float]]

N_WARMUP_TURNS = 3
"""Turns of each contender that nobody counts: memory is allocated, kernels are chosen, the clock rises."""

MIN_ROUNDS, MAX_ROUNDS = 20, 2_000
"""Rounds at each batch size: fewer give no interval worth its name, more no narrower one that matters."""

N_RESAMPLES = 1_000
"""Bootstrap resamples: the ends of a 95 % interval then rest on 25 each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A median and its 95 % interval."""

    median: float
    low: float
    high: float


def interleave(turns: Mapping[str, Turn], *, seconds: float, rng: np.random.Generator) -> dict[str, Latencies]:
    """Let contenders take turns, round by round, each once a round in random order.

    Args:
        turns: by name, what takes a turn and returns its latencies in milliseconds, always as many.
        seconds: for all rounds together, the warm-up not counted.
        rng: for the order.

    Returns:
        For each name, (n_rounds, n_calls) float64 latencies in milliseconds.
    """
    names = list(turns)
    started = time.perf_counter()
    for _ in range(N_WARMUP_TURNS):
        n_calls = [len(turn()) for turn in turns.values()]
    a_round = (time.perf_counter() - started) / N_WARMUP_TURNS
    n_rounds = int(min(max(seconds / a_round, MIN_ROUNDS), MAX_ROUNDS))
    latencies = np.empty((len(names), n_rounds, n_calls[0]))
    for i in range(n_rounds):
        for contender in rng.permutation(len(names)):
            latencies[contender, i] = turns[names[contender]]()
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
