"""The algebra of demands, against brute force over index arrays."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_tool.surgery.demand import Demand, is_range, round_up, through_reshape

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def positions(demand: Demand, shape: tuple[int, ...]) -> set[int]:
    """Row-major positions of everything demanded."""
    along = [np.arange(n) if kept is None else kept for kept, n in zip(demand.axes, shape, strict=True)]
    return set(np.arange(np.prod(shape)).reshape(shape)[np.ix_(*along)].ravel().tolist())


@st.composite
def demands(draw: st.DrawFn, shape: tuple[int, ...]) -> Demand:
    axes = []
    for n in shape:
        kept = draw(st.none() | st.sets(st.integers(0, n - 1), min_size=1))
        axes.append(None if kept is None else np.array(sorted(kept)))
    return Demand(tuple(axes)).tidy(shape)


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], Demand]:
    """Two shapes of one size, and a demand on the second."""
    factors = draw(st.lists(st.sampled_from([1, 2, 2, 3, 5]), min_size=1, max_size=5))

    def grouped(ordered: list[int]) -> tuple[int, ...]:
        cuts = [0, *sorted(draw(st.sets(st.integers(1, len(factors))))), len(factors)]
        return tuple(int(np.prod(ordered[a:b])) for a, b in pairwise(cuts))

    into = grouped(draw(st.permutations(factors)))
    return grouped(factors), into, draw(demands(into))


@given(reshapes())
def test_reshape_reads_all_that_is_demanded_and_carries_what_it_reads(case) -> None:
    source, into, out = case
    carries, needs = through_reshape(out, into, source, frozenset())
    assert positions(out, into) <= positions(carries, into)
    assert positions(carries, into) == positions(needs, source)


def test_reshape_splits_heads_without_loss() -> None:
    out = Demand((None, np.array([1]), None))
    carries, needs = through_reshape(out, (5, 3, 4), (5, 12), frozenset())
    assert carries.same_as(out)
    assert needs.same_as(Demand((None, np.array([4, 5, 6, 7]))))


def test_reshape_reads_a_group_whole_where_its_part_is_no_product_set() -> None:
    """Row 1 of (3, 2) is positions 2 and 3: the last of one row of (2, 3) and the first of the next."""
    carries, needs = through_reshape(Demand((np.array([1]), None)), (3, 2), (2, 3), frozenset())
    assert carries.is_everything
    assert needs.is_everything


def test_reshape_reads_symbolic_groups_whole() -> None:
    out = Demand((np.array([0]), np.array([1])))
    _, needs = through_reshape(out, (35, 6), (7, 5, 6), frozenset({7, 35}))
    assert needs.same_as(Demand((None, None, np.array([1]))))


@given(st.data())
def test_union_is_the_smallest_product_set_that_contains_both(data: st.DataObject) -> None:
    shape = tuple(data.draw(SIZES))
    a, b = data.draw(demands(shape)), data.draw(demands(shape))
    union = a.union(b)
    assert positions(a, shape) | positions(b, shape) <= positions(union, shape)
    for axis, kept in enumerate(union.tidy(shape).axes):
        for i in [] if kept is None else kept:
            assert any(d.axes[axis] is None or i in d.axes[axis] for d in (a, b))


@given(st.data())
def test_within_finds_the_same_numbers_in_what_is_carried(data: st.DataObject) -> None:
    shape = tuple(data.draw(SIZES))
    need = data.draw(demands(shape))
    carried = need.union(data.draw(demands(shape))).tidy(shape)
    value = np.arange(np.prod(shape)).reshape(shape)

    def taken(array, axes):
        return array[np.ix_(*[np.arange(n) if k is None else k for k, n in zip(axes, array.shape, strict=True)])]

    assert np.array_equal(taken(taken(value, carried.axes), need.within(carried)), taken(value, need.axes))


def test_reading_what_is_not_carried_is_refused() -> None:
    with pytest.raises(ValueError, match="not carried"):
        Demand((np.array([1, 3]),)).within(Demand((np.array([1, 2]),)))
    with pytest.raises(ValueError, match="only a part"):
        Demand((None,)).within(Demand((np.array([1, 2]),)))


@given(st.integers(1, 40), st.integers(1, 9), st.data())
def test_rounding_up_widens_to_the_multiple_or_to_all(size: int, multiple: int, data: st.DataObject) -> None:
    kept = np.array(sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1))))
    wide = round_up(kept, size, multiple)
    everything = np.arange(size) if wide is None else wide
    assert set(kept) <= set(everything)
    assert np.all(np.diff(everything) > 0)
    assert len(everything) == min(size, -(-len(kept) // multiple) * multiple)


@given(st.sets(st.integers(0, 12), min_size=1))
def test_a_range_is_what_a_slice_can_take(indices: set[int]) -> None:
    kept = np.array(sorted(indices))
    assert is_range(kept) == np.array_equal(kept, np.arange(kept[0], kept[-1] + 1))
