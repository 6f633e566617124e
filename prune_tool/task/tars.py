"""WebDataset tars: samples of members that share a name up to its first dot, read where they lie and never unpacked."""

import glob
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_tool.errors import DataError
from prune_tool.records import Split
from prune_tool.task.decode import FORMATS
from prune_tool.task.labelled import EncodedImages
from prune_tool.task.labels import index_labels, labelled_rows
from prune_tool.task.naming import LABELS, few, pick, shards_below, splits_of_files

MAX_LABEL = 2**20
"""Bytes of the largest member that is read for a label; a label takes a few."""

CLASS_FILES = ("classnames.txt", "classes.txt", "class_names.txt")
"""Files beside the tars, or above them, that name the classes, a line each, in the order of their numbers."""

REMEDY = (
    "WebDataset tars work: for each sample an image such as 0001.jpg, and 0001.cls (a whole number or a name) or"
    " 0001.json with a 'label'"
)


@dataclass(frozen=True, kw_only=True)
class TarImages(EncodedImages):
    """An ``ImageSource`` over members of tar files. Each read opens the tar anew: there is no handle to share.

    Attributes:
        tars: the files.
        names: member of each image.
        places: (n, 3) int64 tar, first byte and number of bytes of each image.
    """

    tars: tuple[Path, ...]
    names: tuple[str, ...]
    places: NDArray[np.int64]

    def describe(self, i: int) -> str:
        """Tar and member of image ``i``."""
        return f"{self.tars[self.places[i, 0]]}: {self.names[i]}"

    def encoded(self, i: int) -> bytes:
        """The member's bytes; fewer where the tar is cut short. Raises ``OSError``."""
        tar, start, n_bytes = map(int, self.places[i])
        with self.tars[tar].open("rb") as file:
            file.seek(start)
            return file.read(n_bytes)


@dataclass(slots=True)
class _Sample:
    """Members of one name: where its images lie, by what follows the first dot, and its label."""

    images: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    label: str | None = None


def open_tars(tars: Sequence[Path], name: str) -> TarImages:
    """Index the images and labels of WebDataset tars.

    Only the headers and the labels are read. Members that are neither images nor labels are passed over, pickles among
    them, and so is whatever is not a plain file: links lead nowhere. Splits are said by the tars' names
    (``train-000.tar``) or by their folders'.

    Args:
        tars: shards, in order.
        name: what to call the images.

    Raises:
        DataError: a file is no plain tar, or samples lack an image or a label.
    """
    asked = f"read images from {few([tar.name for tar in tars])} in {tars[0].parent}"
    by_name = splits_of_files(tars)
    members: list[str] = []
    places: list[tuple[int, int, int]] = []
    values: list[str] = []
    splits: list[Split | None] = []
    for number, tar in enumerate(tars):
        for key, sample in _samples(tar, asked):
            image = _image_of(sample, f"{tar}: {key}", asked)
            if image is None:
                continue
            members.append(image.name)
            places.append((number, image.offset_data, image.size))
            values.append(sample.label or "")
            splits.append(by_name[tar])
    try:
        kept = labelled_rows(values, splits, members.__getitem__)
        classes, labels = index_labels([values[i] for i in kept], _class_names(tars[0].parent))
    except ValueError as error:
        raise DataError(asked=asked, found=str(error), remedy=REMEDY) from error
    return TarImages(
        name=name,
        classes=classes,
        labels=labels,
        given_splits=tuple(splits[i] for i in kept),
        tars=tuple(tars),
        names=tuple(members[i] for i in kept),
        places=np.array(places, dtype=np.int64).reshape(-1, 3)[kept],
    )


