"""``hfds/NAME[:CONFIG]``: data sets of the Hugging Face hub, or of a local folder, through the ``datasets`` library."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune_tool.errors import DataError
from prune_tool.records import Split
from prune_tool.task.decode import bad_image
from prune_tool.task.extras import need
from prune_tool.task.labelled import EncodedImages
from prune_tool.task.labels import index_labels, labelled_rows, plain
from prune_tool.task.naming import IMAGES, LABELS, SPLIT_NAMES, few, pick

REMEDY = "A data set with one Image column and a ClassLabel column (or one called label) works"


@dataclass(frozen=True, kw_only=True)
class HubImages(EncodedImages):
    """An ``ImageSource`` over the splits of a data set, which lie in memory-mapped Arrow files.

    Attributes:
        parts: the splits' columns of images, not decoded.
        splits: names of the parts.
        column: of the images.
        places: (n, 2) part and row of each image.
    """

    parts: tuple[Any, ...]
    splits: tuple[str, ...]
    column: str
    places: NDArray[np.int64]

    def describe(self, i: int) -> str:
        """Data set, split and row of image ``i``."""
        part, row = self.places[i].tolist()
        return f"{self.name}: {self.splits[part]}[{row}]"

    def encoded(self, i: int) -> bytes:
        """The bytes in its row, or in the file that the row names. Raises ``OSError`` or ``BadImageError``."""
        part, row = self.places[i].tolist()
        image = self.parts[part][row][self.column] or {}
        if image.get("bytes") is not None:
            return bytes(image["bytes"])
        if not image.get("path"):
            raise bad_image(self.describe(i), "its row holds neither bytes nor a path")
        return Path(image["path"]).read_bytes()


def open_hub(name: str) -> HubImages:
    """Open ``NAME[:CONFIG]``, as ``datasets.load_dataset`` does, or a folder that ``save_to_disk`` wrote.

    The library's cache serves without a network (``HF_HUB_OFFLINE=1``). Splits called train, validation and test count;
    others (``unsupervised``, ``extra``) are left out beside them. No code of the data set is run: the library gave
    that up with version 4.

    Raises:
        DataError: it cannot be loaded, or has no columns of images and labels.
    """
    asked = f"read images from hfds/{name}"
    datasets = need("datasets", extra="hf", asked=asked)
    splits = _usable(_load(datasets, name, asked))
    features = next(iter(splits.values())).features
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    images = images or [column for column, kind in features.items() if _is_encoded(kind)]
    image = pick(images, IMAGES) or (images[0] if len(images) == 1 else None)
    label = _label_column(datasets, features)
    if image is None or label is None:
        lacking = "Image column" if image is None else "column of labels"
        found = f"the columns {few([*features])}, and no {lacking} among them"
        raise DataError(asked=asked, found=found, remedy=REMEDY)
    column = [value for part in splits.values() for value in part.select_columns([label])[:][label]]
    given = _given(splits)
    places = np.array([(part, row) for part, each in enumerate(splits.values()) for row in range(len(each))], np.int64)
    try:
        values = plain(column)
        kept = labelled_rows(values, given, lambda i: f"row {i}")
        classes, labels = index_labels([values[i] for i in kept], getattr(features[label], "names", None) or ())
    except ValueError as error:
        raise DataError(asked=asked, found=f"{label}: {error}", remedy=REMEDY) from error
    undecoded = datasets.Image(decode=False)
    return HubImages(
        name=Path(name).expanduser().resolve().name if Path(name).expanduser().exists() else name,
        classes=classes,
        labels=labels,
        given_splits=tuple(given[i] for i in kept),
        parts=tuple(part.select_columns([image]).cast_column(image, undecoded) for part in splits.values()),
        splits=tuple(splits),
        column=image,
        places=places[kept],
    )


def is_saved(folder: Path) -> bool:
    """Whether ``datasets``' ``save_to_disk`` wrote a folder."""
    here = {path.name for path in folder.iterdir()}
    return "dataset_dict.json" in here or {"state.json", "dataset_info.json"} <= here


def _load(datasets: Any, name: str, asked: str) -> Mapping[str, Any]:
    """The data set's splits by name."""
    path = Path(name).expanduser()
    place, _, config = (name, "", "") if path.exists() else name.partition(":")
    try:
        loaded = (
            datasets.load_from_disk(path)
            if path.is_dir() and is_saved(path)
            else datasets.load_dataset(place, config or None)
        )
    except Exception as error:  # no network, no such name, a damaged file: the library raises anything
        said = " ".join(str(error).split())[:300] or type(error).__name__
        if "Config name is missing" in said:
            remedy = f"Choose one of them: hfds/{place}:CONFIG"
        else:
            remedy = "Check the name, connect to the network, or give a local folder: hfds/FOLDER"
        raise DataError(asked=asked, found=f"datasets could not load it ({said})", remedy=remedy) from error
    return loaded if isinstance(loaded, dict) else {str(loaded.split or "rows"): loaded}


def _usable(splits: Mapping[str, Any]) -> Mapping[str, Any]:
    """The splits that mean train, val or test; all of them where no train is among them."""
    known = {name: part for name, part in splits.items() if name.lower() in SPLIT_NAMES}
    return known if "train" in map(str.lower, known) else splits


def _given(splits: Mapping[str, Any]) -> list[Split | None]:
    """The split of each row. Names count only where train is among them: a data set's only part is no test set."""
    said = {name: SPLIT_NAMES.get(name.lower()) for name in splits}
    if "train" not in said.values():
        said = dict.fromkeys(said)
    return [said[name] for name, part in splits.items() for _ in range(len(part))]


def _is_encoded(kind: Any) -> bool:
    """Whether a column without the type Image holds encoded bytes, by themselves or beside a path."""
    inner = kind.get("bytes") if isinstance(kind, dict) else kind
    return getattr(inner, "dtype", None) in {"binary", "large_binary"}


def _label_column(datasets: Any, features: Mapping[str, Any]) -> str | None:
    """The ClassLabel column; of several the best known name, or the first. Without any, one called like a label."""
    labels = [column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    return pick(labels, LABELS) or (labels[0] if labels else pick([*features], LABELS))
