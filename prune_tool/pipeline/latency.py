"""Latency of the readings that could ship, measured once a machine and remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime as ort

from prune_tool.deploy.cuts import Cut, time_cuts
from prune_tool.deploy.hardware import cpu_model
from prune_tool.errors import CacheError
from prune_tool.pipeline.engines.network import network_of
from prune_tool.pipeline.subject import Subject
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Reading, TimedReadings
from prune_tool.store.atomic import as_json_text, read_json
from prune_tool.store.fingerprint import fingerprint
from prune_tool.store.kept import KeptFile
from prune_tool.surgery.taps import HEAD


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
    cuts = [Cut(graph=graph_of(workspace, workspace.subject(r.trunk)), outputs=r.taps) for r in readings]
    kept = workspace.cache.latencies(_key(workspace, readings))
    found = read_json(kept.path) if kept.is_whole() else _measured(workspace, kept, full, cuts)
    return TimedReadings(
        target=target, cpu=cpu_model(), full_ms=found["full_ms"], reading_ms=tuple(found["reading_ms"])
    )


def _measured(workspace: Workspace, kept: KeptFile, full: Cut, cuts: Sequence[Cut]) -> Any:
    """Measure, and remember it."""
    with kept.locked():
        if kept.is_whole():  # another process has measured meanwhile
            return read_json(kept.path)
        target = workspace.request.target
        with workspace.progress.stage(f"timing cuts on {target.provider}", len(cuts)) as advance:
            full_ms, reading_ms = time_cuts(full, cuts, target, advance)
        found = {"full_ms": full_ms, "reading_ms": reading_ms}
        try:
            kept.write(lambda path: path.write_text(as_json_text(found), encoding="utf-8"), workspace.native.about)
        except CacheError as error:  # what was measured is not lost for that
            workspace.progress.note(f"latencies are not remembered: {error}")
        return found


def graph_of(workspace: Workspace, subject: Subject) -> Path:
    """The backbone with all its taps as an ONNX file, bytes in: the one that features are extracted with on a CPU."""
    form = network_of(workspace, subject, "onnxruntime").form
    assert isinstance(form, Path)
    return form


def _key(workspace: Workspace, readings: Sequence[Reading]) -> str:
    """Changes with the machine, the runtime, the target and the networks."""
    prints = [workspace.subject(reading.trunk).fingerprint for reading in readings]
    names = [str(reading.taps) for reading in readings]
    target = repr(sorted(asdict(workspace.request.target).items()))
    return fingerprint("latency-1", cpu_model(), ort.__version__, target, workspace.native.fingerprint, prints, names)
