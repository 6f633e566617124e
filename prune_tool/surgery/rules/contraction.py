"""Operators that contract an axis with weights or with another value: convolution, linear, products, attention."""

from __future__ import annotations

import numpy as np

from prune_tool.surgery.demand import Demand, Indices, Kept, tidy
from prune_tool.surgery.site import Plan, Site, barrier


def convolution(site: Site) -> Plan:
    """Kept output channels are rows of the weight; they read their group's input channels, and all of space.

    Arguments: input (n, c_in, *space), weight (c_out, c_in / groups, *kernel), bias (c_out,), stride, padding,
    dilation, groups.
    """
    if len(site.shape) != len(site.input_shape(1)):  # one image without a batch
        return barrier(site)
    groups: int = site.args[6]
    rows = site.rounded(1)
    if groups > 1 and rows is not None:
        rows = _whole_groups(rows, site.shape[1], groups)
    touched = _touched_groups(rows, site.shape[1], groups)
    inputs = _channels_of(touched, site.input_shape(0)[1], groups)
    needs = {0: Demand.everything(len(site.shape)).replace(1, inputs), **_weight_rows(site, rows)}
    carries = Demand.everything(len(site.shape)).replace(1, rows)
    return site.plan(carries, needs, {6: groups if touched is None else len(touched)})


def _weight_rows(site: Site, rows: Kept) -> dict[int, Demand]:
    """The weight (argument 1) and the bias (argument 2, optional) restricted to ``rows``."""
    weight = Demand.everything(len(site.input_shape(1))).replace(0, rows)
    return {1: weight} if site.args[2] is None else {1: weight, 2: Demand((rows,))}


def _whole_groups(rows: Indices, n_rows: int, groups: int) -> Kept:
    """``rows``, widened to all rows of their groups where the groups would keep unequal numbers of them."""
    per_group = n_rows // groups
    owner, counts = np.unique(rows // per_group, return_counts=True)
    if np.all(counts == counts[0]):
        return rows
    return tidy((owner[:, None] * per_group + np.arange(per_group)).ravel(), n_rows)


def _touched_groups(rows: Kept, n_rows: int, groups: int) -> Kept:
    if rows is None or groups == 1:
        return None
    return tidy(np.unique(rows // (n_rows // groups)), groups)


def _channels_of(touched: Kept, n_inputs: int, groups: int) -> Kept:
    if touched is None:
        return None
    per_group = n_inputs // groups
    return (touched[:, None] * per_group + np.arange(per_group)).ravel()


def linear(site: Site) -> Plan:
    """Kept output features are rows of the weight; the input's last axis is read whole, its others pass through.

    Arguments: input (..., d_in), weight (d_out, d_in), bias (d_out,).
    """
    rows = site.rounded(len(site.shape) - 1)
    carries = site.out.replace(-1, rows)
    return site.plan(carries, {0: site.out.without(-1), **_weight_rows(site, rows)})


def matrix_product(site: Site) -> Plan:
    """Rows of the result read rows of the left factor, columns read columns of the right; batch axes broadcast.

    Arguments: left (..., m, k), right (..., k, n).
    """
    if min(len(site.input_shape(0)), len(site.input_shape(1))) < 2:
        return barrier(site)
    needs = {0: _factor(site, 0, -2), 1: _factor(site, 1, -1)}
    return site.plan(site.out, needs)


def _factor(site: Site, slot: int, own: int) -> Demand:
    """Demand on one factor: its ``own`` matrix axis and its batch axes as in the result, the contracted axis whole."""
    shape = site.input_shape(slot)
    batch = Demand(site.out.axes[:-2]).aligned(site.shape[:-2], shape[:-2])
    matrix: list[Kept] = [None, None]
    matrix[own] = site.out.axes[own]
    return Demand((*batch.axes, *matrix))


def attention(site: Site) -> Plan:
    """A kept token reads its own query and every key and value; a kept value dimension reads that dimension only.

    Arguments: query (..., l, d), key (..., s, d), value (..., s, d_v), mask broadcastable to (..., l, s), ...
    Heads are read alike in all three (grouped-query attention, where they differ in number, reads them whole).
    """
    same_heads = all(site.input_shape(slot)[:-2] == site.shape[:-2] for slot in range(3))
    out = site.out if same_heads else site.out.without(*range(len(site.shape) - 2))
    heads = out.without(-1, -2)
    needs = {0: heads.replace(-2, out.axes[-2]), 1: heads, 2: heads.replace(-1, out.axes[-1])}
    if site.args[3] is not None:
        scores = heads.replace(-2, out.axes[-2])
        needs[3] = scores.aligned((*site.shape[:-1], site.input_shape(1)[-2]), site.input_shape(3))
    if site.args[5]:  # causal: token i reads the keys up to i, so positions must stay as they are
        out = out.without(-2)
        needs[0] = heads
    return site.plan(out, needs)
