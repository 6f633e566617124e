"""The loop of every benchmark over pairs: what is on file, measured anew where asked for, written after each."""

import argparse
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import _record
from _pairs import PAIRS, Pair

from prune_tool.cli.console import watching
from prune_tool.deploy.bench import Timing
from prune_tool.pipeline.progress import Progress


def measure_pairs(
    name: str,
    asked: argparse.Namespace,
    measure: Callable[[Pair, Progress], dict[str, Any]],
    packages: tuple[str, ...],
    known: tuple[Pair, ...] = PAIRS,
) -> dict[str, Any]:
    """Results by pair: those of ``NAME.json`` in ``asked.out``, with the pairs that ``asked.only`` names replaced.

    With ``asked.render`` nothing is measured.
    """
    pairs = _record.pairs_on_file(name, asked.out)
    for pair in known if not asked.render else ():
        if any(fnmatch(pair.name, pattern) for pattern in asked.only):
            with watching(quiet=False) as progress:
                measured = measure(pair, progress)
            pairs[pair.name] = {"machine": _record.machine(), **measured}
            _record.save(name, {"pairs": pairs}, packages, asked.out)
    return pairs


def speed(timing: Timing) -> dict[str, Any]:
    """What is recorded of a contender's latency at a batch size."""
    found = timing.speedup
    return {"p50_ms": timing.p50_ms, "speedup": [found.low, found.median, found.high]}
