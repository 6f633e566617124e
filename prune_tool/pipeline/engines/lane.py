"""Shards computed on one device: images decoded ahead, batches run as many at once as the device likes.

Memory is bounded by what is in flight: a few chunks a decoding thread or worker, and one batch more than there are
streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from torch import Tensor

from prune_tool.pipeline.decode import Batch, Pixels, decode
from prune_tool.pipeline.engines.plan import Chunk, Plan, Shard, Shards
from prune_tool.pipeline.engines.runners import Neurons, Runner, n_streams

Result = dict[int, Neurons]
"""Neurons of a batch, by network."""

_Running = tuple[Chunk, Future[Result]]
"""A batch's last chunk, and the batch."""


def compute(
    plan: Plan,
    runners: Mapping[int, Runner],
    device: str,
    shards: Iterable[int],
    *,
    n_threads: int,
    n_workers: int,
    advance: Callable[[int], None] = lambda _images: None,
) -> Shards:
    """Compute shards.

    Args:
        plan: says of which images and networks.
        runners: of the networks, on ``device``.
        device: ``cpu`` or ``cuda:N``.
        shards: their numbers; read only as far ahead as images are decoded.
        n_threads: cores that this may use.
        n_workers: processes that decode; with 0, threads of this process do.
        advance: told how many images are done.

    Yields:
        Every shard, in order.

    Raises:
        PruneToolError: as ``decode`` and the runners.
    """
    taken: deque[Chunk] = deque()
    batches = _batches(plan.chunks(shards), taken)
    decoded = decode(plan.decoder, batches, n_threads=n_threads, n_workers=n_workers, pinned="cuda" in device)
    streams = n_streams(device, n_threads)
    pool = ThreadPoolExecutor(streams)
    running: deque[_Running] = deque()
    done: list[Result] = []
    parts: list[Pixels] = []
    failures: list[BaseException] = []
    try:
        for pixels in _to_the_end(decoded, failures):
            chunk = taken.popleft()
            parts.append(pixels)
            if chunk.ends_batch:
                running.append((chunk, pool.submit(_run, runners, tuple(parts))))
                parts.clear()
            while len(running) > streams:
                yield from _collect(running, done, advance)
        while running:
            yield from _collect(running, done, advance)
        if failures:
            raise failures[0]
    finally:
        pool.shutdown(cancel_futures=True)
        decoded.close()


def _batches(chunks: Iterable[Chunk], taken: deque[Chunk]) -> Iterator[Batch]:
    """What is to be decoded of each chunk, which is put down as taken."""
    for chunk in chunks:
        taken.append(chunk)
        yield chunk.batch


def _to_the_end(decoded: Iterator[Pixels], failures: list[BaseException]) -> Iterator[Pixels]:
    """What is decoded up to the first failure, which is put down: the batches before it are still worth finishing."""
    try:
        yield from decoded
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 - raised by the caller
        failures.append(error)


def _run(runners: Mapping[int, Runner], parts: Sequence[Mapping[int, Tensor]]) -> Result:
    return {i: runners[i]([part[i] for part in parts]) for i in parts[0]}


def _collect(running: deque[_Running], done: list[Result], advance: Callable[[int], None]) -> Iterator[Shard]:
    """Wait for the oldest batch; a shard that it completes is handed on."""
    chunk, future = running.popleft()
    done.append(future.result())
    advance(chunk.n_batch)
    if chunk.ends_shard:
        yield chunk.shard, {i: _joined([result[i] for result in done]) for i in done[0]}
        done.clear()


def _joined(parts: Sequence[Neurons]) -> Neurons:
    return {tap: np.concatenate([part[tap] for part in parts]) for tap in parts[0]}
