"""A function applied to items in worker processes, results in order: for work that holds Python's lock.

Workers are forked from a server that imported what they need and runs no thread, so that none starts with a lock that
a thread of ONNX Runtime or PyTorch held. They do not run the user's script again, take no notice of Ctrl-C (this
process ends them), and end when this process does, however it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from prune_tool.errors import PruneToolError, WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")

N_AHEAD = 2
"""Items given to each worker before the first is called for: one in hand and one waiting."""

PRELOADED = ["prune_tool.pipeline.decode"]
"""Imported once by the server that workers are forked from; importing PyTorch and timm takes seconds."""

REMEDY = (
    "Run the same command again: it goes on where it stopped. Workers that die again lack memory (take fewer: --workers"
    " 2) or shared memory (in a container: docker run --shm-size 8g); --workers 0 decodes without processes"
)

_starting = threading.Lock()


class _Applied(Dataset[Any]):
    """A pickled function as a data set: item ``i`` is its result, or the error that a user can mend."""

    def __init__(self, pickled: bytes) -> None:
        self._pickled: bytes | None = pickled
        self._function: Callable[[Any], Any] | None = None

    def __getitem__(self, item: Any) -> Any:
        if self._function is None:
            assert self._pickled is not None
            self._function, self._pickled = pickle.loads(self._pickled), None  # noqa: S301 - this program wrote it
        try:
            return self._function(item)
        except PruneToolError as error:  # the loader would turn it into a RuntimeError
            return error


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], n_workers: int, *, pinned: bool = False
) -> Generator[Result, None, None]:
    """Apply ``function`` to every item.

    Args:
        function: can be pickled, which happens once; returns tensors, or containers of them, that then lie in memory
            that both processes see.
        items: read ``N_AHEAD * n_workers`` ahead.
        n_workers: processes.
        pinned: copy the tensors into page-locked memory.

    Raises:
        PruneToolError: what the function raised; other exceptions arrive as a ``RuntimeError`` with their traceback.
        WorkerError: a worker died.
    """
    loader = DataLoader(
        _Applied(pickle.dumps(function)),
        sampler=items,
        batch_size=None,  # an item is a batch already
        collate_fn=_as_it_is,
        num_workers=n_workers,
        prefetch_factor=N_AHEAD,
        pin_memory=pinned,
        multiprocessing_context=_context(),
        worker_init_fn=_end_with_parent,
        generator=torch.Generator(),  # else it would draw from the global one
    )
    with _starting, _without_main(), _deaf_to_interrupts():
        results = iter(loader)
    try:
        yield from _received(results)
    finally:
        results._shutdown_workers()  # type: ignore[attr-defined]  # noqa: SLF001 - else a traceback keeps them alive


def _received(results: Iterator[Any]) -> Iterator[Any]:
    while True:
        try:
            result = next(results)
        except StopIteration:
            return
        except RuntimeError as error:
            if "worker (pid" not in str(error):
                raise
            raise WorkerError(
                asked="decode images in worker processes",
                found=str(error).strip().splitlines()[0],
                remedy=REMEDY,
            ) from error
        if isinstance(result, PruneToolError):
            raise result
        yield result


def _context() -> multiprocessing.context.BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@contextmanager
def _without_main() -> Iterator[None]:
    """Start processes that do not import the user's script: it may do its work without asking for its own name."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Start processes that inherit a mask against SIGINT, which a terminal sends to them too."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(_worker: int) -> None:
    """End this worker as soon as the process that started it is gone, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _as_it_is(result: Any) -> Any:
    return result
