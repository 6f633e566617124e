"""Files that are either the old one or the new one, never half of either."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prune_tool.errors import RunError

PARTIAL_PREFIX = ".partial-"
"""How the name of an unfinished file starts. A kill leaves it behind; whoever owns the folder may delete it."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file completely or not at all.

    The block writes to the temporary path that this yields (same folder, same suffix). When it ends well, the file is
    flushed to the disk and renamed onto ``path``; when it raises, whatever it raises, the temporary file is removed and
    ``path`` is as it was.

    Args:
        path: the file to create or replace. Its folder exists.

    Yields:
        A path in the same folder that does not exist yet.

    Raises:
        OSError: the block wrote no file, the disk is full, or the folder cannot be written.
    """
    partial = path.with_name(f"{PARTIAL_PREFIX}{secrets.token_hex(4)}-{path.name}")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    if os.name == "posix":
        _flush(path.parent)  # the rename itself lives in the folder


def share(source: Path, target: Path) -> None:
    """Let ``target`` hold what ``source`` holds, taking no room where the file system can link.

    Nothing in this package writes into a file that stands, so what both share stays as it is.

    Raises:
        OSError: ``source`` cannot be read, the disk is full, or the folder cannot be written.
    """
    with replacing(target) as partial:
        try:
            os.link(source, partial)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, partial)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def as_json_text(value: object) -> str:
    """``value`` as indented JSON that ends with a newline.

    Dataclasses become objects, tuples and numpy arrays lists, numpy numbers numbers and paths strings.

    Raises:
        TypeError: the value holds something else.
        ValueError: the value holds a NaN or an infinity, which JSON does not have.
    """
    return json.dumps(value, default=_plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented UTF-8 JSON (see ``as_json_text``), atomically.

    Raises:
        RunError: the file cannot be written.
    """
    text = as_json_text(value)
    try:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(
            asked=f"write {path}",
            found=error.strerror or str(error),
            remedy="Free some space or choose a folder that can be written",
        ) from error


def _plain(value: object) -> object:
    """What JSON knows in place of ``value``, which it does not know; called by ``json`` for every such part."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON: {value!r}")


def read_json(path: Path) -> Any:
    """Read a JSON file that this tool wrote.

    Returns:
        Plain dictionaries, lists, strings and numbers.

    Raises:
        RunError: there is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(
            asked=f"read {path}",
            found=error.strerror or str(error),
            remedy="Run the command that writes it first, or give another run folder",
        ) from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise RunError(
            asked=f"read {path}",
            found=f"not JSON ({error})",
            remedy="Delete it and run the command that wrote it again",
        ) from error
