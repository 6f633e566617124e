"""Images in class folders: ``cats/1.jpg``, or ``train/cats/1.jpg`` beside ``val/`` and ``test/``."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from prune_tool.errors import DataError
from prune_tool.records import Split
from prune_tool.task.decode import FORMATS
from prune_tool.task.files import FileImages
from prune_tool.task.naming import SPLIT_NAMES, few, visible

Found = dict[tuple[Split | None, str], list[Path]]
"""Image files by split and class."""


def open_folder(root: Path) -> FileImages:
    """Read a folder of class folders, or of train, val and test folders that hold them.

    Classes are the folders' names, sorted. Files are found at any depth below a class folder; names that do not end
    like an image's are passed over, and so are hidden ones.

    Raises:
        DataError: there are no class folders, only one class, a class without images, or splits that disagree on the
            classes.
    """
    asked = f"read class folders from {root}"
    found = _find(root, asked)
    classes = sorted({name for _, name in found})
    _check(found, classes, asked)
    rows = [
        (split, classes.index(name), path)
        for (split, name), paths in sorted(found.items(), key=lambda item: (item[0][0] or "", item[0][1]))
        for path in paths
    ]
    return FileImages(
        name=root.resolve().name,
        classes=tuple(classes),
        labels=np.array([label for _, label, _ in rows], dtype=np.int64),
        given_splits=tuple(split for split, _, _ in rows),
        paths=tuple(path for _, _, path in rows),
    )


def _find(root: Path, asked: str) -> Found:
    """All image files by split and class; splits are None where the first level is the classes."""
    folders = _subfolders(root)
    by_split = [(SPLIT_NAMES[f.name.lower()], f) for f in folders if f.name.lower() in SPLIT_NAMES and _subfolders(f)]
    if not by_split:
        return {(None, folder.name): images_below(folder) for folder in folders}
    split_folders = {folder for _, folder in by_split}
    others = [folder.name for folder in folders if folder not in split_folders and images_below(folder)]
    if others or "train" not in dict(by_split):
        wrong = f"{few(others)} with images beside them" if others else "no train"
        raise DataError(
            asked=asked,
            found=f"folders for splits, but {wrong}",
            remedy="Keep only train, val and test at the top, train among them, each with the same class folders",
        )
    found: Found = {}
    for split, folder in by_split:
        for class_folder in _subfolders(folder):
            found.setdefault((split, class_folder.name), []).extend(images_below(class_folder))
    return found


def _check(found: Found, classes: list[str], asked: str) -> None:
    if not classes:
        raise DataError(
            asked=asked,
            found="no class folders in it",
            remedy="Put the images of each class into a folder of its own: cats/1.jpg, dogs/1.jpg",
        )
    for split in {split for split, _ in found}:
        lacking = [name for name in classes if (split, name) not in found]
        if lacking:
            raise DataError(
                asked=asked,
                found=f"{split} has no folder for {few(lacking)}, which another split has",
                remedy="Give every split the same class folders",
            )
    empty = ["/".join(filter(None, key)) for key, paths in sorted(found.items(), key=str) if not paths]
    if empty:
        raise DataError(
            asked=asked,
            found=f"no images in {few(empty)} (images end in {', '.join(FORMATS)})",
            remedy="Add images or remove the folder",
        )
    if len(classes) == 1:
        raise DataError(
            asked=asked, found=f"only one class, {classes[0]}", remedy="Add a folder for at least one other class"
        )


def _subfolders(folder: Path) -> list[Path]:
    """Visible folders in a folder, sorted, without links that lead back to it or above it."""
    here = folder.resolve()
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_dir() and visible(entry.name) and not here.is_relative_to(entry.resolve())
    )


def images_below(folder: Path) -> list[Path]:
    """Visible image files at any depth, sorted. Links to files are followed, links to folders (they may loop) not."""
    return sorted(_walk(folder))


def _walk(folder: Path) -> Iterator[Path]:
    for parent, subfolders, files in os.walk(folder):
        subfolders[:] = filter(visible, subfolders)
        yield from (Path(parent, name) for name in files if visible(name) and Path(name).suffix.lower() in FORMATS)
