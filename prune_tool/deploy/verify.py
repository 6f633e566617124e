"""Does a written file compute what its source computes?"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from prune_tool.deploy.session import RUNTIME_ERRORS, open_session
from prune_tool.errors import RunError, UsageError, VerificationError

Images = NDArray[np.float32]
Logits = NDArray[np.float32]

FLOAT32_TOLERANCE = 1e-3
"""Largest difference of two float32 programs, relative to the largest logit. A sum of 1,000 products rounds to about
``sqrt(1000) * 6e-8 = 2e-6``; fifty layers that all err the same way make 1e-4; normalisation and a probe on
standardised neurons may enlarge that tenfold. A wrong neuron, a lost bias or a swapped axis is far beyond that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How well a file agrees with its source.

    Attributes:
        max_abs_diff: largest difference of two logits, over all images and batch sizes.
        max_rel_diff: the same divided by the largest magnitude of the source's logits.
        n_top1_agree: images whose first class is the same at every batch size.
        n_images: images compared.
        batch_sizes: batch sizes the file was run at, each on all images.
    """

    max_abs_diff: float
    max_rel_diff: float
    n_top1_agree: int
    n_images: int
    batch_sizes: tuple[int, ...]


def predict(session: ort.InferenceSession, batches: Iterable[NDArray[np.generic]]) -> Logits:
    """Run a file with one input on batch after batch.

    Args:
        session: from ``open_session``.
        batches: each (b, ...) of the input's type; ``b`` may differ.

    Returns:
        (n, c) float32, the first output for all images in order.

    Raises:
        RunError: the file cannot be run on these batches.
        UsageError: no batches.
    """
    name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    try:
        logits = [session.run([output], {name: batch})[0] for batch in batches]
    except RUNTIME_ERRORS as error:
        raise RunError(
            asked="run an ONNX file on images",
            found=f"ONNX Runtime says: {error}",
            remedy=f"Give images of the input's type and shape, {_signature(session)}, or export the file again",
        ) from error
    if not logits:
        raise UsageError(asked="run an ONNX file on images", found="no images", remedy="Give at least one")
    return np.concatenate(logits)


def check_parity(
    file: ort.InferenceSession | Path,
    reference: Callable[[Images], Logits],
    images: Images,
    *,
    batch_sizes: Sequence[int] = (1, 2, 7),
    tolerance: float = FLOAT32_TOLERANCE,
    stage: str = "ONNX file",
) -> Parity:
    """Compare a file with its source on the same images, at several batch sizes.

    Args:
        file: the file, or a session on it.
        reference: maps float32 (b, 3, h, w) to logits (b, c) in the source program.
        images: (n, 3, h, w) float32, with ``n`` at least the largest batch size.
        batch_sizes: sizes to run the file at. The default ones differ from any it was likely exported with.
        tolerance: largest ``max_rel_diff`` allowed.
        stage: what made the file, for the message.

    Raises:
        VerificationError: logits differ by more than ``tolerance``, are not finite, or name another first class where
            the source's two best are further apart than that image's logits.
        UsageError: fewer images than the largest batch.
    """
    if len(images) < max(batch_sizes):
        raise UsageError(
            asked=f"parity at batches of {max(batch_sizes)}",
            found=f"{len(images)} images",
            remedy=f"Give at least {max(batch_sizes)}",
        )
    session = open_session(file) if isinstance(file, Path) else file
    expected = np.concatenate([reference(batch) for batch in _batches(images, max(batch_sizes))])
    actual = np.stack([predict(session, _batches(images, size)) for size in batch_sizes])
    if actual.shape[1:] != expected.shape or not (np.isfinite(actual) & np.isfinite(expected)).all():
        found = f"logits of shape {actual.shape[1:]} where the source has {expected.shape}, or not finite"
        raise _mismatch(stage, found)
    diff = np.abs(actual - expected).max(axis=(0, 2))
    scale = float(np.abs(expected).max()) or 1.0
    if diff.max() / scale > tolerance:
        raise _mismatch(stage, f"logits differ by {diff.max() / scale:.2g} of the largest; allowed are {tolerance:g}")
    agrees = (actual.argmax(axis=-1) == expected.argmax(axis=-1)).all(axis=0)
    torn = ~agrees & (_margins(expected) > diff)
    if torn.any():
        raise _mismatch(stage, f"{torn.sum()} of {len(images)} images change class beyond what rounding explains")
    return Parity(
        max_abs_diff=float(diff.max()),
        max_rel_diff=float(diff.max()) / scale,
        n_top1_agree=int(agrees.sum()),
        n_images=len(images),
        batch_sizes=tuple(batch_sizes),
    )


def _batches(images: Images, size: int) -> Iterator[Images]:
    return (images[start : start + size] for start in range(0, len(images), size))


def _margins(logits: Logits) -> Logits:
    """Difference of the two largest logits, (n,); infinite if there is one class only."""
    if logits.shape[1] < 2:
        return np.full(len(logits), np.inf, dtype=np.float32)
    best = np.sort(logits, axis=1)[:, -2:]
    return best[:, 1] - best[:, 0]


def _signature(session: ort.InferenceSession) -> str:
    wanted = session.get_inputs()[0]
    return f"{wanted.type} {wanted.shape}"


def _mismatch(stage: str, found: str) -> VerificationError:
    return VerificationError(
        asked=f"{stage}: the same logits as its source",
        found=found,
        remedy="Please report the backbone; the file must not be used",
    )
