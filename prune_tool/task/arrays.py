"""Images in one ``.npz`` file of plain arrays; where they are not compressed, they stay in the file until read."""

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prune_tool.errors import DataError
from prune_tool.records import SPLITS, Split
from prune_tool.store.fingerprint import fingerprint
from prune_tool.task.decode import to_8_bits
from prune_tool.task.labelled import LabelledImages

REMEDY = (
    "np.savez(path, x=images, y=labels) works, with images (n, height, width, 3) uint8 and labels (n,) whole numbers or"
    " names; or x_train, y_train, x_test, y_test; and classes, if the labels are numbers that have names"
)
KNOWN = frozenset(["x", "y", "classes", *(f"{array}_{split}" for array in "xy" for split in SPLITS)])
"""Names of the arrays that are read; others may lie beside them."""


@dataclass(frozen=True, kw_only=True)
class ArrayImages(LabelledImages):
    """An ``ImageSource`` over arrays of pixels.

    Attributes:
        pixels: (height, width) or (height, width, 1, 3 or 4) uint8 of each image.
        places: array and row of each image.
        path: the file. It is opened anew in another process; without it, the pixels themselves travel.
    """

    pixels: tuple[NDArray[np.uint8], ...]
    places: tuple[tuple[str, int], ...]
    path: Path | None = None

    def __reduce__(self) -> str | tuple[Any, ...]:
        return super().__reduce__() if self.path is None else (open_arrays, (self.path,))

    def describe(self, i: int) -> str:
        """File, array and row of image ``i``."""
        array, row = self.places[i]
        return f"{self.name}: {array}[{row}]"

    def read(self, i: int, *, keep_grey: bool = False) -> Image.Image:
        """Image ``i`` as 8-bit RGB, or L where it is grey and that is to be kept."""
        pixels = self.pixels[i]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
        return to_8_bits(image, keep_grey=keep_grey)

    def content_hash(self, i: int) -> str:
        """Of the image's pixels."""
        return fingerprint(self.pixels[i])


def open_arrays(path: Path) -> ArrayImages:
    """Read ``x, y[, classes]`` or ``x_train, y_train, x_test, y_test[, x_val, y_val][, classes]``.

    Nothing is unpickled: an array of Python objects is refused.

    Raises:
        DataError: the file is not such an archive, or its arrays do not fit together.
    """
    arrays = _load(path)
    parts: list[tuple[Split | None, str, str]] = [(None, "x", "y")]
    if "x" not in arrays:
        parts = [(split, f"x_{split}", f"y_{split}") for split in SPLITS if f"x_{split}" in arrays]
    if not parts or parts[0][0] not in {None, "train"}:
        raise _refusal(path, f"the arrays {', '.join(arrays)}, and neither x nor x_train among them")
    pairs = [_pair(path, arrays, x, y) for _, x, y in parts]
    classes, labels = _classes(path, np.concatenate([y for _, y in pairs]), arrays.get("classes"))
    return ArrayImages(
        name=path.name,
        classes=classes,
        labels=labels,
        given_splits=tuple(split for (split, _, _), (x, _) in zip(parts, pairs, strict=True) for _ in x),
        pixels=tuple(image for x, _ in pairs for image in x),
        places=tuple((name, row) for (_, name, _), (x, _) in zip(parts, pairs, strict=True) for row in range(len(x))),
        path=path.absolute(),
    )


def _load(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of the archive that have a known name."""
    if not zipfile.is_zipfile(path):
        raise _refusal(path, "it is not an .npz archive, or a damaged one")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = archive.files
            known = [name for name in names if name in KNOWN]
            mapped = {name: _mapped(path, name) for name in known if name.startswith("x")}
            arrays = {name: np.asarray(archive[name]) if (x := mapped.get(name)) is None else x for name in known}
    except Exception as error:  # a damaged archive raises anything
        found = f"it cannot be read ({error})"
        if "allow_pickle" in str(error):
            found = "an array of Python objects, which only unpickling could read, and that can run code"
        raise _refusal(path, found) from error
    if not arrays:
        raise _refusal(path, f"the arrays {', '.join(names)}, none of a known name")
    return arrays


def _mapped(path: Path, name: str) -> NDArray[np.uint8] | None:
    """An array of bytes where it lies in the file, its checksum compared; None where it is compressed or no such."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            return None
        with archive.open(member) as content:
            if np.lib.format.read_magic(content) != (1, 0):
                return None
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(content)
            n_header = content.tell()
            while content.read(2**20):  # to the end, where zipfile compares the checksum
                pass
        file.seek(member.header_offset + 26)  # of the local header: the lengths of what stands before the content
        start = member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))) + n_header
    if dtype != np.uint8 or 0 in shape:
        return None
    order: Literal["C", "F"] = "F" if is_fortran else "C"
    return np.asarray(np.memmap(path, np.uint8, mode="r", offset=start, shape=shape, order=order))


def _pair(path: Path, arrays: dict[str, NDArray[Any]], x: str, y: str) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Checked images (n, height, width[, channels]) and labels (n,) of one split."""
    if y not in arrays:
        raise _refusal(path, f"{x} without {y}")
    images, labels = arrays[x], arrays[y]
    if labels.ndim == 2 and labels.shape[1] == 1:  # as CIFAR is often kept
        labels = labels[:, 0]
    good_shape = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in {1, 3, 4})
    if images.dtype != np.uint8 or not good_shape or not images.size:
        raise _refusal(path, f"{x} is {images.shape} {images.dtype}")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iuU":
        raise _refusal(path, f"{y} is {labels.shape} {labels.dtype} for {len(images)} images")
    return images, labels


def _classes(path: Path, y: NDArray[Any], names: NDArray[Any] | None) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Class names, and labels (n,) that are indices into them."""
    if names is None or y.dtype.kind == "U":
        values, labels = np.unique(y, return_inverse=True)
        classes = tuple(str(value) for value in values.tolist())
    else:
        classes, labels = tuple(str(name) for name in names.tolist()), y
        if y.min() < 0 or y.max() >= len(classes):
            raise _refusal(path, f"labels from {y.min()} to {y.max()} for {len(classes)} classes")
        if absent := [name for label, name in enumerate(classes) if not (y == label).any()]:
            raise _refusal(path, f"no images of {', '.join(absent[:5])}")
    if len(classes) < 2:
        raise _refusal(path, f"only one class, {classes[0]}")
    return classes, labels.astype(np.int64)


def _refusal(path: Path, found: str) -> DataError:
    return DataError(asked=f"read images from {path}", found=found, remedy=REMEDY)
