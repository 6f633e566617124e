"""Where the cache lies, who uses which part of it now, and what is said where it cannot be written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from prune_tool.errors import CacheError

if sys.platform != "win32":
    import fcntl

CACHE_VARIABLE = "PRUNE_TOOL_CACHE"
"""Environment variable that says where the cache lies."""

Say = Callable[[str], None]
"""Takes one line for whoever watches."""


def cache_root() -> Path:
    """The folder that ``PRUNE_TOOL_CACHE`` names, or else the platform's cache folder for this tool."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("prune-tool"))


def unwritable(place: Path, error: OSError) -> CacheError:
    """What to raise where the operating system refuses ``place``."""
    return CacheError(
        asked=f"use the feature cache {place}",
        found=error.strerror or str(error),
        remedy=f"Free some space (`prune-tool cache ls` says what takes it), or set {CACHE_VARIABLE} to a folder on a"
        " disk that has some and can be written",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a part of the cache is of, for people; nothing is decided by it.

    Attributes:
        model: name of the backbone.
        input_sizes: in pixels.
        data: name of the images; None where it depends on none.
        n_images: of those, how many.
        taps: names of the modules tapped.
    """

    model: str
    input_sizes: tuple[int, ...]
    data: str | None = None
    n_images: int | None = None
    taps: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON; ``parse`` reads it back."""
        return asdict(self)

    @staticmethod
    def parse(value: Any) -> About | None:
        """What ``as_dict`` made, or None where it is something else."""
        try:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
            return About(**fields)
        except (AttributeError, TypeError):
            return None


class Lock:
    """Keeps other processes from filling a part of the cache. The operating system frees that of a killed process.

    Locks lie in a folder of their own and are never deleted: a deleted lock can be held twice.
    """

    def __init__(self, root: Path, name: str, on_wait: Say | None = None) -> None:
        self.root, self.path = root, root / "locks" / f"{name}.lock"
        self._on_wait = on_wait
        # One lock for all threads: the one that extracts may write while another holds the entry.
        self._lock = FileLock(self.path, thread_local=False)

    @contextmanager
    def held(self, what: str) -> Iterator[bool]:
        """Hold it; waits for a process that does, and says so. Yields whether this is the outermost hold here.

        Raises:
            CacheError: the cache cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                if self._on_wait is not None:
                    self._on_wait(f"waiting for another process, which works on the same {what}")
                self._lock.acquire()
        except OSError as error:
            raise unwritable(self.root, error) from error
        try:
            yield self._lock.lock_counter == 1
        finally:
            self._lock.release()

    @contextmanager
    def held_if_free(self) -> Iterator[bool]:
        """Hold it unless another process does; yields whether it is held."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise unwritable(self.root, error) from error
        try:
            yield True
        finally:
            self._lock.release()


def hold(root: Path, name: str) -> int | None:
    """Keep ``cache rm`` from a part that is being read, until the descriptor that this returns is closed.

    Any number of processes may. None where the cache cannot be written: then nobody can remove from it either; and on
    Windows, which keeps open files itself.
    """
    if sys.platform == "win32":
        return None
    with suppress(OSError):
        (root / "locks").mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root / "locks" / f"{name}.use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # being removed this moment; whoever reads will notice what has gone
            os.close(descriptor)
            return None
        return descriptor
    return None


def is_held(root: Path, name: str) -> bool:
    """Whether some process ``hold`` s it, this one included."""
    if sys.platform == "win32":
        return False
    try:
        descriptor = os.open(root / "locks" / f"{name}.use", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
