"""Which runtime computes a backbone's features here: ONNX Runtime, unless a short trial shows PyTorch to be faster.

The runtime is part of the key that features are kept under, since the two round differently: an entry is of one
runtime, whoever computes or resumes it. The outcome of the trial is remembered in the cache by graph and processor, so
that timing decides once and not in every run.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prune_tool import defaults
from prune_tool.deploy.hardware import cpu_model
from prune_tool.pipeline.decode import Batch, Decoder
from prune_tool.pipeline.engines.network import RuntimeName, network_of
from prune_tool.pipeline.engines.runners import Runner, n_streams, open_runner
from prune_tool.pipeline.subject import Subject
from prune_tool.pipeline.threads import n_threads
from prune_tool.pipeline.workspace import Workspace
from prune_tool.store.atomic import as_json_text, read_json
from prune_tool.store.fingerprint import fingerprint

MARGIN = 1.1
"""How many times faster PyTorch must be: less may be chance, and ONNX Runtime is what runs the file that ships."""

N_TURNS = 3
"""Timed turns of each runtime, interleaved; the fastest counts, which other work on the machine disturbs least."""

CLEAR = 2.0
"""Where one runtime wins the first turn by this factor, no others are run."""


def choose_runtime(workspace: Workspace, subject: Subject, device: str, indices: NDArray[np.int64]) -> RuntimeName:
    """The runtime of a subject's features on a device.

    Args:
        workspace: of the images and the cache.
        subject: the backbone at one input size.
        device: ``cpu`` or ``cuda``, where PyTorch runs without a trial.
        indices: (n,) positions in the source; the first batch of them is what a trial runs on.

    Raises:
        BadImageError: an image of that batch cannot be decoded.
        CacheError: the cache cannot be written.
    """
    if device.startswith("cuda") or workspace.request.amp:
        return "pytorch"
    # by trunk and not by taps: other taps of the same trunk then find the neurons that are there
    kept = workspace.cache.runtime(fingerprint("runtime", subject.trunk_fingerprint, cpu_model()))
    if not kept.is_whole():
        with kept.locked():  # another process may be at the same trial
            if not kept.is_whole():
                known = _try_both(workspace, subject, indices)
                found = as_json_text({"runtime": known, "processor": cpu_model()})
                kept.write(lambda path: path.write_text(found, encoding="utf-8"), subject.about)
    return "pytorch" if read_json(kept.path)["runtime"] == "pytorch" else "onnxruntime"


def _try_both(workspace: Workspace, subject: Subject, indices: NDArray[np.int64]) -> RuntimeName:
    decoder = Decoder(workspace.source, {0: subject.backbone.preprocessing})
    pixels = decoder(Batch(rows=indices[: defaults.BATCH_SIZE["cpu"]], wanted=(0,)))[0]
    names: tuple[RuntimeName, RuntimeName] = ("onnxruntime", "pytorch")
    onnx, torch_ = (open_runner(network_of(workspace, subject, name), "cpu", amp=False) for name in names)
    with workspace.progress.stage(f"trying both runtimes at {subject.trunk}"):
        onnx_s, torch_s = _fastest(onnx, torch_, pixels)
    chosen: RuntimeName = "pytorch" if onnx_s > MARGIN * torch_s else "onnxruntime"
    workspace.progress.note(
        f"{subject.trunk}: ONNX Runtime {len(pixels) / onnx_s:,.0f} images/s, PyTorch "
        f"{len(pixels) / torch_s:,.0f}; chosen for this backbone on this processor: {chosen}"
    )
    return chosen


def _fastest(onnx: Runner, torch_: Runner, pixels: Tensor) -> tuple[float, float]:
    """Least seconds that each runtime takes for ``pixels`` (b, h, w, 3) with all cores."""
    streams = n_streams("cpu", n_threads())
    with ThreadPoolExecutor(streams) as pool:

        def run_onnx() -> None:
            list(pool.map(onnx, [[part] for part in pixels.chunk(streams)]))

        def run_torch() -> None:
            torch_([pixels])

        runs = (run_onnx, run_torch)
        for warm_up in runs:
            warm_up()
        seconds: tuple[list[float], list[float]] = ([], [])
        for turn in range(N_TURNS):
            for run, taken in zip(runs, seconds, strict=True):
                start = time.perf_counter()
                run()
                taken.append(time.perf_counter() - start)
            if turn == 0 and not 1 / CLEAR < seconds[0][0] / seconds[1][0] < CLEAR:
                break
    return min(seconds[0]), min(seconds[1])
