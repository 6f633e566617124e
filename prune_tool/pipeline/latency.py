"""Latency of the readings that could ship, measured once a machine and remembered."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import onnxruntime as ort

from prune_tool.deploy.bench import cpu_model
from prune_tool.deploy.cuts import Cut, time_cuts
from prune_tool.errors import RunError
from prune_tool.pipeline.extract import graph_of
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Reading, TimedReadings
from prune_tool.store.atomic import read_json, write_json
from prune_tool.store.fingerprint import fingerprint
from prune_tool.surgery.taps import HEAD


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remembered:
    full_ms: float
    reading_ms: tuple[float, ...]


def time_readings(workspace: Workspace, readings: Sequence[Reading]) -> TimedReadings:
    """Time the network that ends at each reading's cut, all of its neurons read, beside the full backbone.

    The same readings on the same machine keep the latencies that they were first given, so that a choice repeats.

    Args:
        workspace: of the request, whose ``target`` says what is timed on.
        readings: what to time.
    """
    target = workspace.request.target
    native = workspace.native
    full = Cut(graph=graph_of(workspace, native), outputs=(HEAD,))
    cuts = [Cut(graph=graph_of(workspace, workspace.subject(r.input_size)), outputs=r.taps) for r in readings]
    path = workspace.cache.latencies(_key(workspace, readings))
    found = _recall(path, len(cuts))
    if found is None:
        with workspace.progress.stage(f"timing {len(cuts)} cuts on {target.provider}", len(cuts)) as advance:
            full_ms, reading_ms = time_cuts(full, cuts, target, advance)
        found = _Remembered(full_ms=full_ms, reading_ms=tuple(reading_ms))
        write_json(path, found)
    return TimedReadings(target=target, cpu=cpu_model(), full_ms=found.full_ms, reading_ms=found.reading_ms)


def _key(workspace: Workspace, readings: Sequence[Reading]) -> str:
    """Changes with the machine, the runtime, the target and the networks."""
    prints = [workspace.subject(reading.input_size).fingerprint for reading in readings]
    names = [str(reading.taps) for reading in readings]
    target = repr(sorted(asdict(workspace.request.target).items()))
    return fingerprint("latency-1", cpu_model(), ort.__version__, target, workspace.native.fingerprint, prints, names)


def _recall(path: Path, n_readings: int) -> _Remembered | None:
    """What was measured before; None where nothing was, or it cannot be read."""
    if not path.exists():
        return None
    with suppress(RunError, KeyError, TypeError, ValueError):
        value = read_json(path)
        times = tuple(float(ms) for ms in value["reading_ms"])
        if len(times) == n_readings:
            return _Remembered(full_ms=float(value["full_ms"]), reading_ms=times)
    return None
