"""How long a network takes up to a cut, measured on the network truncated there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx.utils import Extractor

from prune_tool.deploy.bench import Conditions, bench
from prune_tool.records import Target

SECONDS = 0.5
"""Timing per cut, beside the full network: enough for 2 % on a quiet machine (``bench`` does 20 rounds at least)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A network truncated behind some of its outputs.

    Attributes:
        graph: ONNX file of the whole network.
        outputs: names of those that are read.
    """

    graph: Path
    outputs: tuple[str, ...]


def time_cuts(
    full: Cut, cuts: Sequence[Cut], target: Target, advance: Callable[[int], None]
) -> tuple[float, list[float]]:
    """Latency of each cut, timed turn by turn with the full network so that a machine's moods hit both.

    Args:
        full: what each is timed beside.
        cuts: networks to time.
        target: provider, batch size and threads.
        advance: called with 1 after each cut.

    Returns:
        Median milliseconds a call of the full network, and of each cut: those of the full one over the median ratio.

    Raises:
        ProviderError: the target's provider is absent.
    """
    full_ms, ratios = [], []
    conditions = Conditions(
        provider=target.provider,
        batch_sizes=(target.batch_size,),
        threads=(target.n_threads,),
        seconds=SECONDS,
    )
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder, "full.onnx"), Path(folder, "cut.onnx")
        _truncate(full, whole)
        for cut in cuts:
            _truncate(cut, part)
            timed = bench({"full": whole, "cut": part}, conditions)
            full_ms.append(timed.timings[0].p50_ms)
            ratios.append(timed.timings[1].speedup.median)
            advance(1)
    reference = sorted(full_ms)[len(full_ms) // 2]
    return reference, [reference / ratio for ratio in ratios]


def _truncate(cut: Cut, path: Path) -> None:
    """Write the part of the network that the outputs need, without the weights of the rest."""
    model = onnx.load(cut.graph)
    inputs = [entry.name for entry in model.graph.input]
    onnx.save(Extractor(model).extract_model(inputs, list(cut.outputs)), path)
