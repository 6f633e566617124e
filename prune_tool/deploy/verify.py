"""Does a written file compute what its source computes, after every step that made it?

Steps that must not change a number (cutting, exporting, taking normalisation out) are held to ``FLOAT32_TOLERANCE``.
Steps that change numbers by design (fewer bits, resizing inside the file) are held to what they are for: the same first
class, or the accuracy that the budget asks for.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from prune_tool.deploy.session import RUNTIME_ERRORS, open_session
from prune_tool.errors import RunError, UsageError, VerificationError
from prune_tool.records import Score

_T = TypeVar("_T", bound=np.generic)
Images = NDArray[np.float32]
Logits = NDArray[np.float32]

FLOAT32_TOLERANCE = 1e-3
"""Largest difference of two float32 programs, relative to the largest logit. A sum of 1,000 products rounds to about
``sqrt(1000) * 6e-8 = 2e-6``; fifty layers that all err the same way make 1e-4; normalisation and a probe on
standardised neurons may enlarge that tenfold. A wrong neuron, a lost bias or a swapped axis is far beyond that."""

LOSSY_TOLERANCE = 0.1
"""Difference of one file of fewer bits from itself, at another batch size or unoptimised, relative to the largest
logit, that is always allowed. A sum that rounds to the neighbouring step moves logits by up to 0.04, more in deep
networks; a kernel that saturates, or a fusion that is wrong, by 0.3."""

BATCH_SIZES = (1, 2, 7)
"""Batch sizes that files are tried at. They differ from any that a file was likely exported with."""

Gate = Literal["difference", "top-1", "accuracy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """A file compared with itself.

    Attributes:
        batch_sizes: batch sizes it was run at.
        max_rel_diff: largest difference over batch sizes, and between optimised and unoptimised runs, relative to the
            largest logit.
    """

    batch_sizes: tuple[int, ...]
    max_rel_diff: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How well what a step made agrees with what it was made of.

    Attributes:
        name: of the step.
        max_abs_diff: largest difference of two logits, over all images and batch sizes.
        max_rel_diff: the same divided by the largest magnitude of the source's logits.
        n_top1_agree: images whose first class is the same (at every batch size).
        n_images: images compared.
        gate: what the step was held to: ``difference``, ``max_rel_diff`` is at most ``tolerance``; ``top-1``, at least
            that share of images keep their first class; ``accuracy``, ``score`` is at least that.
        tolerance: see ``gate``.
        alone: the file compared with itself; None where there was no file yet.
        score: accuracy of the file on the images compared, where it was looked at.
    """

    name: str
    max_abs_diff: float
    max_rel_diff: float
    n_top1_agree: int
    n_images: int
    gate: Gate
    tolerance: float
    alone: Alone | None = None
    score: Score | None = None


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
    batch_sizes: Sequence[int] = BATCH_SIZES,
    tolerance: float = FLOAT32_TOLERANCE,
    stage: str = "ONNX file",
) -> Stage:
    """Compare a file with its source on the same images, at several batch sizes.

    Args:
        file: the file, which is then run without graph optimisations too, or a session on it.
        reference: maps float32 (b, 3, h, w) to logits (b, c) in the source program.
        images: (n, 3, h, w) float32, with ``n`` at least the largest batch size.
        batch_sizes: sizes to run the file at.
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
    alone = None
    if isinstance(file, Path):
        alone = check_alone(file, images, batch_sizes=batch_sizes, tolerance=tolerance, stage=stage)
    session = open_session(file) if isinstance(file, Path) else file
    expected = np.concatenate([reference(batch) for batch in _batches(images, max(batch_sizes))])
    actual = np.stack([predict(session, _batches(images, size)) for size in batch_sizes])
    return compare(stage, expected, actual, tolerance=tolerance, alone=alone)


def compare(
    stage: str,
    before: Logits,
    after: Logits,
    *,
    gate: Gate = "difference",
    tolerance: float = FLOAT32_TOLERANCE,
    score: Score | None = None,
    alone: Alone | None = None,
) -> Stage:
    """Compare logits before and after a step, and hold them to the step's gate.

    Args:
        stage: name of the step, for the record and the message.
        before: (n, c) of the source.
        after: (n, c) of what the step made, or (r, n, c) of several runs, which must all pass.
        gate: see ``Stage``.
        tolerance: see ``Stage``.
        score: accuracy after the step; the gate ``accuracy`` needs it.
        alone: for the record, from ``check_alone``.

    Raises:
        VerificationError: the gate is missed, or logits are of another shape or not finite. At the gate
            ``difference`` also: the first class changes where the source's two best are further apart than that
            image's logits.
    """
    runs = after if after.ndim == before.ndim + 1 else after[None]
    if runs.shape[1:] != before.shape or not (np.isfinite(runs).all() and np.isfinite(before).all()):
        raise _mismatch(stage, f"logits of shape {runs.shape[1:]} where the source has {before.shape}, or not finite")
    diff = np.abs(runs - before).max(axis=(0, 2))
    scale = float(np.abs(before).max()) or 1.0
    agrees = (runs.argmax(axis=-1) == before.argmax(axis=-1)).all(axis=0)
    found = Stage(
        name=stage,
        max_abs_diff=float(diff.max()),
        max_rel_diff=float(diff.max()) / scale,
        n_top1_agree=int(agrees.sum()),
        n_images=len(before),
        gate=gate,
        tolerance=tolerance,
        alone=alone,
        score=score,
    )
    _require_gate(found)
    torn = ~agrees & (_margins(before) > diff)
    if gate == "difference" and torn.any():
        raise _mismatch(stage, f"{torn.sum()} of {len(before)} images change class beyond what rounding explains")
    return found


def _require_gate(stage: Stage) -> None:
    match stage.gate:
        case "difference" if stage.max_rel_diff > stage.tolerance:
            found = f"logits differ by {stage.max_rel_diff:.2g} of the largest; allowed are {stage.tolerance:g}"
        case "top-1" if stage.n_top1_agree < stage.tolerance * stage.n_images:
            found = (
                f"{stage.n_top1_agree} of {stage.n_images} images keep their first class; "
                f"{100 * stage.tolerance:g} % must"
            )
        case "accuracy" if stage.score is None or stage.score.accuracy < stage.tolerance:
            found = f"its accuracy is {stage.score}; the budget asks for {100 * stage.tolerance:.1f} %"
        case _:
            return
    raise _mismatch(stage.name, found)


def check_alone(
    file: Path,
    images: NDArray[np.generic],
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    tolerance: float,
    stage: str,
    source: Logits | None = None,
) -> Alone:
    """Require that a file says the same at every batch size, and as it is written, without graph optimisations.

    Of a file of fewer bits, two sound ways to compute it differ about as much as either does from full precision, which
    grows with depth. So with ``source`` they may differ by what the file as written, whose arithmetic nobody touched,
    differs from that; a kernel that goes wrong differs from both.

    Args:
        file: to run.
        images: (n, ...) of the file's input type.
        batch_sizes: sizes to run it at.
        tolerance: largest difference allowed, relative to the largest logit.
        stage: what made the file, for the message.
        source: (n, c) of the file in full precision, on the same images.

    Raises:
        VerificationError: it does not, or says what is not finite.
    """
    optimised, plain = open_session(file), open_session(file, optimise=False)
    expected = predict(plain, _batches(images, max(batch_sizes)))
    runs = np.stack([predict(optimised, _batches(images, size)) for size in batch_sizes])
    scale = float(np.abs(expected).max()) or 1.0
    difference = float(np.abs(runs - expected).max()) / scale
    if source is not None:
        tolerance = max(tolerance, float(np.abs(source - expected).max()) / scale)
    if not difference <= tolerance:
        raise _mismatch(
            stage,
            f"at batches of {', '.join(map(str, batch_sizes))}, optimised and as written, the file's own logits differ "
            f"by {difference:.2g} of the largest; allowed are {tolerance:g}",
        )
    return Alone(batch_sizes=tuple(batch_sizes), max_rel_diff=difference)


def _batches(images: NDArray[_T], size: int) -> Iterator[NDArray[_T]]:
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
