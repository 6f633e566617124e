"""Single files of the cache: compiled graphs and findings, each made once, by one process, and trusted by its checksum.

The checksum lies beside the file, in its seal, with what the file is of. A file without a seal that fits does not
count: it is made again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prune_tool.errors import RunError
from prune_tool.store.atomic import PARTIAL_PREFIX, as_json_text, read_json, replacing
from prune_tool.store.fingerprint import file_fingerprint
from prune_tool.store.root import About, Lock, Say, unwritable


class KeptFile:
    """A file of the cache, which need not be there yet."""

    def __init__(self, root: Path, path: Path, on_wait: Say | None = None) -> None:
        self.path = path
        self.seal = seal_of(path)
        self._lock = Lock(root, path.stem, on_wait)

    def is_whole(self) -> bool:
        """Whether it is there, undamaged; notes that it was used now where the cache can be written."""
        try:
            whole = bool(read_json(self.seal)["sha256"] == file_fingerprint(self.path))
        except (OSError, RunError, KeyError, TypeError):
            return False
        if whole:
            with suppress(OSError):
                os.utime(self.seal)
        return whole

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from making it; waits for one that does. Raises ``CacheError``."""
        with self._lock.held(self.path.parent.name):
            for leftover in self.path.parent.glob(f"{PARTIAL_PREFIX}*{self.path.stem}*"):
                with suppress(OSError):
                    leftover.unlink()
            yield

    def write(self, make: Callable[[Path], object], about: About) -> None:
        """Make it, whole or not at all.

        Args:
            make: writes to the path it is given.
            about: what the file is of.

        Raises:
            CacheError: the cache cannot be written, or the disk is full.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as partial:
                make(partial)
                seal = as_json_text({"sha256": file_fingerprint(partial), "about": about.as_dict()})
                with replacing(self.seal) as partial_seal:
                    partial_seal.write_text(seal, encoding="utf-8")
        except OSError as error:
            raise unwritable(self.path.parent, error) from error

    def ensure(self, make: Callable[[Path], object], about: About) -> Path:
        """Its path; made where it is not whole, by one process while others wait. Arguments, errors: see ``write``."""
        if not self.is_whole():
            with self.locked():
                if not self.is_whole():
                    self.write(make, about)
        return self.path


def seal_of(path: Path) -> Path:
    """Where the seal of a kept file lies."""
    return path.with_name(f"{path.stem}.seal.json")
