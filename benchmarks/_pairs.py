"""The backbones and tasks that the benchmarks of whole runs work on: those of ``PRUNE_TOOL_ASSETS`` and of the demo."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _assets import images, source_of

from prune_tool import Request, Workspace
from prune_tool.pipeline.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A backbone and a task; ``n_images`` of each split at most, where the whole takes too long on two cores."""

    model: str
    data: str
    n_images: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """As ``--only`` names it."""
        return f"{self.model}/{self.data}"


PAIRS = (
    Pair(model="tf_efficientnet_lite0", data="cifar10", n_images=(4_000, 5_000)),
    Pair(model="tf_efficientnet_lite0", data="flowers5"),
    Pair(model="tf_efficientnet_lite0", data="solar"),
    Pair(model="resnet50_v1", data="cifar10", n_images=(4_000, 2_000)),
    Pair(model="resnet50_v1", data="flowers5"),
    Pair(model="vit_small_patch14_dinov2", data="flowers5"),
)


@contextmanager
def task(pair: Pair) -> Iterator[str | None]:
    """The images as ``Request.data`` names them; of an array, the first of each split where fewer are asked for."""
    if pair.data == "solar":
        yield None  # the embedded default
        return
    with images(pair.data) as path, tempfile.TemporaryDirectory() as folder:
        if pair.n_images is None:
            yield str(path)
            return
        with np.load(path) as arrays:
            n_train, n_test = pair.n_images
            some = {name: arrays[name][: n_train if name.endswith("train") else n_test] for name in arrays.files}
            some |= {"classes": arrays["classes"]} if "classes" in arrays.files else {}
        np.savez(Path(folder) / path.name, **some)
        yield str(Path(folder) / path.name)


def open_workspace(
    pair: Pair,
    data: str | None,
    progress: Progress,
    *,
    input_sizes: tuple[int, ...] | None = None,
    narrow: tuple[float, ...] = (),
) -> Workspace:
    """The request as a user makes it, all else at its default: latency on a CPU, batch 1, one thread."""
    model, backbone = source_of(pair.model)
    request = Request(model=model, data=data, input_sizes=input_sizes, narrow=narrow)
    return Workspace(request, progress, backbone=backbone)
