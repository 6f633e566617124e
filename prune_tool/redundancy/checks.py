"""Features and labels, checked at the door: what the mathematics behind it may rely on."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prune_tool.errors import DataError

Features: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
Float64: TypeAlias = NDArray[np.float64]
Int64: TypeAlias = NDArray[np.int64]


def check_features(features: NDArray[Any], n_features: int) -> None:
    """Require finite floats of shape ``(n, n_features)``.

    Raises:
        DataError: another shape or dtype, or a value that is not finite (the message names the first one).
    """
    asked = f"features of {n_features:,} neurons"
    if features.ndim != 2 or features.shape[1] != n_features or features.dtype.kind != "f":
        raise DataError(
            asked=asked,
            found=f"an array of shape {features.shape} and dtype {features.dtype}",
            remedy=f"Pass float32 or float64 of shape (images, {n_features})",
        )
    finite = np.isfinite(features)
    if not finite.all():
        image, neuron = np.argwhere(~finite)[0]
        first = f"{features[image, neuron]} at image {image}, neuron {neuron}"
        raise DataError(
            asked=asked,
            found=f"{(~finite).sum():,} values that are not finite, first {first}",
            remedy="Check the weights and the precision: float16 overflows above 65,504, float32 features do not",
        )


def check_labels(labels: NDArray[Any], n_images: int, n_classes: int) -> None:
    """Require ``n_images`` integer labels in ``0..n_classes - 1``.

    Raises:
        DataError: another length or dtype, or a label out of range (the message names the first one).
    """
    asked = f"{n_images:,} labels of {n_classes:,} classes"
    if labels.shape != (n_images,) or labels.dtype.kind not in "iu":
        raise DataError(
            asked=asked,
            found=f"an array of shape {labels.shape} and dtype {labels.dtype}",
            remedy="Pass one integer label an image",
        )
    outside = (labels < 0) | (labels >= n_classes)
    if outside.any():
        image = int(outside.argmax())
        raise DataError(
            asked=asked,
            found=f"label {labels[image]} at image {image}",
            remedy=f"Number the classes from 0 to {n_classes - 1}",
        )
