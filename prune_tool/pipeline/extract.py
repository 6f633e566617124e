"""From images to neurons: every tap at every asked input size, each image decoded once, kept in the cache.

Work is cut into shards of images. A shard on disk is whole or absent, so a killed run goes on where it stopped and an
interrupted one loses at most the shard in hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.deploy.onnx_file import write_onnx
from prune_tool.deploy.session import open_session
from prune_tool.pipeline.workspace import Subject, Workspace, n_threads
from prune_tool.store.features import FeatureEntry
from prune_tool.store.fingerprint import fingerprint
from prune_tool.surgery.capture import export_program
from prune_tool.task.backbone import pixel_transform
from prune_tool.task.images import ImageSource

Pixels = NDArray[np.uint8]
"""(h, w, 3), resized and cropped."""
Neurons = dict[str, NDArray[np.float32]]
"""Per tap, (n, width)."""


class Runner(Protocol):
    """Runs a backbone with all its taps."""

    def __call__(self, images: NDArray[np.float32]) -> Neurons:
        """Images (b, 3, h, w) in [0, 1] -> neurons."""


def as_images(pixels: Sequence[Pixels]) -> NDArray[np.float32]:
    """Stack decoded images into (b, 3, h, w) float32 in [0, 1], what every network here takes."""
    return np.ascontiguousarray(np.stack(pixels).transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)


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
    hashes = workspace.source.content_hashes()
    key = fingerprint(*(hashes[i] for i in indices))
    size = defaults.SHARD_SIZE
    entries = [workspace.cache.entry(fingerprint(s.fingerprint, key), len(indices), size) for s in subjects]
    missing = {i: set(entry.missing()) for i, entry in enumerate(entries)}
    todo = sorted(set().union(*missing.values()))
    if not todo:
        return entries
    runners = {i: open_runner(workspace, subjects[i]) for i, shards in missing.items() if shards}
    n_images = sum(min(size, len(indices) - shard * size) for shard in todo)
    with workspace.progress.stage("extracting features", n_images) as advance:
        for shard in todo:
            rows = indices[shard * size : (shard + 1) * size]
            wanted = [i for i in runners if shard in missing[i]]
            found = _run(workspace.source, rows, {i: (subjects[i], runners[i]) for i in wanted}, advance)
            for i, neurons in found.items():
                entries[i].write(shard, neurons)
    return entries


def _run(
    source: ImageSource,
    rows: NDArray[np.int64],
    work: dict[int, tuple[Subject, Runner]],
    advance: Callable[[int], None],
) -> dict[int, Neurons]:
    parts: dict[int, list[Neurons]] = {i: [] for i in work}
    transforms = {i: pixel_transform(subject.backbone.preprocessing) for i, (subject, _) in work.items()}
    for batch in decode(source, rows, transforms):
        for i, (_, runner) in work.items():
            parts[i].append(runner(as_images([pixels[i] for pixels in batch])))
        advance(len(batch))
    return {i: {tap: np.concatenate([p[tap] for p in found]) for tap in found[0]} for i, found in parts.items()}


def decode(
    source: ImageSource, rows: NDArray[np.int64], transforms: dict[int, Callable[..., Pixels]]
) -> Iterator[list[dict[int, Pixels]]]:
    """Batches of decoded images, each transformed for every input size; the next batch decodes while one runs."""

    def load(row: int) -> dict[int, Pixels]:
        image = source.read(row)
        return {i: transform(image) for i, transform in transforms.items()}

    with ThreadPoolExecutor(n_threads()) as pool:
        waiting = None
        for start in range(0, len(rows), defaults.BATCH_SIZE):
            started = [pool.submit(load, int(row)) for row in rows[start : start + defaults.BATCH_SIZE]]
            if waiting is not None:
                yield [future.result() for future in waiting]
            waiting = started
        if waiting is not None:
            yield [future.result() for future in waiting]


def open_runner(workspace: Workspace, subject: Subject) -> Runner:
    """ONNX Runtime on the CPU, PyTorch on CUDA."""
    with workspace.progress.stage(f"compiling the backbone at {subject.input_size} px"):
        return _torch_runner(subject) if workspace.request.device == "cuda" else _onnx_runner(workspace, subject)


def _onnx_runner(workspace: Workspace, subject: Subject) -> Runner:
    names = [tap.name for tap in subject.taps]
    path: Path = workspace.cache.root / "graphs" / f"{subject.fingerprint}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_onnx(export_program(subject.captured, subject.example), path, metadata={}, output_names=tuple(names))
    session = open_session(path, provider="cpu", n_threads=n_threads())

    def run(images: NDArray[np.float32]) -> Neurons:
        return dict(zip(names, session.run(names, {"images": images}), strict=True))

    return run


def _torch_runner(subject: Subject) -> Runner:
    names = [tap.name for tap in subject.taps]
    module = subject.captured.to("cuda").to(memory_format=torch.channels_last)

    def run(images: NDArray[np.float32]) -> Neurons:
        batch = torch.from_numpy(images).to("cuda", memory_format=torch.channels_last, non_blocking=True)
        with torch.inference_mode():
            return {name: neurons.float().cpu().numpy() for name, neurons in zip(names, module(batch), strict=True)}

    return run
