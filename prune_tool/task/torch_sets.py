"""``torch/NAME``: the labelled images that torchvision knows, downloaded where they are not there yet."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray
from PIL import Image

from prune_tool.errors import DataError
from prune_tool.records import Split
from prune_tool.store.fingerprint import fingerprint
from prune_tool.task.decode import bad_image, to_8_bits
from prune_tool.task.files import FileImages
from prune_tool.task.labelled import LabelledImages
from prune_tool.task.labels import index_labels

ROOT = "PRUNE_TOOL_DATA"
"""Environment variable: the folder that torchvision calls ``root``."""

Parts = Mapping[Split | None, Mapping[str, object]]
"""Arguments of the class that open each split."""

FLAG: Parts = {"train": {"train": True}, "test": {"train": False}}
TWO: Parts = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE: Parts = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
VALID: Parts = {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}}
VAL: Parts = {"train": {"split": "train"}, "val": {"split": "val"}}
WHOLE: Parts = {None: {}}

KNOWN: dict[str, Parts] = {
    "CIFAR10": FLAG,
    "CIFAR100": FLAG,
    "Caltech101": WHOLE,
    "Caltech256": WHOLE,
    "Country211": VALID,
    "DTD": THREE,
    "EuroSAT": WHOLE,
    "FGVCAircraft": THREE,
    "FashionMNIST": FLAG,
    "Flowers102": THREE,
    "Food101": TWO,
    "GTSRB": TWO,
    "ImageNet": VAL,
    "Imagenette": VAL,
    "KMNIST": FLAG,
    "MNIST": FLAG,
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "PCAM": THREE,
    "Places365": {"train": {"split": "train-standard"}, "val": {"split": "val"}},
    "RenderedSST2": THREE,
    "STL10": TWO,
    "SUN397": WHOLE,
    "SVHN": TWO,
    "StanfordCars": TWO,
    "USPS": FLAG,
}
"""torchvision's classes of whole labelled images, and how each opens its splits."""

OFFLINE_ONLY = ("ImageNet", "StanfordCars")
"""Classes that cannot download what they need."""


@dataclass(frozen=True, kw_only=True)
class TorchImages(LabelledImages):
    """An ``ImageSource`` over torchvision data sets, opened anew in each process.

    Attributes:
        kind: name of the class.
        root: where its files lie.
        places: (n, 2) part and row of each image.
    """

    kind: str
    root: Path
    places: NDArray[np.int64]

    def describe(self, i: int) -> str:
        """Class, split and row of image ``i``."""
        part, row = self.places[i].tolist()
        return f"torchvision {self.kind}: {[*KNOWN[self.kind]][part] or 'image'}[{row}]"

    def read(self, i: int, *, keep_grey: bool = False) -> Image.Image:
        """Image ``i`` as 8-bit RGB, or L where it is grey and that is to be kept. Raises ``BadImageError``."""
        part, row = self.places[i].tolist()
        try:
            image = self._parts[part][row][0]
            image = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
            return to_8_bits(image, keep_grey=keep_grey)
        except Exception as error:  # decoders meet hostile bytes and raise what they like
            raise bad_image(self.describe(i), f"it cannot be read ({error})") from error

    def content_hash(self, i: int) -> str:
        """Of the image's size and pixels: torchvision does not give the bytes."""
        try:
            return fingerprint(np.asarray(self.read(i)))
        except DataError:
            return fingerprint("unreadable", self.describe(i))

    @cached_property
    def _parts(self) -> Sequence[Any]:
        return [_open(self.kind, self.root, args, download=False) for args in KNOWN[self.kind].values()]


def data_root() -> Path:
    """Where torchvision's files lie: ``PRUNE_TOOL_DATA``, or a folder of the platform's for data."""
    said = os.environ.get(ROOT)
    return Path(said).expanduser() if said else platformdirs.user_data_path("prune-tool") / "torchvision"


def open_torch(name: str) -> TorchImages | FileImages:
    """Open a torchvision data set by its class's name, in any case: ``cifar10``, ``flowers102``, ``imagenet``.

    Missing files are downloaded where torchvision can. CIFAR's archives are pickles, which torchvision reads after it
    has compared their checksums with the published ones: nothing but the official files is ever unpickled.

    Raises:
        DataError: there is no such data set, or its files are neither there nor to be had.
    """
    plain = name.lower().replace("_", "").replace("-", "")
    kind = next((known for known in KNOWN if known.lower() == plain), None)
    if kind is None:
        known = ", ".join(sorted(each.lower() for each in KNOWN))
        raise DataError(asked=f"read images from torch/{name}", found="no such data set", remedy=f"Choose of: {known}")
    root = data_root()
    parts = {split: _open(kind, root, args, download=kind not in OFFLINE_ONLY) for split, args in KNOWN[kind].items()}
    values = [value for part in parts.values() for value in _targets(part)]
    names = [each if isinstance(each, str) else each[0] for each in getattr(next(iter(parts.values())), "classes", [])]
    try:
        classes, labels = index_labels(values, names)
    except ValueError as error:
        raise DataError(
            asked=f"read images from torch/{name}", found=str(error), remedy=f"Remove its files from {root}"
        ) from error
    splits = tuple(split for split, part in parts.items() for _ in range(len(part)))
    if all(hasattr(part, "samples") for part in parts.values()):  # class folders: files that we decode ourselves
        paths = tuple(Path(path) for part in parts.values() for path, _ in part.samples)
        return FileImages(name=kind, classes=classes, labels=labels, given_splits=splits, paths=paths)
    places = np.array([(number, row) for number, part in enumerate(parts.values()) for row in range(len(part))])
    return TorchImages(
        name=kind, classes=classes, labels=labels, given_splits=splits, kind=kind, root=root, places=places
    )


def _open(kind: str, root: Path, args: Mapping[str, object], *, download: bool) -> Any:
    from torchvision import datasets  # noqa: PLC0415 - it takes a second

    fetch = {"download": True} if download else {}
    try:
        with redirect_stdout(sys.stderr):  # stdout is for results
            return getattr(datasets, kind)(root=str(root), **args, **fetch)
    except Exception as error:  # no network, a damaged archive, a missing file: it raises anything
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            asked=f"open torchvision's {kind} in {root}",
            found=said.rstrip("."),
            remedy=f"Put its files there, or connect to the network; {ROOT} names another folder",
        ) from error


def _targets(part: Any) -> list[int]:
    """(n,) class of each image, without decoding any where the data set keeps them by themselves."""
    for attribute in ("targets", "labels", "_labels", "y"):
        kept = getattr(part, attribute, None)
        if kept is not None and len(kept) == len(part):
            targets = [int(target) for target in kept]
            if all(targets[i] == int(part[i][1]) for i in (0, -1 % len(part))):
                return targets
    return [int(part[i][1]) for i in range(len(part))]
