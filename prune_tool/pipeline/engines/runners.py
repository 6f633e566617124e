"""Running a network: ONNX Runtime on the CPU, PyTorch on the CPU or a GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass

from prune_tool.deploy.session import open_session
from prune_tool.errors import UsageError
from prune_tool.pipeline.engines.network import Network

Neurons = dict[str, NDArray[np.float32]]
"""Per tap, (n, width)."""

STREAM_BATCH = 4
"""Images that one ONNX Runtime call takes. Calls run beside each other, one a core, each on a single thread: no
threads wait for each other, what a batch needs stays in a core's cache, and numbers do not depend on the cores."""

AMP_DTYPE = torch.float16
"""Of ``--amp``. It changes neurons by 1 % of their spread over images where bfloat16 changes them by 10 % (measured on
EfficientNet-Lite0; 0.4 % and 3 % on a ViT-S)."""

AMP_TOLERANCE = 0.05
"""Most that half precision may change a tap's neurons, as the norm of the change over that of their spread over images:
the noise then has 1/400 of the features' variance."""


class Runner(Protocol):
    """Runs a network. May be called from several threads."""

    def __call__(self, pixels: Sequence[Tensor]) -> Neurons:
        """Neurons of the images in ``pixels``, parts (b, h, w, 3) uint8 of one batch."""


def open_runner(network: Network, device: str, *, amp: bool) -> Runner:
    """Load a network onto ``cpu`` or ``cuda:N``."""
    if network.runtime == "onnxruntime":
        return OnnxRunner(network)
    return TorchRunner(network, device, AMP_DTYPE if amp else None)


def n_streams(device: str, n_threads: int) -> int:
    """Batches to run at once: one a core; on a GPU two, one being copied while the other is computed."""
    return 2 if device.startswith("cuda") else n_threads


class OnnxRunner:
    """One session, run on the thread that calls."""

    def __init__(self, network: Network) -> None:
        assert isinstance(network.form, Path | bytes)
        self._names = list(network.taps)
        self._session = open_session(network.form, n_threads=1, spin=False)

    def __call__(self, pixels: Sequence[Tensor]) -> Neurons:
        """See ``Runner``."""
        batch = torch.cat(list(pixels)).numpy()
        starts = range(0, len(batch), STREAM_BATCH)
        parts = [self._session.run(self._names, {"pixels": batch[i : i + STREAM_BATCH]}) for i in starts]
        return {name: np.concatenate(part) for name, part in zip(self._names, zip(*parts, strict=True), strict=True)}


class TorchRunner:
    """The eager graph in channels-last layout.

    Args:
        network: for PyTorch.
        device: ``cpu`` or ``cuda:N``.
        amp: half precision of autocast; neurons are float32 all the same. The first batch is compared with float32.
    """

    def __init__(self, network: Network, device: str, amp: torch.dtype | None = None) -> None:
        self._label, self._names = network.label, network.taps
        self._device, self._amp = torch.device(device), amp
        self._module = _load(network, self._device)
        self._turn = threading.Lock()  # on a CPU every call takes all of PyTorch's threads
        self._proof = threading.Lock()
        self._proven = amp is None
        self._own = threading.local()

    def __call__(self, pixels: Sequence[Tensor]) -> Neurons:
        """See ``Runner``. Raises ``UsageError`` where half precision changes the neurons too much."""
        with self._lane(), torch.inference_mode():
            batch = torch.cat([part.to(self._device, non_blocking=True) for part in pixels])
            if not self._proven:
                self._prove(batch)
            neurons = self._run(batch, self._amp)
            widths = [tap.shape[1] for tap in neurons]
            together = torch.cat(neurons, dim=1).cpu().numpy()  # one copy for all taps
        return dict(zip(self._names, np.split(together, np.cumsum(widths)[:-1], axis=1), strict=True))

    def _run(self, batch: Tensor, amp: torch.dtype | None) -> list[Tensor]:
        """Float32 neurons of every tap; halves a batch that does not fit in memory."""
        try:
            with torch.autocast(self._device.type, amp, enabled=amp is not None):
                return [tap.float() for tap in self._module(batch)]
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        halves = [self._run(half, amp) for half in batch.chunk(2)]
        return [torch.cat(taps) for taps in zip(*halves, strict=True)]

    def _prove(self, batch: Tensor) -> None:
        with self._proof:
            if self._proven:
                return
            exact = self._run(batch, None)
            try:
                rounded = self._run(batch, self._amp)
            except RuntimeError as error:
                raise self._unfit(f"PyTorch says: {str(error).strip().splitlines()[0]}") from error
            for name, full, half in zip(self._names, exact, rounded, strict=True):
                change = _relative_change(full, half)
                if not change <= AMP_TOLERANCE:
                    raise self._unfit(
                        f"it changes the neurons of {name} by {change:.1%} of their spread over images, more than "
                        f"{AMP_TOLERANCE:.0%}"
                    )
            self._proven = True

    def _unfit(self, found: str) -> UsageError:
        return UsageError(
            asked=f"--amp: run {self._label} in {str(self._amp).removeprefix('torch.')}",
            found=found,
            remedy="Run without --amp",
        )

    @contextmanager
    def _lane(self) -> Iterator[None]:
        """A CUDA stream for each thread that calls, so that one copies while the other computes; else turns."""
        if self._device.type == "cuda":
            if not hasattr(self._own, "stream"):
                self._own.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # PyTorch's own stub
            with torch.cuda.device(self._device), torch.cuda.stream(self._own.stream):
                yield
        else:
            with self._turn:
                yield


@contextmanager
def exact_products() -> Iterator[None]:
    """Keep TF32, which has three digits of the products, out of float32: the file that ships computes in float32."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def _load(network: Network, device: torch.device) -> nn.Module:
    if isinstance(network.form, bytes):
        program = torch.export.load(BytesIO(network.form))
    else:
        assert isinstance(network.form, ExportedProgram)
        program = deepcopy(network.form)  # moving it changes it
    module = move_to_device_pass(program, device).module(check_guards=False)
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:  # noqa: SLF001 - its name
            module.graph.erase_node(node)  # it insists on the type that autocast changes
    module.recompile()
    return module.to(memory_format=torch.channels_last)


def _relative_change(full: Tensor, half: Tensor) -> float:
    """|half - full| over the spread of ``full`` (n, width) over images; over its norm where there is no spread."""
    spread = (full - full.mean(0)).norm()
    scale = spread if spread > 0 else full.norm()
    change = (half - full).norm()
    return float(change / scale) if scale > 0 else float(change)
