"""What names mean: of splits, of files and folders, and of columns."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from prune_tool.records import Split

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""Names, in lower case, that mean a split."""

IMAGES = ("image", "img", "picture", "photo", "jpg", "png", "pixel_values")
PATHS = ("path", "file", "file_name", "filename", "image", "filepath", "file_path", "image_path", "img_path", "img")
LABELS = ("label", "class", "target", "labels", "category", "class_name", "fine_label", "y")
SPLIT_COLUMNS = ("split", "subset", "partition", "set")
"""Names of columns, in lower case, in the order in which they are looked for."""


def pick(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """The column that comes first in ``known``, whatever its case; None where there is none."""
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in known if name in by_name), None)


def splits_of_files(paths: Collection[Path]) -> dict[Path, Split | None]:
    """The split that each file's name (``train-00000-of-00004``), or else its folder's, says.

    Names count only where train is among them: the only file, called ``test``, is no test set.
    """
    said = {path: _split_in(path.stem) or SPLIT_NAMES.get(path.parent.name.lower()) for path in paths}
    return said if "train" in said.values() else dict.fromkeys(paths)


def shards_below(folder: Path, ending: str) -> list[Path]:
    """Files of an ending in a folder, in its ``data`` folder and in those named like a split, sorted."""
    inner = [p for p in folder.iterdir() if p.is_dir() and p.name.lower() in {"data", *SPLIT_NAMES}]
    return sorted(p for place in (folder, *inner) for p in place.iterdir() if p.suffix == ending and visible(p.name))


def _split_in(stem: str) -> Split | None:
    """The split that stands as a word in a name; None where none does, or several do."""
    found = {SPLIT_NAMES[word] for word in re.findall("[a-z]+", stem.lower()) if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def visible(name: str) -> bool:
    """Whether a file or folder is meant to be seen: ``__MACOSX`` and the like come out of archives."""
    return not name.startswith((".", "__"))


def few(names: Sequence[str]) -> str:
    """The first five names, and how many there are besides."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" * (len(names) > 5))
