"""``bench``: how much faster the file that ships is, against the full backbone and other files, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prune_tool.deploy.bench import BenchResult, Conditions
from prune_tool.deploy.bench import bench as time_files
from prune_tool.errors import GateError
from prune_tool.pipeline.card import write_card
from prune_tool.store.atomic import write_json
from prune_tool.store.layout import RunFolder

FULL, KEPT, FULL_INT8 = "full", "kept", "full int8"
"""Names of a run's own files in every table."""

NOISE_MARGIN = 0.9
"""Share of a measured speed-up that is proposed as a gate: one that the next, noisier measurement should pass too."""

CONDITIONS = Conditions(batch_sizes=(1, 16), n_starts=3)
"""What ``bench`` times a run under where nothing else is asked for."""


def bench(run: RunFolder, conditions: Conditions = CONDITIONS, *, against: Sequence[Path] = ()) -> BenchResult:
    """Time the files of an exported run, interleaved, write ``bench.json`` and put it on the model card.

    Args:
        run: with ``model.onnx`` and ``full.onnx``; ``full-int8.onnx`` joins in where it is there.
        conditions: what to time them under.
        against: other ONNX files of images to stand in the same table, each by its name.

    Raises:
        RunError: the run has not been exported, or a file cannot be timed.
        ProviderError: the provider is not there.
    """
    run.require(run.full, run.model, asked=f"bench the run {run.path}")
    contenders = {FULL: run.full, KEPT: run.model}
    if run.full_int8.is_file():
        contenders[FULL_INT8] = run.full_int8
    for path in against:
        contenders[_free_name(path.stem, contenders)] = path
    result = time_files(contenders, conditions)
    write_json(run.bench, result)
    if run.certificate.is_file():
        write_card(run, result)
    return result


def require_fast_enough(result: BenchResult, least: float) -> None:
    """Hold the shipped file to a speed-up over the full backbone.

    Noise alone does not fail: the whole interval must lie below ``least``.

    Raises:
        GateError: it does, at some batch size and number of threads; the slowest is named.
    """
    slow = [t for t in result.timings if t.contender == KEPT and t.speedup.high < least]
    if slow:
        worst = min(slow, key=lambda timing: timing.speedup.median)
        speedup = worst.speedup
        threads = "all threads" if worst.n_threads is None else f"{worst.n_threads} threads"
        raise GateError(
            asked=f"--fail-if-slower {least:g}",
            found=f"at batch {worst.batch_size} on {threads} the file is {speedup.median:.2f} times as fast as the full"
            f" backbone (95 % interval {speedup.low:.2f} to {speedup.high:.2f})",
            remedy=f"Export with a larger --budget, or accept --fail-if-slower {NOISE_MARGIN * speedup.low:.2f}",
        )


def _free_name(name: str, taken: dict[str, Path]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free
