"""Greedy neurons: each the one that helps the ridge probe most, given those before it. The bar for random subsets.

With ``A = G + ridge n I`` the ridge probe of the neurons ``S`` lowers the penalised squared error, summed over classes,
by ``tr(B[S]' A[S, S]^-1 B[S])``. A Cholesky factorisation of ``A`` that has met the neurons of ``S`` is left with the
Schur complement ``D`` and the residual ``R`` of ``B``, and neuron ``j`` lowers the error further by
``|R_j|^2 / D_jj``: that is its pivot. Without ridge this is orthogonal least squares (Chen, Cowan and Grant,
"Orthogonal least squares learning algorithm for radial basis function networks", IEEE Trans. Neural Networks, 1991);
with it, Orr's regularised forward selection ("Regularization in the selection of radial basis function centers",
Neural Computation, 1995). Pivots work on a panel of neurons at a time, whose product then updates the rest at once
(Hammarling, Higham and Lucas, "LAPACK-style codes for pivoted Cholesky and QR updating", 2007).
"""

from __future__ import annotations

import numpy as np
import torch

from prune_tool.errors import UsageError
from prune_tool.redundancy.checks import Float64, Int64
from prune_tool.redundancy.moments import Moments

_PANEL = 64  # picks between updates of the whole: enough for a fast product, few enough for short columns


def pivoted_order(moments: Moments, n_picks: int, ridge: float) -> Int64:
    """The first ``n_picks`` neurons of greedy forward selection for the task's ridge probe.

    Its prefixes are the greedy choice at every size, so the sweep applies as it does to a random permutation. The
    choice sees the labels of the training images, and no others.

    Costs ``O(d^2 k + d k c)`` for ``k`` picks of ``d`` neurons and ``c`` classes, and a copy of the Gram matrix.

    Args:
        moments: of the training images.
        n_picks: how many neurons, from 1 to all.
        ridge: strength of the probe picked for, as a multiple of the number of training images; above 0. With a large
            one, a copy of a good neuron is worth a pick, as two share their weight and are shrunk less; with a small
            one it is not, and copies come after all that is new.

    Returns:
        ``(n_picks,)`` int64, distinct neurons in the order picked, the lowest among equals.

    Raises:
        UsageError: more picks than neurons, or none, or a strength that is not positive.
    """
    if not (1 <= n_picks <= moments.width and ridge > 0):
        raise UsageError(
            asked=f"{n_picks} greedy picks with ridge {ridge:g}",
            found=f"a layer of {moments.width:,} neurons",
            remedy=f"Ask for 1 to {moments.width} picks and a ridge above 0",
        )
    gram = moments.gram + ridge * moments.n_images * np.eye(moments.width)
    return greedy_order(gram, moments.cross, n_picks, floor=ridge * moments.n_images)


def greedy_order(gram: Float64, cross: Float64, n_picks: int, floor: float, n_parts: int = 1) -> Int64:
    """The first ``n_picks`` columns of forward selection for least squares on any targets, read off second moments.

    Args:
        gram: ``(d, d)``, ``X'X`` with what regularises it on its diagonal already.
        cross: ``(d, t)``, ``X'Y`` with targets ``Y``; its scale does not matter.
        n_picks: how many columns.
        floor: what no pivot can be below but by rounding, which is no reason to pick a copy: the least that was added
            to the diagonal.
        n_parts: equal runs of the columns that take turns: one has never more than one pick more than another.

    Returns:
        ``(n_picks,)`` int64, distinct columns in the order picked, the lowest among equals.
    """
    left = np.arange(len(gram), dtype=np.int64)
    part = left * n_parts // len(gram)
    n_taken = np.zeros(n_parts, np.int64)
    floor = max(floor, len(gram) * np.finfo(np.float64).eps * gram.diagonal().max(initial=0.0))
    D, R = gram, cross
    order: list[Int64] = []
    while (n_missing := n_picks - sum(map(len, order))) > 0:
        picks, L, Z = _panel(D, R, min(_PANEL, n_missing), floor, part[left], n_taken)
        order.append(left[picks])
        stay = np.delete(np.arange(len(left)), picks)
        D = D[np.ix_(stay, stay)] - L[:, stay].T @ L[:, stay]
        R = R[stay] - L[:, stay].T @ Z
        left = left[stay]
    return np.concatenate(order)


def _panel(
    D: Float64, R: Float64, n_picks: int, floor: float, part: Int64, n_taken: Int64
) -> tuple[Int64, Float64, Float64]:
    """The next pivots of ``D (a, a)`` and ``R (a, t)``, with their rows ``L (n_picks, a)`` and ``Z (n_picks, t)``.

    ``D - L'L`` and ``R - L'Z`` are what they leave. ``part (a,)`` says whose turn a column waits for; the picks of each
    part are counted in ``n_taken``.
    """
    picks: list[int] = []
    L, Z = np.empty((n_picks, len(D))), np.empty((n_picks, R.shape[1]))
    diagonal, R = D.diagonal().copy(), R.copy()
    residual = torch.from_numpy(R)  # the same memory: NumPy would make the outer product before it subtracts
    for t in range(n_picks):
        gain = np.einsum("ij,ij->i", R, R) / np.maximum(diagonal, floor)
        gain[(n_taken > n_taken.min())[part]] = -1.0
        gain[picks] = -1.0
        j = int(gain.argmax())
        picks.append(j)
        n_taken[part[j]] += 1
        root = np.sqrt(max(diagonal[j], floor))
        L[t] = (D[j] - L[:t, j] @ L[:t]) / root
        Z[t] = R[j] / root
        diagonal -= np.square(L[t])
        residual.addmm_(torch.from_numpy(L[t, :, None]), torch.from_numpy(Z[t, None]), alpha=-1)
    return np.array(picks, np.int64), L, Z