def find_tars(pattern: str) -> list[Path]:
    """Tars that ``wds/PATTERN`` means: a file, a folder of them, a range ``{000..013}``, a choice ``{a,b}``, or ``*``.

    Raises:
        DataError: there are none, or one of a range is missing.
    """
    asked = f"read images from wds/{pattern}"
    remedy = "Give a .tar, a folder of them, or a range such as wds/shards/train-{000..013}.tar"
    found: list[Path] = []
    for name in _expand(str(Path(pattern).expanduser())):
        path = Path(name)
        here = _matching(name) if glob.has_magic(name) and not path.exists() else [path]
        for each in here:
            found += shards_below(each, ".tar") if each.is_dir() else [each]
    missing = [str(path) for path in found if not path.is_file()]
    if missing or not found:
        raise DataError(asked=asked, found=f"no file {few(missing)}" if missing else "no .tar there", remedy=remedy)
    return found


def _matching(pattern: str) -> list[Path]:
    return sorted(map(Path, glob.glob(pattern)))  # noqa: PTH207 - Path.glob takes no absolute pattern


def _expand(pattern: str) -> list[str]:
    """``a{00..02}.tar`` and ``{a,b}.tar`` written out, as a shell would."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    return ["".join(each) for each in product(*(_choices(p) if i % 2 else [p] for i, p in enumerate(parts)))]


def _choices(inside: str) -> list[str]:
    if ends := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        low, high = ends.groups()
        return [str(number).zfill(len(low)) for number in range(int(low), int(high) + 1)]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]


def _samples(tar: Path, asked: str) -> Iterator[tuple[str, _Sample]]:
    """Neighbouring members of one name, as the ``webdataset`` library groups them."""
    key, sample = "", _Sample()
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                stem, _, ending = path.name.partition(".")
                if not member.isreg() or member.issparse() or not stem or not ending:
                    continue
                if (here := str(path.with_name(stem))) != key:
                    if key:
                        yield key, sample
                    key, sample = here, _Sample()
                _take(archive, member, ending.lower(), sample)
    except (tarfile.TarError, OSError, EOFError) as error:
        found = f"{tar.name} is no plain tar, or a damaged one ({error})"
        remedy = "Unpack .tar.gz to .tar first (gunzip): members of a compressed one cannot be found by their place"
        raise DataError(asked=asked, found=found, remedy=remedy) from error
    if key:
        yield key, sample


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str, sample: _Sample) -> None:
    """Note a member in its sample, if it is an image or a label."""
    if f".{ending.rpartition('.')[2]}" in FORMATS:
        sample.images.setdefault(ending, member)
    elif ending in {"cls", "json"} and member.size <= MAX_LABEL and sample.label is None:
        content = archive.extractfile(member)
        assert content is not None  # it is a plain file
        sample.label = _label(content.read(), ending)


def _label(content: bytes, ending: str) -> str | None:
    """The label that a ``.cls`` or ``.json`` member says; None where it says none."""
    try:
        if ending == "cls":
            return content.decode("utf-8").strip()
        fields: Any = json.loads(content)
    except (ValueError, RecursionError):  # bytes that are no text, or text that is no JSON
        return None
    if isinstance(fields, dict):
        name = pick([str(field) for field in fields], LABELS)
        fields = None if name is None else fields[name]
    return str(fields) if isinstance(fields, str | int) else None


def _image_of(sample: _Sample, named: str, asked: str) -> tarfile.TarInfo | None:
    """The sample's image: the one of a plain ending (``jpg``), or else the only one (``left.jpg``)."""
    plain = [ending for ending in sample.images if "." not in ending]
    endings = plain or [*sample.images]
    if len(endings) > 1:
        remedy = "Keep one image a sample, or give the others a longer ending such as .mask.png"
        raise DataError(asked=asked, found=f"{named} has several images ({few(endings)})", remedy=remedy)
    return sample.images[endings[0]] if endings else None


def _class_names(folder: Path) -> Sequence[str]:
    for place in (folder, folder.parent):
        for name in CLASS_FILES:
            if (path := place / name).is_file():
                lines = path.read_text(encoding="utf-8").splitlines()
                return [line.strip() for line in lines if line.strip()]
    return ()
