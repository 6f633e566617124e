"""Normalisations and softmax: what is averaged over is read whole, the rest passes through."""

from __future__ import annotations

import numpy as np

from prune_tool.surgery.demand import Demand, tidy
from prune_tool.surgery.site import Plan, Site


def batch_norm(site: Site) -> Plan:
    """Every channel is its own affine map, of its own statistics.

    Frozen statistics leave all axes apart; statistics of the input itself (standardised weights are made this way)
    read all but the channel axis whole.

    Arguments: input (n, c, ...), weight, bias, running mean, running variance (each (c,) or absent), training, ...
    """
    channels = Demand((site.out.axes[1],))
    frozen = not site.args[5]
    out = site.out if frozen else Demand.everything(len(site.shape)).replace(1, site.out.axes[1])
    return site.plan(out, {0: out, **{i: channels for i in range(1, 5) if site.args[i] is not None}})


def layer_norm(site: Site) -> Plan:
    """The normalised axes (the last ones) are read whole; tokens pass through.

    Arguments: input (..., *normalized_shape), normalized_shape, weight, bias, eps, ...
    """
    out = site.out.without(*range(-len(site.args[1]), 0))
    return site.plan(out, {0: out})


def group_norm(site: Site) -> Plan:
    """A kept channel reads its whole group, over all of space; the result carries whole groups.

    Arguments: input (n, c, ...), num_groups, weight (c,), bias (c,), eps, ...
    """
    n_channels, n_groups = site.shape[1], site.args[1]
    per_group = n_channels // n_groups
    kept = site.out.axes[1]
    out = Demand.everything(len(site.shape))
    if kept is None:
        return site.plan(out, {})
    groups = np.unique(kept // per_group)
    channels = tidy((groups[:, None] * per_group + np.arange(per_group)).ravel(), n_channels)
    out = out.replace(1, channels)
    weights = {i: Demand((channels,)) for i in (2, 3) if site.args[i] is not None}
    return site.plan(out, {0: out, **weights}, {1: len(groups)})


def softmax(site: Site) -> Plan:
    """The softmax axis is read whole. Arguments: input, dim, ..."""
    out = site.out.without(site.args[1])
    return site.plan(out, {0: out})
