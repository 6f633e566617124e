"""The demand on a value: for every axis, which indices somebody downstream still reads.

A demand is a product set: the indices kept on one axis do not depend on those of another. ``None`` on an axis means
all of it. Everything the slicer decides is said in demands, so their algebra lives here and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
"""Ascending, distinct positions along one axis."""
Kept = Indices | None
"""What one axis keeps: some indices, or ``None`` for all of them."""


def same_kept(a: Kept, b: Kept) -> bool:
    """Whether two axes keep the same indices."""
    if a is None or b is None:
        return a is b
    return np.array_equal(a, b)


def tidy(kept: Kept, size: int) -> Kept:
    """``kept`` with "every index of an axis of ``size``" spelled ``None``."""
    return None if kept is not None and len(kept) == size else kept


def round_up(kept: Kept, size: int, multiple: int) -> Kept:
    """``kept`` widened by the first unused indices to a multiple of ``multiple`` (at most ``size``)."""
    if kept is None or len(kept) % multiple == 0:
        return kept
    wanted = min(size, -(-len(kept) // multiple) * multiple)
    unused = np.setdiff1d(np.arange(size), kept, assume_unique=True)
    return tidy(np.union1d(kept, unused[: wanted - len(kept)]), size)


@dataclass(frozen=True, slots=True)
class Demand:
    """What is read of one value: one ``Kept`` per axis."""

    axes: tuple[Kept, ...]

    @staticmethod
    def everything(rank: int) -> Demand:
        """All of a value with ``rank`` axes."""
        return Demand((None,) * rank)

    @property
    def is_everything(self) -> bool:
        """Whether no axis is restricted."""
        return all(kept is None for kept in self.axes)

    def replace(self, axis: int, kept: Kept) -> Demand:
        """This demand with another ``kept`` on ``axis`` (negative counts from the end)."""
        axes = list(self.axes)
        axes[axis] = kept
        return Demand(tuple(axes))

    def without(self, *axes: int) -> Demand:
        """This demand with all of ``axes`` read (negative count from the end)."""
        released = {axis % len(self.axes) for axis in axes} if self.axes else set()
        return Demand(tuple(None if i in released else kept for i, kept in enumerate(self.axes)))

    def union(self, other: Demand) -> Demand:
        """The smallest demand that contains both."""
        return Demand(tuple(_union(a, b) for a, b in zip(self.axes, other.axes, strict=True)))

    def aligned(self, shape: tuple[int, ...], other: tuple[int, ...]) -> Demand:
        """This demand on a value of ``shape``, on a value of shape ``other`` that broadcasts to it."""
        lead = len(shape) - len(other)
        return Demand(tuple(self.axes[lead + i] if n == shape[lead + i] else None for i, n in enumerate(other)))

    def tidy(self, shape: tuple[int, ...]) -> Demand:
        """This demand on a value of ``shape`` with whole axes spelled ``None``."""
        return Demand(tuple(tidy(kept, n) for kept, n in zip(self.axes, shape, strict=True)))

    def same_as(self, other: Demand) -> bool:
        """Whether both read exactly the same."""
        return all(same_kept(a, b) for a, b in zip(self.axes, other.axes, strict=True))

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what is read of a value of ``shape``."""
        return tuple(n if kept is None else len(kept) for n, kept in zip(shape, self.axes, strict=True))

    def volume(self, shape: tuple[int, ...]) -> int:
        """Number of elements read of a value of ``shape``."""
        return math.prod(self.sizes(shape))

    def within(self, carried: Demand) -> tuple[Kept, ...]:
        """Positions of what this demand reads inside a value that carries only ``carried`` (``None``: the axis as is).

        Raises:
            ValueError: something is read that is not carried (a rule's bug, never the user's).
        """
        return tuple(_positions(kept, have) for kept, have in zip(self.axes, carried.axes, strict=True))


def _union(a: Kept, b: Kept) -> Kept:
    return None if a is None or b is None else np.union1d(a, b)


