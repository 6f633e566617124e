"""The check up front that every image can be decoded, so that no run fails at its last image."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from prune_tool.errors import BadImageError
from prune_tool.task.images import ImageSource

CHUNK = 64
"""Images per task: long enough to hide a task's cost, short enough to stop soon after an interrupt."""


def find_bad(source: ImageSource, indices: Sequence[int], n_threads: int) -> dict[int, str]:
    """Decode images and collect those that cannot be.

    Args:
        source: the images.
        indices: (n,) numbers of the images to decode.
        n_threads: how many are decoded at once (Pillow works without the interpreter lock).

    Returns:
        What is wrong with each bad image, by its number, in the order of ``indices``.
    """
    return {i: error.found for i, error in _failures(source, indices, n_threads)}


def require_readable(source: ImageSource, indices: Sequence[int], n_threads: int) -> None:
    """Decode images; the first that cannot be is raised.

    Raises:
        BadImageError: names that image and says how many there are like it.
    """
    failures = _failures(source, indices, n_threads)
    if failures:
        _, first = failures[0]
        others = f" ({len(failures)} of {len(indices)} images cannot be read)"
        raise BadImageError(asked=first.asked, found=first.found + others, remedy=first.remedy) from first


def _failures(source: ImageSource, indices: Sequence[int], n_threads: int) -> list[tuple[int, BadImageError]]:
    def check(chunk: Sequence[int]) -> list[tuple[int, BadImageError]]:
        failures = []
        for i in chunk:
            try:
                source.read(i)
            except BadImageError as error:
                failures.append((i, error))
        return failures

    chunks = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
    pool = ThreadPoolExecutor(n_threads)
    try:
        return [failure for failures in pool.map(check, chunks) for failure in failures]
    finally:
        pool.shutdown(cancel_futures=True)
