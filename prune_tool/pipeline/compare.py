"""Random subsets of the penultimate layer beside the alternatives: what does randomness cost?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from prune_tool import defaults
from prune_tool.pipeline.features import FitData
from prune_tool.pipeline.measure import moments_of
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Comparison, Reading
from prune_tool.redundancy.checks import Features
from prune_tool.redundancy.directions import in_order, principal_basis, project, random_basis
from prune_tool.redundancy.moments import Moments
from prune_tool.redundancy.pivoted import pivoted_order
from prune_tool.redundancy.similarity import linear_cka
from prune_tool.redundancy.subsets import draw_permutations, size_grid
from prune_tool.redundancy.sweep import sweep_draws
from prune_tool.surgery.taps import HEAD


def compare(workspace: Workspace, data: FitData) -> tuple[Comparison, ...]:
    """Random, pivoted and first neurons, principal directions and random projections, all ending at the whole layer.

    Neurons are subsets that can be cut out of a network; directions mix all neurons, so they save nothing and are
    shown as bounds. Every curve is of exact ridge probes on validation images, as in the sweep.
    """
    with workspace.progress.stage("comparing with other selections", 5) as advance:
        found = []
        for comparison in _comparisons(workspace, data):
            found.append(comparison)
            advance(1)
    return tuple(found)


def _in_basis(moments: Moments, val: Features, basis: NDArray[np.float64] | None) -> tuple[Moments, Features]:
    if basis is None:
        return moments, val
    projection = project(moments, basis)
    return projection.moments, projection.features(val)


def _comparisons(workspace: Workspace, data: FitData) -> Iterator[Comparison]:
    subject, request = workspace.native, workspace.request
    width = subject.taps[-1].width
    head = Reading(trunk=subject.trunk, kind="layer", taps=(HEAD,), n_per_tap=(width,))
    moments, val = moments_of(head, subject, data)
    sizes = size_grid(width, defaults.N_SIZES)
    draws = draw_permutations(width, request.n_draws, request.seed)

    def swept(name: str, orders: NDArray[np.int64], basis: NDArray[np.float64] | None = None) -> Comparison:
        seen, shown = _in_basis(moments, val, basis)
        curve = sweep_draws(seen, data.judged(shown), orders, sizes, defaults.RIDGE_GRID, device=request.device)
        cka = np.mean([linear_cka(moments, order)[sizes - 1] for order in orders], axis=0) if basis is None else None
        return Comparison(
            name=name,
            sizes=tuple(sizes.tolist()),
            accuracy=tuple(curve.accuracy.tolist()),
            spread=tuple(curve.spread.tolist()),
            cka=None if cka is None else tuple(cka.tolist()),
        )

    yield swept("random neurons", draws)
    yield swept("pivoted neurons", pivoted_order(moments, width, defaults.PIVOT_RIDGE)[None])
    yield swept("first neurons", in_order(width))
    yield swept("principal directions", in_order(width), principal_basis(moments))
    yield swept("random projections", draws, random_basis(width, request.seed))
