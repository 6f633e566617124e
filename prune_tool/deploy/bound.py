"""A file ready to be timed: its session, and one random batch bound to the provider's own memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from prune_tool.deploy.session import open_session
from prune_tool.errors import RunError

N_CALLS = 3
"""Timed calls a turn. An untimed one goes before them: it refills the caches that the contender before emptied and
outlasts that one's threads, which keep spinning for about a millisecond."""

ELEMENT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
"""Input types that files of images have."""

MEMORY = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "cuda"}
"""Where a provider's inputs and outputs live while it is timed: copies to and from the device are not the network's."""


class BoundFile:
    """An ONNX file of images on a provider.

    Attributes:
        path: of the file.
        session: on it.
        image_shape: of one image, without the batch axis.
        input_type: as ONNX Runtime names it, such as ``tensor(float)``.
        said: the file's metadata.

    Raises:
        ProviderError: the provider is absent.
        RunError: the file cannot be opened, is no file of images, or leaves their size open while ``image_size`` and
            its metadata do not say it.
    """

    def __init__(self, path: Path, *, provider: str, n_threads: int | None, image_size: int | None) -> None:
        self.path, self._provider = path, provider
        self.session = open_session(path, provider=provider, n_threads=n_threads)
        self.said: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        entry = self._entry()
        self.input_type: str = entry.type
        self._fixed_batch = entry.shape[0] if isinstance(entry.shape[0], int) else None
        self.image_shape = _image_shape(path, entry.shape, image_size or self._own_size())

    def bind(self, batch_size: int, rng: np.random.Generator) -> ort.IOBinding:
        """Bind one random batch and the outputs to the provider's own memory."""
        if self._fixed_batch not in {None, batch_size}:
            raise RunError(
                asked=f"time {self.path} at batch {batch_size}",
                found=f"the file takes batches of {self._fixed_batch} only",
                remedy=f"Give --batch {self._fixed_batch}, or export the file with an open batch axis",
            )
        shape, dtype = (batch_size, *self.image_shape), ELEMENT_TYPES[self.input_type]
        batch = rng.integers(0, 256, size=shape) if dtype is np.uint8 else rng.standard_normal(shape)
        memory, binding = MEMORY[self._provider], self.session.io_binding()
        value = ort.OrtValue.ortvalue_from_numpy(batch.astype(dtype), memory, 0)
        binding.bind_ortvalue_input(self.session.get_inputs()[0].name, value)
        for output in self.session.get_outputs():
            binding.bind_output(output.name, memory)
        return binding

    def run(self, binding: ort.IOBinding) -> None:
        """One call on what is bound; returns when the outputs are there."""
        self.session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    def said_number(self, name: str) -> int | None:
        """A number that this tool wrote into the metadata; None where it did not."""
        text = self.said.get(f"prune_tool.{name}", "")
        return int(text) if text.isdecimal() else None

    def _entry(self) -> ort.NodeArg:
        entries = self.session.get_inputs()
        if len(entries) != 1 or entries[0].type not in ELEMENT_TYPES or not entries[0].shape:
            raise RunError(
                asked=f"time {self.path}",
                found=f"its inputs are {', '.join(f'{e.name}: {e.type} {e.shape}' for e in entries)}",
                remedy=f"Give a file with one input, a batch of images, of type {', '.join(ELEMENT_TYPES)}",
            )
        return entries[0]

    def _own_size(self) -> int | None:
        size = json.loads(self.said.get("prune_tool.preprocessing", "{}")).get("input_size")
        return size if isinstance(size, int) else None


def take_turn(call: Callable[[], object]) -> list[float]:
    """Latencies in milliseconds of ``N_CALLS`` calls, after one that is not timed."""
    call()
    times = []
    for _ in range(N_CALLS):
        started = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - started) / 1e6)
    return times


def _image_shape(path: Path, shape: list[int | str | None], image_size: int | None) -> tuple[int, ...]:
    """Shape of one image, open heights and widths filled in."""
    places = {1, 2} if shape[-1] in {1, 3, 4} else {2, 3}
    is_open = {i for i, size in enumerate(shape) if i > 0 and not isinstance(size, int)}
    if is_open and (len(shape) != 4 or not is_open <= places):
        raise RunError(
            asked=f"time {path}",
            found=f"its input {shape} leaves more open than batch, height and width",
            remedy="Export it with a fixed number of channels",
        )
    if is_open and image_size is None:
        raise RunError(
            asked=f"time {path}",
            found=f"its input {shape} leaves the image size open",
            remedy="Say which one to time, for example --image-size 224",
        )
    return tuple(size if isinstance(size, int) else int(image_size or 0) for size in shape[1:])
