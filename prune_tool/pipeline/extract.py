"""From images to neurons: every tap at every asked input size, each image decoded once, kept in the cache.

Work is cut into shards of images. A shard on disk is whole or absent, so a killed run goes on where it stopped and an
interrupted one loses at most the shard in hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from prune_tool import defaults
from prune_tool.deploy.onnx_file import write_onnx
from prune_tool.deploy.session import open_session
from prune_tool.pipeline.workspace import Subject, Workspace, n_threads
from prune_tool.store.features import FeatureEntry
from prune_tool.store.fingerprint import fingerprint
from prune_tool.surgery.capture import export_program
from prune_tool.task.backbone import Preprocessing, pixel_transform
from prune_tool.task.images import ImageSource

Images = NDArray[np.float32]
"""(b, 3, h, w) in [0, 1], resized and cropped: what every network here takes."""
Transform = Callable[[Image], NDArray[np.uint8]]
"""From an image to (h, w, 3) pixels, resized and cropped."""
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
            work = {i: (subjects[i], runners[i]) for i in wanted}
            found = _run(workspace.source, rows, work, defaults.BATCH_SIZE[workspace.request.device], advance)
            for i, neurons in found.items():
                entries[i].write(shard, neurons)
    return entries


def _run(
    source: ImageSource,
    rows: NDArray[np.int64],
    work: dict[int, tuple[Subject, Runner]],
    batch_size: int,
    advance: Callable[[int], None],
) -> dict[int, Neurons]:
    parts: dict[int, list[Neurons]] = {i: [] for i in work}
    transforms = {i: pixel_transform(subject.backbone.preprocessing) for i, (subject, _) in work.items()}
    for batch in decode(source, rows, transforms, batch_size):
        for i, (_, runner) in work.items():
            parts[i].append(runner(batch[i]))
        advance(len(next(iter(batch.values()))))
    return {i: {tap: np.concatenate([p[tap] for p in found]) for tap in found[0]} for i, found in parts.items()}


def decode(
    source: ImageSource, rows: NDArray[np.int64], transforms: Mapping[int, Transform], batch_size: int
) -> Iterator[dict[int, Images]]:
    """Batches of images, each decoded once and transformed for every key; the next batch decodes while one is used."""

    def load(row: int) -> dict[int, Images]:
        image = source.read(row)
        return {i: _planes(transform(image)) for i, transform in transforms.items()}

    def stacked(batch: list[Future[dict[int, Images]]]) -> dict[int, Images]:
        images = [future.result() for future in batch]
        return {i: np.stack([image[i] for image in images]) for i in transforms}

    with ThreadPoolExecutor(n_threads()) as pool:
        waiting: list[Future[dict[int, Images]]] = []
        for start in range(0, len(rows), batch_size):
            started = [pool.submit(load, int(row)) for row in rows[start : start + batch_size]]
            if waiting:
                yield stacked(waiting)
            waiting = started
        if waiting:
            yield stacked(waiting)


def _planes(pixels: NDArray[np.uint8]) -> Images:
    """(h, w, 3) of 0 to 255 -> (3, h, w) float32 in [0, 1]."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)


def images_of(source: ImageSource, rows: NDArray[np.int64], preprocessing: Preprocessing) -> Iterator[Images]:
    """Batches of the images at ``rows``, for one network on the CPU."""
    for batch in decode(source, rows, {0: pixel_transform(preprocessing)}, defaults.BATCH_SIZE["cpu"]):
        yield batch[0]


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
    session = open_session(path, n_threads=n_threads(), spin=False)

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
