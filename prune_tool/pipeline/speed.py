"""Is a file of fewer bits any faster here? A short look; ``bench`` measures properly."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from prune_tool import defaults
from prune_tool.deploy.bound import take_turn
from prune_tool.deploy.interleaving import Interval, interleave, paired_speedup
from prune_tool.deploy.session import open_session
from prune_tool.records import Candidate, Precision, Target

SECONDS = 2.0
"""Of timing: enough to tell slower from faster, where the interval does not contain 1."""


def speedup(float32: Path, other: Path, input_size: int, target: Target) -> Interval:
    """How many times faster ``other`` is on a target, both taking float32 (batch, 3, input_size, input_size)."""
    rng = np.random.default_rng(defaults.SEED)
    images = rng.random((target.batch_size, 3, input_size, input_size), dtype=np.float32)
    turns = {}
    for path in (float32, other):
        session = open_session(path, provider=target.provider, n_threads=target.n_threads)
        call = partial(session.run, None, {session.get_inputs()[0].name: images})
        turns[path.name] = partial(take_turn, call)
    latencies = interleave(turns, seconds=SECONDS, rng=rng)
    return paired_speedup(latencies[float32.name], latencies[other.name], rng)


def priced(candidate: Candidate, n_bytes: int, faster: Interval | None) -> Candidate:
    """A candidate with what its file costs. Where that is not surely faster or slower, its latency is float32's.

    Args:
        candidate: of a run; in float32.
        n_bytes: of its file.
        faster: from ``speedup``; None where latency is not what counts.
    """
    candidate = replace(candidate, n_bytes=n_bytes)
    if candidate.latency_ms is None or faster is None or faster.low <= 1 <= faster.high:
        return candidate
    return replace(candidate, latency_ms=candidate.latency_ms / faster.median)


def warning(precision: Precision, found: Interval, target: Target) -> str | None:
    """What to tell who asked for fewer bits and got a slower file."""
    if found.high >= 1:
        return None
    return (
        f"{precision} is slower than fp32 on this machine: {found.median:.2f} times as fast at batch"
        f" {target.batch_size} (95 %: {found.low:.2f}-{found.high:.2f}); --precision fp32 is the faster file here"
    )
