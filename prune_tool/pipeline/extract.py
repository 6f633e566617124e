"""From images to neurons: every tap at every asked input size, each image decoded once, kept in the cache.

Work is cut into shards of images. A shard on disk is whole or absent, so a killed run goes on where it stopped and an
interrupted one loses at most the shard in hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.deploy.onnx_file import write_onnx
from prune_tool.deploy.session import open_session
from prune_tool.pipeline.decode import Batch, Images, decode
from prune_tool.pipeline.entries import open_entries
from prune_tool.pipeline.workspace import Subject, Workspace, n_threads
from prune_tool.store.features import FeatureEntry
from prune_tool.surgery.capture import export_program
from prune_tool.task.backbone import pixel_transform

Neurons = dict[str, NDArray[np.float32]]
"""Per tap, (n, width)."""


class Runner(Protocol):
    """Runs a backbone with all its taps."""

    def __call__(self, images: Images) -> Neurons:
        """See the class."""


def extract(workspace: Workspace, subjects: Sequence[Subject], indices: NDArray[np.int64]) -> list[FeatureEntry]:
    """Neurons of every subject for the images at ``indices``, one complete cache entry a subject.

    Args:
        workspace: the images and the cache.
        subjects: input sizes to extract; images are decoded once for all of them.
        indices: (n,) positions in the source; row i of an entry is image ``indices[i]``.

    Raises:
        BadImageError: an image cannot be decoded.
        CacheError: the cache cannot be written.
    """
    entries = open_entries(workspace, subjects, indices)
    if not any(entry.missing() for entry in entries):
        return entries
    with ExitStack() as locks:
        for entry in sorted(entries, key=lambda entry: entry.folder):  # one order for all, so that none waits for ever
            locks.enter_context(entry.locked())
        _fill(workspace, subjects, indices, entries)
    return entries


def _fill(
    workspace: Workspace, subjects: Sequence[Subject], indices: NDArray[np.int64], entries: Sequence[FeatureEntry]
) -> None:
    """Compute the shards that are missing and write each as soon as its last batch is through."""
    missing = [set(entry.missing()) for entry in entries]
    work = _work(indices, missing, defaults.BATCH_SIZE[workspace.request.device])
    runners = {i: open_runner(workspace, subjects[i]) for i, shards in enumerate(missing) if shards}
    transforms = {i: pixel_transform(subjects[i].backbone.preprocessing) for i in runners}
    parts: dict[int, list[Neurons]] = {i: [] for i in runners}
    with workspace.progress.stage("extracting features", sum(len(item.batch.rows) for item in work)) as advance:
        decoded = decode(workspace.source, [item.batch for item in work], transforms)
        for item, (batch, images) in zip(work, decoded, strict=True):
            for i in batch.wanted:
                parts[i].append(runners[i](images[i]))
            if item.is_last:
                for i in batch.wanted:
                    entries[i].write(item.shard, _joined(parts[i]))
                    parts[i].clear()
            advance(len(batch.rows))


@dataclass(frozen=True, slots=True)
class _Work:
    batch: Batch
    shard: int
    is_last: bool


def _work(indices: NDArray[np.int64], missing: Sequence[set[int]], batch_size: int) -> list[_Work]:
    """Batches that do not cross the edges of shards, for every shard that some subject lacks."""
    size = defaults.SHARD_SIZE
    work = []
    for shard in sorted(set().union(*missing)):
        wanted = tuple(i for i, shards in enumerate(missing) if shard in shards)
        rows = indices[shard * size : (shard + 1) * size]
        for start in range(0, len(rows), batch_size):
            batch = Batch(rows=rows[start : start + batch_size], wanted=wanted)
            work.append(_Work(batch, shard, start + batch_size >= len(rows)))
    return work


def _joined(parts: Sequence[Neurons]) -> Neurons:
    return {tap: np.concatenate([part[tap] for part in parts]) for tap in parts[0]}


def open_runner(workspace: Workspace, subject: Subject) -> Runner:
    """ONNX Runtime on the CPU, PyTorch on CUDA."""
    with workspace.progress.stage(f"compiling the backbone at {subject.input_size} px"):
        return _torch_runner(subject) if workspace.request.device == "cuda" else _onnx_runner(workspace, subject)


def graph_of(workspace: Workspace, subject: Subject) -> Path:
    """The backbone with all its taps as an ONNX file in the cache: ``images`` in, an output a tap."""
    names = tuple(tap.name for tap in subject.taps)

    def write(path: Path) -> None:
        write_onnx(export_program(subject.captured, subject.example), path, metadata={}, output_names=names)

    return workspace.cache.graph(subject.fingerprint).ensure(write, subject.about)


def _onnx_runner(workspace: Workspace, subject: Subject) -> Runner:
    names = [tap.name for tap in subject.taps]
    session = open_session(graph_of(workspace, subject), n_threads=n_threads(), spin=False)

    def run(images: Images) -> Neurons:
        return dict(zip(names, session.run(names, {"images": images}), strict=True))

    return run


def _torch_runner(subject: Subject) -> Runner:
    names = [tap.name for tap in subject.taps]
    module = deepcopy(subject.captured).to("cuda").to(memory_format=torch.channels_last)

    def run(images: Images) -> Neurons:
        batch = torch.from_numpy(images).to("cuda", memory_format=torch.channels_last, non_blocking=True)
        # TF32 keeps three digits of the products; the file that ships computes in float32
        with torch.backends.cudnn.flags(allow_tf32=False), torch.inference_mode():
            return {name: neurons.float().cpu().numpy() for name, neurons in zip(names, module(batch), strict=True)}

    return run
