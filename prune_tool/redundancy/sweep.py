"""Accuracy of the ridge probe of every random subset, from one factorisation a draw.

The random subset of size ``k`` is the prefix ``p[:k]`` of a permutation. With ``G = X'X`` and ``B = X'(Y - prior)`` of
standardised features, factor ``G[p, p] + ridge n I = L L'`` once: the factor of every leading block is the leading
block of ``L``. So with ``Z = L^-1 B[p]`` and ``V = L^-1 Xval[:, p]'`` the scores of the exact ridge probe of size ``k``
are ``prior + sum_{j<k} V_j Z_j'``, and all sizes cost one factorisation, one triangular solve and one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from prune_tool.errors import DataError, UsageError
from prune_tool.redundancy.checks import Float64, Int64, check_features
from prune_tool.redundancy.held_out import HeldOut, check_held_out, image_weights
from prune_tool.redundancy.moments import Moments

_N_PILOTS = 2  # draws that try every strength
_N_STRENGTHS = 2  # strengths that the sizes of one layer choose between: a third brings less than the draws differ by
_SOLVE_IMAGES = 8192  # validation images solved at once; they bound the memory of V to 64 KiB a neuron
_SCORES_AT_ONCE = 2**15  # PyTorch's grain on CPU: below it no thread waits for another, and scores stay in cache
_SCORES_AT_ONCE_GPU = 2**24  # enough work to hide a kernel's launch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """Correct validation predictions of ridge probes on random subsets.

    Attributes:
        width: neurons of the full layer.
        sizes: ``(s,)`` int64, ascending subset sizes.
        n_correct: ``(r, s)``, correct predictions of each draw at each size: int64, or float64 where classes count
            alike (see ``records.Score``).
        n_val: validation images.
        ridge: ``(s,)`` float64, strength chosen at each size, in multiples of the number of training images.
    """

    width: int
    sizes: Int64
    n_correct: Int64 | Float64
    n_val: int
    ridge: Float64

    @property
    def accuracy(self) -> Float64:
        """``(s,)``, mean over draws, 0 to 1."""
        mean: Float64 = self.n_correct.sum(axis=0) / (self.n_correct.shape[0] * self.n_val)
        return mean

    @property
    def spread(self) -> Float64:
        """``(s,)``, sample standard deviation of accuracy over draws (divisor ``r - 1``); 0 for a single draw."""
        n_draws = len(self.n_correct)
        spread: Float64 = (self.n_correct / self.n_val).std(axis=0, ddof=min(1, n_draws - 1))
        return spread


def sweep(
    moments: Moments,
    val: HeldOut,
    permutation: Int64,
    sizes: Int64,
    ridge: float,
    device: str = "cpu",
) -> Int64 | Float64:
    """Correct validation predictions of the ridge probe on each prefix of one permutation.

    Args:
        moments: of the training images.
        val: the validation images, and how they count.
        permutation: ``(m,)`` int64, distinct neurons, ``m <= d``.
        sizes: ``(s,)`` int64, ascending sizes in ``1..m``.
        ridge: strength, as a multiple of the number of training images; above 0.
        device: PyTorch device of the linear algebra, float64 on each.

    Returns:
        ``(s,)`` int64, or float64 where classes count alike. The prediction is the class of the highest score, the
        lowest class among equals.

    Raises:
        DataError: validation images that do not fit the moments, or a strength too small to factor.
        UsageError: sizes out of order or out of range, or a strength that is not positive.
    """
    return _n_correct(_prepare(moments, val, device), permutation, sizes, ridge)


def sweep_draws(
    moments: Moments,
    val: HeldOut,
    permutations: Int64,
    sizes: Int64,
    ridge_grid: Sequence[float],
    device: str = "cpu",
) -> Curve:
    """The curve over ``permutations (r, d)``, with the strength chosen for each size.

    The first two draws try every strength of ``ridge_grid``. The pair of strengths that together serves the sizes best
    is kept, and each size takes the one with most correct predictions over both draws, ties to the stronger. The other
    draws factor only these, up to the largest size that chose them. The other arguments, the errors and the rule for
    ties are those of ``sweep``. The same input gives the same curve, bit for bit, on one machine with one number of
    threads.
    """
    problem = _prepare(moments, val, device)
    strengths = sorted(set(ridge_grid), reverse=True)
    pilots = np.array(
        [[_n_correct(problem, draw, sizes, strength) for draw in permutations[:_N_PILOTS]] for strength in strengths]
    )  # (strength, pilot, size)
    choice = _choice(pilots.sum(axis=1))
    n_correct = np.empty((len(permutations), len(sizes)), pilots.dtype)
    for chosen in np.unique(choice):
        at = choice == chosen
        n_correct[:_N_PILOTS, at] = pilots[chosen][:, at]
        for i, draw in enumerate(permutations[_N_PILOTS:], start=_N_PILOTS):
            n_correct[i, at] = _n_correct(problem, draw, sizes[at], strengths[chosen])
    return Curve(
        width=permutations.shape[1],
        sizes=sizes,
        n_correct=n_correct,
        n_val=len(val),
        ridge=np.array(strengths)[choice],
    )


def _choice(n_correct: Int64 | Float64) -> Int64:
    """For each size, the strength to use, from ``n_correct (strength, size)``; at most ``_N_STRENGTHS`` differ."""
    groups = list(combinations(range(len(n_correct)), min(_N_STRENGTHS, len(n_correct))))
    kept = np.array(max(groups, key=lambda group: n_correct[list(group)].max(axis=0).sum().item()))
    choice: Int64 = kept[n_correct[kept].argmax(axis=0)]
    return choice


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Problem:
    """Moments and validation images on the device. ``val (d, n_val)``: a neuron is contiguous.

    ``val`` is as it came, in its own precision: only the images being solved are standardised, in float64.
    """

    n_images: int
    gram: Tensor
    cross: Tensor
    prior: Tensor
    mean: Tensor
    scale: Tensor
    val: Tensor
    labels: Tensor
    weights: Tensor | None


def _prepare(moments: Moments, held_out: HeldOut, device: str) -> _Problem:
    check_features(held_out.features, moments.width)
    check_held_out(held_out, moments.n_classes)
    if len(held_out) == 0:
        raise DataError(asked="accuracy on validation images", found="none", remedy="Hold out at least one image")
    cross, prior = moments.cross, moments.prior
    if held_out.metric != "accuracy":  # scores over the classes' shares: see held_out
        cross, prior = cross / np.where(prior > 0, prior, 1), np.sign(prior)
    weights = None if held_out.metric == "accuracy" else torch.tensor(image_weights(held_out.labels), device=device)
    return _Problem(
        n_images=moments.n_images,
        gram=torch.tensor(moments.gram, device=device),
        cross=torch.tensor(cross, device=device),
        prior=torch.tensor(prior, device=device),
        mean=torch.tensor(moments.mean, device=device)[:, None],
        scale=torch.tensor(moments.scale, device=device)[:, None],
        val=torch.from_numpy(np.ascontiguousarray(held_out.features.T)).to(device),
        labels=torch.tensor(held_out.labels, dtype=torch.int64, device=device),
        weights=weights,
    )


def _n_correct(problem: _Problem, order: Int64, sizes: Int64, ridge: float) -> Int64:
    """``sweep`` on a prepared problem: factor, solve, add up."""
    if not (sizes.size and sizes[0] >= 1 and (np.diff(sizes) > 0).all() and sizes[-1] <= len(order)):
        raise UsageError(
            asked=f"subsets of {sizes.tolist()} out of {len(order)} neurons",
            found="sizes that are not ascending within the layer",
            remedy=f"Ask for ascending sizes from 1 to {len(order)}",
        )
    prefix = torch.tensor(order[: sizes[-1]], device=problem.val.device)
    L = _factor(problem, prefix, ridge)
    Z = torch.linalg.solve_triangular(L, problem.cross[prefix], upper=False)
    n_correct = torch.zeros(len(sizes), dtype=torch.int64 if problem.weights is None else torch.float64)
    for start in range(0, len(problem.labels), _SOLVE_IMAGES):
        images = slice(start, start + _SOLVE_IMAGES)
        # L^-1 A as (A' L^-T)': in this order LAPACK's columns are the neurons, and V comes out neuron by neuron.
        val = problem.val[prefix, images].double().sub_(problem.mean[prefix]).div_(problem.scale[prefix])
        V = torch.linalg.solve_triangular(L.mT, val.mT, upper=True, left=False).mT
        weights = None if problem.weights is None else problem.weights[images]
        n_correct += _score(Z, V, problem.prior, problem.labels[images], weights, sizes.tolist())
    return n_correct.numpy()


def _factor(problem: _Problem, order: Tensor, ridge: float) -> Tensor:
    """Lower ``L (k, k)`` with ``G[order, order] + ridge n I = L L'``."""
    asked = f"ridge probes of strength {ridge:g}"
    if not ridge > 0:
        raise UsageError(asked=asked, found="a strength that is not positive", remedy="Try 1e-3 or more")
    gram = problem.gram[order][:, order]
    gram.diagonal().add_(ridge * problem.n_images)
    L: Tensor
    L, failed = torch.linalg.cholesky_ex(gram)
    if failed.item():
        raise DataError(
            asked=asked,
            found=f"a Gram matrix of {len(order):,} neurons that is not positive definite in float64",
            remedy="Try a stronger ridge, 1e-3 or more",
        )
    return L


