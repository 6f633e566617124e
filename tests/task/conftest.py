"""Small real images, in folders and in arrays."""

import os

import numpy as np
import pytest
from PIL import Image

from prune_tool.task.arrays import ArrayImages


@pytest.fixture
def save_image():
    """Write a small image whose pixels depend on ``seed``, in the format of the path's suffix."""

    def save(path, seed=0, size=(8, 8)):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return save


@pytest.fixture
def save_folders(tmp_path, save_image):
    """Write class folders: paths such as ``train/cats`` below the folder ``data``, with so many images each."""

    def save(counts):
        for start, (folder, n) in enumerate(counts.items()):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                save_image(tmp_path / "data" / folder / f"{i}.png", seed=1000 * start + i)
        return tmp_path / "data"

    return save


@pytest.fixture(scope="session")
def make_source():
    """An ``ImageSource`` of 1 x 1 images: same content number, same bytes."""

    def make(labels, contents=None, given=None):
        labels = np.asarray(labels, np.int64)
        contents = range(len(labels)) if contents is None else contents
        pixels = [np.array([[[c & 255, c >> 8, 0]]], np.uint8) for c in contents]
        return ArrayImages(
            name="made",
            classes=tuple("abcdef"[: labels.max() + 1]),
            labels=labels,
            given_splits=tuple(given) if given is not None else (None,) * len(labels),
            pixels=tuple(pixels),
            places=tuple(("x", i) for i in range(len(labels))),
        )

    return make


@pytest.fixture
def canary(tmp_path):
    """An object that leaves a file behind if it is ever unpickled, and that file."""
    path = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(path),)

    return Bomb(), path
