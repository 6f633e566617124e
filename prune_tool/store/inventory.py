"""What the cache holds, and its removal: whole entries, none that is in use, nothing that this tool did not make."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from prune_tool.errors import CacheError, RunError, UsageError
from prune_tool.store.atomic import PARTIAL_PREFIX, read_json
from prune_tool.store.features import ABOUT, SHARD_NAME
from prune_tool.store.kept import seal_of
from prune_tool.store.root import About, Lock, is_held, unwritable

Kind = Literal["features", "graphs", "findings", "latencies", "narrowings", "runtimes"]
KEY = re.compile(r"[0-9a-f]{32}")
ENDING = r"(?:\.seal)?\.(?:onnx|json|safetensors)"
KEPT_NAME = re.compile(rf"(?:{re.escape(PARTIAL_PREFIX)}[0-9a-f]+-)*([0-9a-f]{{32}}){ENDING}")
_SHOWN = 8  # digits of a key in messages: two of them never agree in a cache that a person looks at


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """Something that is removed as a whole.

    Attributes:
        key: 32 hexadecimal digits.
        kind: ``features`` of one backbone at one input size on one list of images, a compiled graph (``graphs``), the
            ``findings`` of an analysis, ``latencies`` of networks on one machine, weights of narrowed trunks
            (``narrowings``), or which of two ``runtimes`` is faster there.
        about: what it is of; None where the entry does not say.
        n_bytes: its size on disk.
        last_used: time, ISO 8601 in UTC.
        paths: its files and folder, the folder last.
    """

    key: str
    kind: Kind
    about: About | None
    n_bytes: int
    last_used: str
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What ``remove`` did: the entries it removed, and those it left because a process uses them."""

    removed: tuple[CacheEntry, ...]
    in_use: tuple[CacheEntry, ...]


def list_entries(root: Path) -> tuple[CacheEntry, ...]:
    """Everything in the cache, the most recently used first. Raises ``CacheError`` where it cannot be read."""
    try:
        found = [*_feature_entries(root), *_kept_files(root)]
    except OSError as error:
        raise unwritable(root, error) from error
    return tuple(sorted(found, key=lambda entry: (entry.last_used, entry.key), reverse=True))


def select(
    entries: Sequence[CacheEntry], keys: Sequence[str], older_than: timedelta | None = None
) -> tuple[CacheEntry, ...]:
    """Those that a key names (all, where there is none) and that were not used within ``older_than``.

    Args:
        entries: from ``list_entries``.
        keys: each the first digits of one entry's key.
        older_than: None for any age.

    Raises:
        UsageError: no entry has such a key, or several have.
    """
    chosen = [_named(entries, key) for key in keys] if keys else entries
    before = datetime.now(UTC) - (older_than or timedelta())
    return tuple(entry for entry in chosen if older_than is None or datetime.fromisoformat(entry.last_used) < before)


def remove(root: Path, entries: Sequence[CacheEntry]) -> Removal:
    """Remove entries; one that another process fills or reads stays.

    Raises:
        CacheError: a file cannot be removed. What was removed before it has gone.
    """
    removed, in_use = [], []
    for entry in entries:
        with Lock(root, entry.key).held_if_free() as free:
            if free and not is_held(root, entry.key):
                _delete(entry)
                removed.append(entry)
            else:
                in_use.append(entry)
    return Removal(removed=tuple(removed), in_use=tuple(in_use))


def _named(entries: Sequence[CacheEntry], key: str) -> CacheEntry:
    matching = [entry for entry in entries if key and entry.key.startswith(key)]
    if len(matching) == 1:
        return matching[0]
    asked = f"remove {key!r} from the cache"
    if not matching:
        raise UsageError(asked=asked, found="no such key", remedy="`prune-tool cache ls` lists them")
    keys = ", ".join(entry.key[: max(_SHOWN, len(key) + 1)] for entry in matching[:5])
    raise UsageError(asked=asked, found=f"{len(matching)} entries start so", remedy=f"Give more digits: {keys}")


def _feature_entries(root: Path) -> Iterator[CacheEntry]:
    for folder in sorted((root / "features").glob("*/*/")):
        if KEY.fullmatch(folder.name) and KEY.fullmatch(folder.parent.name) and not _is_link(folder):
            shards = [path for path in folder.iterdir() if SHARD_NAME.fullmatch(path.name)]
            partial = [path for path in folder.iterdir() if path.name.startswith(PARTIAL_PREFIX)]
            about = folder / ABOUT
            files = [*shards, *partial, *([about] if about.exists() else [])]
            if files:
                said = About.parse(_json(about))
                yield _entry(folder.name, "features", said, files, stamp=about, folder=folder)


def _kept_files(root: Path) -> Iterator[CacheEntry]:
    kinds: tuple[Kind, ...] = ("graphs", "findings", "latencies", "narrowings", "runtimes")
    for kind in kinds:
        by_key: dict[str, list[Path]] = {}
        for path in sorted((root / kind).glob("*")):
            if named := KEPT_NAME.fullmatch(path.name):
                by_key.setdefault(named[1], []).append(path)
        for key, files in by_key.items():
            seal = seal_of(root / kind / key)
            said = _json(seal)
            about = About.parse(said.get("about")) if isinstance(said, dict) else None
            yield _entry(key, kind, about, files, stamp=seal)


def _is_link(folder: Path) -> bool:
    return folder.is_symlink() or folder.parent.is_symlink() or folder.parents[1].is_symlink()


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except RunError:
        return None


def _entry(
    key: str,
    kind: Kind,
    about: About | None,
    files: Sequence[Path],
    *,
    stamp: Path,
    folder: Path | None = None,
) -> CacheEntry:
    """An entry of ``files``, last used when ``stamp`` was touched, or where it is absent, when a file was written."""
    n_bytes, written = 0, 0.0
    for path in files:
        with suppress(FileNotFoundError):  # another process may be tidying up
            status = path.stat()
            n_bytes += status.st_size
            written = max(written, status.st_mtime)
    with suppress(FileNotFoundError):
        written = stamp.stat().st_mtime
    return CacheEntry(
        key=key,
        kind=kind,
        about=about,
        n_bytes=n_bytes,
        last_used=datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds"),
        paths=(*files, *([folder] if folder is not None else [])),
    )


def _delete(entry: CacheEntry) -> None:
    """Delete files, then the folders that are empty; what else lies there is not ours and stays."""
    try:
        for path in entry.paths:
            if path.is_dir() and not path.is_symlink():
                for folder in (path, path.parent):
                    with suppress(OSError):
                        folder.rmdir()
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(
            asked=f"remove {entry.key[:_SHOWN]} from the cache",
            found=f"{path}: {error.strerror or error}",
            remedy="Remove it as a user who may write there",
        ) from error