def _score(Z: Tensor, V: Tensor, prior: Tensor, labels: Tensor, weights: Tensor | None, sizes: list[int]) -> Tensor:
    """Correct predictions (s,) at each size from ``Z (k, c)`` and ``V (k, n)``, class-major, images in blocks.

    Blocks are small enough for PyTorch to compute each in the thread that asks, so on CPU threads take one each. Sums
    are taken in the order of the blocks, whoever finishes first.
    """
    block = max(256, (_SCORES_AT_ONCE_GPU if V.is_cuda else _SCORES_AT_ONCE) // len(prior))

    def score(start: int) -> Tensor:
        images = slice(start, start + block)
        own_weights = None if weights is None else weights[images]
        return _score_block(Z, V[:, images], prior, labels[images], own_weights, sizes)

    starts = range(0, len(labels), block)
    if V.is_cuda:
        return torch.stack([score(start) for start in starts]).sum(dim=0).cpu()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return torch.stack(list(pool.map(score, starts))).sum(dim=0)


def _score_block(
    Z: Tensor, V: Tensor, prior: Tensor, labels: Tensor, weights: Tensor | None, sizes: list[int]
) -> Tensor:
    """``_score`` of one block: a running sum over columns, looked at where a size ends."""
    n_correct = torch.zeros(len(sizes), dtype=torch.int64 if weights is None else weights.dtype, device=V.device)
    scores = prior[:, None].repeat(1, len(labels))
    done = 0
    for i, size in enumerate(sizes):
        scores.addmm_(Z[done:size].mT, V[done:size])
        hit = _hits(scores, labels)
        n_correct[i] = hit.sum() if weights is None else weights[hit].sum()
        done = size
    return n_correct


def _hits(scores: Tensor, labels: Tensor) -> Tensor:
    """Whether each image's first highest class is its label, ``(n,)``; ``scores (c, n)``, ``labels (n,)``.

    PyTorch's argmax over the leading axis is fifty times slower on CPU than its maximum, so it decides ties only.
    """
    best = scores.amax(dim=0)
    if (scores == best).sum() == len(labels):
        return scores.gather(0, labels[None])[0] == best
    return scores.argmax(dim=0) == labels
