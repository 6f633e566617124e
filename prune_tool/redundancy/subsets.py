"""Which neurons, and how many: seeded random subsets, as prefixes of permutations.

Every draw sorts raw 64-bit words of PCG64 under its own child seed. NumPy promises those words for good (NEP 19), but
not what ``Generator.permutation`` makes of them, so the same seed draws the same neurons in every version; and draw
``i`` does not depend on how many draws were asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prune_tool.errors import UsageError
from prune_tool.redundancy.checks import Int64

_DRAWS, _POOLS, _INTERLEAVED = 0, 1, 3  # first word of the child seed: kinds of draws share no random words


def draw_permutations(width: int, n_draws: int, seed: int) -> Int64:
    """Uniform permutations of ``0..width - 1``, ``(n_draws, width)`` int64: a row's prefixes are nested subsets."""
    draws = [_permutation(width, seed, (_DRAWS, draw)) for draw in range(n_draws)]
    return np.array(draws, np.int64).reshape(n_draws, width)


def draw_interleaved(width: int, n_parts: int, seed: int, place: int) -> Int64:
    """A uniform permutation within each of ``n_parts`` equal runs of ``0..width - 1``; the runs take turns.

    Args:
        width: a multiple of ``n_parts``.
        n_parts: runs.
        seed: of the draw.
        place: which of the draws of this seed: they are independent.

    Returns:
        ``(width,)`` int64. A prefix of ``n_parts * k`` has ``k`` of each run.
    """
    per_part = width // n_parts
    draws = [_permutation(per_part, seed, (_INTERLEAVED, place, part)) for part in range(n_parts)]
    return (np.array(draws, np.int64) + per_part * np.arange(n_parts)[:, None]).T.ravel()


def draw_pool(widths: Mapping[str, int], max_pool: int, seed: int) -> dict[str, Int64]:
    """A seeded random pool over several taps, each in proportion to its width (largest remainder, ties to the earlier).

    Args:
        widths: neurons of each tap.
        max_pool: most neurons in the pool; every neuron is taken where they are no more than that.
        seed: of the draw.

    Returns:
        For each tap, in the order of ``widths``, the ascending int64 indices of its neurons in the pool (maybe none).

    Raises:
        UsageError: ``max_pool`` is not positive.
    """
    if max_pool < 1:
        raise UsageError(
            asked=f"a pool of {max_pool} neurons", found="an empty pool", remedy="Ask for at least one neuron"
        )
    quotas = _quotas(np.array(list(widths.values()), np.int64), max_pool)
    return {
        tap: np.sort(_permutation(width, seed, (_POOLS, place))[:quota])
        for place, ((tap, width), quota) in enumerate(zip(widths.items(), quotas, strict=True))
    }


def size_grid(width: int, n_sizes: int) -> Int64:
    """``min(n_sizes, width)`` ascending int64 sizes from 1 to ``width``, both included, as geometric as integers allow.

    One size is ``width`` alone. Raises ``UsageError`` where ``width`` or ``n_sizes`` is not positive.
    """
    if width < 1 or n_sizes < 1:
        raise UsageError(
            asked=f"{n_sizes} sizes up to {width} neurons",
            found="nothing to measure",
            remedy="Ask for at least one of each",
        )
    n_sizes = min(n_sizes, width)
    sizes = [1] if n_sizes > 1 else [width]
    while len(sizes) < n_sizes:
        ratio = (width / sizes[-1]) ** (1 / (n_sizes - len(sizes)))
        sizes.append(max(sizes[-1] + 1, round(sizes[-1] * ratio)))
    return np.array(sizes, np.int64)


def _permutation(width: int, seed: int, child: tuple[int, ...]) -> Int64:
    words = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=child)).random_raw(width)
    return np.argsort(words, kind="stable")


def _quotas(widths: Int64, max_pool: int) -> Int64:
    """``max_pool`` seats over ``widths (t,)`` by largest remainder, in integers so that no rounding decides."""
    total = int(widths.sum())
    if total <= max_pool:
        return widths
    quotas, remainders = np.divmod(widths * max_pool, total)
    late_first = np.argsort(-remainders, kind="stable")
    quotas[late_first[: max_pool - int(quotas.sum())]] += 1
    return quotas
