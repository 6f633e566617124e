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

MIN_ROUNDS, MAX_ROUNDS = 30, 2_000
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

    The interval is the wider, at either end, of two for the median. One is exact for independent rounds, whatever
    their distribution: it ends at order statistics (Hahn & Meeker, "Statistical Intervals", 1991, section 5.2). The
    other allows for neighbouring rounds that share their disturbances: the percentile interval of a moving-block
    bootstrap (Kuensch, Ann. Stat. 1989), blocks of ``n_rounds ** (1/3)`` rounds; by itself it is too narrow for few
    rounds (89 % in place of 95 % for 20).
    """
    ratios = reference.mean(axis=1) / times.mean(axis=1)
    n = len(ratios)
    length = math.ceil(n ** (1 / 3))
    starts = rng.integers(0, n - length + 1, size=(N_RESAMPLES, math.ceil(n / length)))
    rounds = (starts[:, :, None] + np.arange(length)).reshape(N_RESAMPLES, -1)[:, :n]
    low, high = np.percentile(np.median(ratios[rounds], axis=1), [2.5, 97.5])
    ascending, rank = np.sort(ratios), _rank(n)
    return Interval(
        median=float(np.median(ratios)),
        low=float(min(low, ascending[rank])),
        high=float(max(high, ascending[n - 1 - rank])),
    )


def _rank(n: int) -> int:
    """Rank (from 0) of the order statistic below which the median of ``n`` lies with a chance of 2.5 % at most."""
    below, rank = 1, 0  # of 2**n equally likely outcomes, those with at most ``rank`` values below the median
    while below + math.comb(n, rank + 1) <= 2**n // 40:
        rank += 1
        below += math.comb(n, rank)
    return rank
