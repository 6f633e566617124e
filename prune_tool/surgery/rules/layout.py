"""Operators that move, cut, join or reduce axes without weights."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, ops

from prune_tool.surgery.demand import Demand, Kept, through_reshape
from prune_tool.surgery.site import Plan, Rule, Site, Slot, barrier, shape_of, symbolic_axes

aten = ops.aten


def reshape(site: Site) -> Plan:
    """Any row-major change of shape; sizes are rewritten to what is kept, the batch is inferred."""
    source = site.input(0)
    symbolic = symbolic_axes(site.node)
    if len(symbolic) > 1:
        return barrier(site)
    in_shape = shape_of(source)
    frozen = frozenset(in_shape[i] for i in symbolic_axes(source)) | frozenset(site.shape[i] for i in symbolic)
    carries, need = through_reshape(site.out, site.shape, in_shape, frozen)
    sizes = [-1 if i in symbolic else n for i, n in enumerate(carries.sizes(site.shape))]
    return site.plan_call(carries, {(0,): need}, (source, sizes), aten.reshape.default)


def permute(site: Site) -> Plan:
    """Arguments: input, dims."""
    return _permuted(site, [site.axis(d) for d in site.args[1]])


def transpose(site: Site) -> Plan:
    """Arguments: input, dim0, dim1."""
    order = list(range(len(site.shape)))
    a, b = site.axis(site.args[1]), site.axis(site.args[2])
    order[a], order[b] = order[b], order[a]
    return _permuted(site, order)


def _permuted(site: Site, order: Sequence[int]) -> Plan:
    need: list[Kept] = [None] * len(order)
    for to, source in enumerate(order):
        need[source] = site.out.axes[to]
    return site.plan(site.out, {0: Demand(tuple(need))})


def expand(site: Site) -> Plan:
    """A repeated axis of size one is read whole; sizes are rewritten. Arguments: input, sizes (or a tensor of them)."""
    in_shape, symbolic = site.input_shape(0), symbolic_axes(site.node)
    lead = len(site.shape) - len(in_shape)
    kept_size = [i >= lead and in_shape[i - lead] == n for i, n in enumerate(site.shape)]
    if isinstance(site.args[1], fx.Node) and not all(kept_size[i] for i in symbolic):
        return barrier(site)
    need = Demand(tuple(site.out.axes[lead + i] if kept_size[lead + i] else None for i in range(len(in_shape))))
    sizes = [
        (-1 if kept_size[i] else site.args[1][i]) if i in symbolic else n
        for i, n in enumerate(site.out.sizes(site.shape))
    ]
    return site.plan_call(site.out, {(0,): need}, (site.input(0), sizes), aten.expand.default)


def slice_(site: Site) -> Plan:
    """The kept part of the range is demanded of the input, and nothing is left to do.

    Arguments: input, dim, start, end, step.
    """
    axis = site.axis(site.args[1])
    _, _, start, end, step = site.args
    if start in (0, None) and end == sys.maxsize and step == 1:  # x[:, 0] begins by taking all of the batch
        return site.plan_call(site.out, {(0,): site.out}, site.args[:1], None)
    if axis in symbolic_axes(site.node) or not all(isinstance(a, int | None) for a in site.args[2:]):
        return barrier(site)
    taken = np.arange(site.input_shape(0)[axis])[slice(*site.args[2:])]
    kept = site.out.axes[axis]
    need = site.out.replace(axis, taken if kept is None else taken[kept])
    return site.plan_call(site.out, {(0,): _whole_if_all(need, site.input_shape(0))}, site.args[:1], None)


def select(site: Site) -> Plan:
    """One index of an axis is demanded of the input. Arguments: input, dim, index."""
    shape = site.input_shape(0)
    axis, index = site.args[1] % len(shape), site.args[2]
    if axis in symbolic_axes(site.input(0)) or not isinstance(index, int):
        return barrier(site)
    kept = np.array([index % shape[axis]])
    need = Demand((*site.out.axes[:axis], kept, *site.out.axes[axis:]))
    return site.plan(site.out, {0: _whole_if_all(need, shape)}, {1: axis, 2: 0})


def index_select(site: Site) -> Plan:
    """The indexed axis is read whole, of the index what is kept. Arguments: input, dim, index (n,)."""
    axis = site.axis(site.args[1])
    return site.plan(site.out, {0: site.out.without(axis), 2: Demand((site.out.axes[axis],))})


def index(site: Site) -> Plan:
    """Indexed axes are read whole, the others pass through; of the index tensors (aligned right) what is kept.

    Arguments: input, one index tensor or ``None`` per axis. Masks, and tensors with axes between them, have no rule.
    """
    indexed = [i for i, at in enumerate(site.args[1]) if at is not None]
    first, last = indexed[0], indexed[-1] + 1
    tensors = [site.args[1][i] for i in indexed]
    if len(indexed) != last - first or any(t.meta["val"].dtype == torch.bool for t in tensors):
        return barrier(site)
    rank = len(site.input_shape(0))
    n_made = len(site.shape) - (rank - len(indexed))
    made, made_shape = Demand(site.out.axes[first : first + n_made]), site.shape[first : first + n_made]
    source = Demand((*site.out.axes[:first], *(None,) * len(indexed), *site.out.axes[first + n_made :]))
    needs: dict[Slot, Demand] = {
        (1, i): made.aligned(made_shape, shape_of(t)) for i, t in zip(indexed, tensors, strict=True)
    }
    return site.plan_call(site.out, {(0,): source, **needs}, site.args, site.target)


def _whole_if_all(need: Demand, shape: tuple[int, ...]) -> Demand:
    return Demand(tuple(None if k is not None and len(k) == n else k for k, n in zip(need.axes, shape, strict=True)))


def concatenate(site: Site) -> Plan:
    """Each part reads the kept indices that fall into it; a part without any is dropped. Arguments: parts, dim."""
    axis = site.axis(site.args[1])
    kept = site.out.axes[axis]
    parts: list[Any] = []
    needs: dict[Slot, Demand] = {}
    start = 0
    for part in site.args[0]:
        size = shape_of(part)[axis]
        inside = None if kept is None else kept[(kept >= start) & (kept < start + size)] - start
        start += size
        if inside is not None and len(inside) == 0:
            continue
        need = site.out.replace(axis, None if inside is not None and len(inside) == size else inside)
        needs[0, len(parts)] = need
        parts.append(part)
    if len(parts) == 1:
        return Plan(carries=site.out, needs={(0,): needs[0, 0]}, args=(parts[0],), target=None)
    return Plan(carries=site.out, needs=needs, args=(parts, *site.args[1:]), target=site.target)


def stack(site: Site) -> Plan:
    """The kept parts are stacked; the others are dropped. Arguments: parts, dim."""
    axis = site.axis(site.args[1])
    kept = site.out.axes[axis]
    parts = [part for i, part in enumerate(site.args[0]) if kept is None or i in kept]
    need = Demand((*site.out.axes[:axis], *site.out.axes[axis + 1 :]))
    needs: dict[Slot, Demand] = {(0, i): need for i in range(len(parts))}
    return Plan(carries=site.out, needs=needs, args=(parts, *site.args[1:]), target=site.target)


def shift(site: Site) -> Plan:
    """Rolled or flipped axes are read whole. Arguments: input, ..., dims last."""
    dims = site.args[-1]
    out = site.out.without(*(dims or range(len(site.shape))))
    return site.plan(out, {0: out})


def along(dim_slot: int) -> Rule:
    """Rule of an operator that mixes one axis, argument ``dim_slot``, and leaves the others alone (a running sum)."""

    def rule(site: Site) -> Plan:
        out = site.out.without(site.args[dim_slot])
        return site.plan(out, {0: out})

    return rule


def pad(site: Site) -> Plan:
    """Padded axes are read whole. Arguments: input, pad (last axis first, two numbers an axis), ..."""
    padding: Sequence[int] = site.args[1]
    padded = [-1 - i // 2 for i in range(0, len(padding), 2) if padding[i] or padding[i + 1]]
    out = site.out.without(*padded)
    return site.plan(out, {0: out})


def over_space(site: Site) -> Plan:
    """Pooling and resizing: all of space is read, channels (axis 1) pass through. Argument 0: input (n, c, h, w)."""
    if len(site.shape) != 4:  # one image without a batch: axis 1 is a row
        return barrier(site)
    out = Demand.everything(len(site.shape)).replace(1, site.out.axes[1])
    return site.plan(out, {0: out})


def reduce(dims_slot: int) -> Rule:
    """Rule of a reduction whose axes are argument ``dims_slot`` and whose ``keepdim`` follows it."""

    def rule(site: Site) -> Plan:
        rank = len(site.input_shape(0))
        dims = site.args[dims_slot]
        reduced = {d % rank for d in ([dims] if isinstance(dims, int) else dims or range(rank))}
        keepdim = site.args[dims_slot + 1]
        passed = iter(site.out.axes)
        need = [next(passed) if axis not in reduced or keepdim else None for axis in range(rank)]
        need = [None if axis in reduced else kept for axis, kept in enumerate(need)]
        return site.plan(site.out, {0: Demand(tuple(need))})

    return rule
