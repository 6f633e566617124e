"""``bench``: how much faster the file that ships is, against the full backbone, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

from prune_tool.deploy.bench import BenchResult
from prune_tool.deploy.bench import bench as time_files
from prune_tool.errors import RunError
from prune_tool.store.atomic import write_json
from prune_tool.store.layout import RunFolder

FULL, KEPT = "full", "kept"
"""Names of the two contenders in every table."""


def bench(
    run: RunFolder,
    *,
    provider: str = "cpu",
    batch_sizes: Sequence[int] = (1, 16),
    n_threads: int | None = None,
    seconds: float = 5.0,
) -> BenchResult:
    """Time the two files of an exported run, interleaved, and write ``bench.json``.

    Args:
        run: with ``model.onnx`` and ``full.onnx``.
        provider: ``cpu``, ``cuda`` or ``tensorrt``.
        batch_sizes: images per call.
        n_threads: within an operator; ``None`` leaves it to ONNX Runtime.
        seconds: of timing per batch size.

    Raises:
        RunError: the run has not been exported.
        ProviderError: the provider is not there.
    """
    for path in (run.full, run.model):
        if not path.is_file():
            raise RunError(
                asked=f"bench the run {run.path}",
                found=f"it has no {path.name}",
                remedy="Run `prune-tool export` first",
            )
    result = time_files(
        {FULL: run.full, KEPT: run.model},
        provider=provider,
        batch_sizes=batch_sizes,
        n_threads=n_threads,
        seconds=seconds,
    )
    write_json(run.bench, result)
    return result
