"""A few test images that the full backbone and the shipped file see differently, small enough for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL.Image import Image

from prune_tool.errors import RunError
from prune_tool.pipeline.predictions import Predictions
from prune_tool.pipeline.runs import RunRecord
from prune_tool.pipeline.workspace import Workspace
from prune_tool.store.layout import RunFolder

N_LOST, N_WON, N_BOTH_WRONG = 6, 3, 3
"""Images shown of each kind, a dozen in all: enough for an eye to see what kind of image it is. Losses matter most."""

THUMBNAIL_SIZE = 160
"""Longest side in pixels: two for each that a page shows, some 6 kB. Smaller images stay as they are."""

JPEG_QUALITY = 85


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image, and what was said of it.

    Attributes:
        row: its number in the source.
        name: what the source calls it.
        label, full, kept: its class, and those predicted.
        jpeg: a small copy.
        width, height: of the copy, in pixels.
    """

    row: int
    name: str
    label: int
    full: int
    kept: int
    jpeg: bytes
    width: int
    height: int


def sample_disagreements(
    workspace: Workspace, run: RunFolder, record: RunRecord, predictions: Predictions
) -> tuple[Sample, ...]:
    """Images that only full gets right, then those that only kept does, then those that both get wrong differently.

    Of each kind they are spread evenly over the images' order, so that all classes and folders get their turn.

    Raises:
        DataError: the images are gone, or cannot be read.
        RunError: they are no longer those of the run.
    """
    kinds = ((predictions.lost, N_LOST), (predictions.won, N_WON), (predictions.both_wrong, N_BOTH_WRONG))
    entries = [i for kind, n in kinds for i in _spread(kind, n)]
    if not entries:
        return ()
    if workspace.source.fingerprint() != record.data_fingerprint:
        raise RunError(
            asked=f"show images of the run {run.path}",
            found="the images have changed since it was analysed",
            remedy="Run `prune-tool analyze` again",
        )
    return tuple(_sample(workspace, predictions, i) for i in entries)


def _spread(entries: Sequence[int], n: int) -> list[int]:
    """``n`` of them, evenly spaced from the first on; all where there are fewer."""
    n = min(n, len(entries))
    return [entries[i * len(entries) // n] for i in range(n)]


def _sample(workspace: Workspace, predictions: Predictions, entry: int) -> Sample:
    row = predictions.rows[entry]
    image = workspace.source.read(row)
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return Sample(
        row=row,
        name=workspace.source.describe(row),
        label=predictions.labels[entry],
        full=predictions.full[entry],
        kept=predictions.kept[entry],
        jpeg=_encode(image),
        width=image.width,
        height=image.height,
    )


def _encode(image: Image) -> bytes:
    encoded = BytesIO()
    image.save(encoded, "JPEG", quality=JPEG_QUALITY)
    return encoded.getvalue()
