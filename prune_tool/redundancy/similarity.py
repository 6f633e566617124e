"""How much a subset of neurons looks like its layer, without asking a task: linear CKA.

Kornblith et al., "Similarity of Neural Network Representations Revisited" (ICML 2019), section 3 with the linear
kernel. For centred features ``X (n, d)`` and the neurons ``S`` among them it is ``|X'X_S|^2 / (|X_S'X_S| |X'X|)`` in
Frobenius norms: sums of squares of the entries of ``G = X'X``, which grow by one row and column with each neuron.
"""

from __future__ import annotations

import numpy as np

from prune_tool.errors import DataError
from prune_tool.redundancy.checks import Float64, Int64
from prune_tool.redundancy.moments import Moments


def linear_cka(moments: Moments, permutation: Int64, *, standardised: bool = False) -> Float64:
    """Linear CKA of every prefix of one permutation with the whole layer, in one pass over ``G``: ``O(d^2)``.

    Args:
        moments: of the layer's ``d`` neurons. The labels play no part.
        permutation: ``(m,)`` int64, distinct neurons, ``m <= d``.
        standardised: compare features of unit variance. By default they are compared as the backbone makes them, which
            is what Nanda et al. (NeurIPS 2023) publish: neurons of large variance count more, and the value at a size
            says how well the subset covers those.

    Returns:
        ``(m,)`` float64, the CKA of sizes 1 to ``m``, 0 to 1 to rounding, and 1 where the prefix is the whole layer. A
        prefix of constant neurons alone has no similarity to speak of and gets 0. This is the biased estimate, as in
        the paper: with fewer images than neurons it comes out too high.

    Raises:
        DataError: every neuron of the layer is constant.
    """
    squares = np.square(moments.gram)
    if not standardised:
        variance = np.square(moments.scale)
        squares *= np.outer(variance, variance)
    layer = squares.sum()
    if layer == 0:
        raise DataError(
            asked=f"similarity to a layer of {moments.width:,} neurons",
            found=f"the same features in all of {moments.n_images:,} images",
            remedy="Pass images that differ",
        )
    shared = np.cumsum(squares.sum(axis=1)[permutation])
    within = squares[np.ix_(permutation, permutation)]
    own = np.cumsum(2 * np.tril(within).sum(axis=1) - within.diagonal())
    norms = np.sqrt(own) * np.sqrt(layer)
    cka: Float64 = np.divide(shared, norms, out=np.zeros_like(shared), where=norms > 0)
    return cka