def _positions(kept: Kept, have: Kept) -> Kept:
    if same_kept(kept, have):
        return None
    if have is None:
        return kept
    if kept is None:
        raise ValueError("all of an axis is read of which only a part is carried")
    found = np.searchsorted(have, kept)
    if found.max(initial=-1) >= len(have) or not np.array_equal(have[found], kept):
        raise ValueError("an index is read that is not carried")
    return found


def is_range(kept: Indices) -> bool:
    """Whether ``kept`` is contiguous, so that a slice can stand for a gather."""
    return len(kept) > 0 and int(kept[-1] - kept[0]) + 1 == len(kept)


def through_reshape(
    out: Demand, out_shape: tuple[int, ...], in_shape: tuple[int, ...], frozen: frozenset[int]
) -> tuple[Demand, Demand]:
    """Carry a demand backwards through a row-major reshape.

    Axes of both shapes fall into matching groups of equal size (``(2, 12) -> (2, 3, 4)`` has the groups 2:2 and
    12:3x4). Within a group the demanded product set is flattened and projected onto the other side's axes.

    Args:
        out: demand on the result.
        out_shape: its shape.
        in_shape: shape of the input.
        frozen: sizes that stand for a symbolic axis; a group with one of them is read whole.

    Returns:
        What the result will carry (a superset of ``out`` where the input's part is no product set) and what is
        needed of the input.
    """
    carries: list[Kept] = [None] * len(out_shape)
    needs: list[Kept] = [None] * len(in_shape)
    for ins, outs in _groups(in_shape, out_shape):
        in_sizes = tuple(in_shape[i] for i in ins)
        out_sizes = tuple(out_shape[i] for i in outs)
        wanted = Demand(tuple(out.axes[i] for i in outs))
        if wanted.is_everything or any(size in frozen for size in (*in_sizes, *out_sizes)):
            continue
        hull = _hull(_flat(wanted, out_sizes), in_sizes)
        back = _hull(_flat(hull, in_sizes), out_sizes)
        if back.volume(out_sizes) != hull.volume(in_sizes):
            continue
        for i, kept in zip(ins, hull.axes, strict=True):
            needs[i] = kept
        for i, kept in zip(outs, back.axes, strict=True):
            carries[i] = kept
    return Demand(tuple(carries)), Demand(tuple(needs))


def _groups(a: tuple[int, ...], b: tuple[int, ...]) -> list[tuple[range, range]]:
    """Finest common grouping of two factorisations of one number: ranges of axes with equal products."""
    ends_a, ends_b = np.cumprod((1, *a)), np.cumprod((1, *b))
    cuts: list[tuple[int, int]] = [(0, 0)]
    j = 0
    for i in range(1, len(a) + 1):
        while j < len(b) and ends_b[j] < ends_a[i]:
            j += 1
        if j > cuts[-1][1] and ends_b[j] == ends_a[i]:
            cuts.append((i, j))
    cuts[-1] = (len(a), len(b))
    if len(cuts) == 1:
        cuts.insert(0, (0, 0))
    return [(range(i0, i1), range(j0, j1)) for (i0, j0), (i1, j1) in pairwise(cuts)]


def _flat(demand: Demand, sizes: tuple[int, ...]) -> Indices:
    """Row-major positions of a product set, ascending."""
    flat = np.zeros(1, dtype=np.int64)
    for kept, size in zip(demand.axes, sizes, strict=True):
        along = np.arange(size) if kept is None else kept
        flat = (flat[:, None] * size + along[None, :]).ravel()
    return flat


def _hull(flat: Indices, sizes: tuple[int, ...]) -> Demand:
    """The smallest product set over ``sizes`` that contains the row-major positions ``flat``."""
    if not sizes:
        return Demand(())
    axes = np.unravel_index(flat, sizes)
    return Demand(tuple(tidy(np.unique(along).astype(np.int64), n) for along, n in zip(axes, sizes, strict=True)))
