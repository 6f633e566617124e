"""Ridge probes of all prefixes of a permutation of neurons, from one factorisation.

The random subset of size ``k`` is the prefix ``p[:k]`` of a permutation. With ``G = X'X`` and ``B = X'(Y - prior)`` of
standardised features, factor ``G[p, p] + ridge n I = L L'`` once: the factor of every leading block is the leading
block of ``L``. So with ``Z = L^-1 B[p]`` and ``V = L^-1 Xval[:, p]'`` the scores of the exact ridge probe of size ``k``
are ``prior + sum_{j<k} V_j Z_j'``, and all sizes cost one factorisation, one triangular solve and one pass. Where fewer
sizes are asked for, their weights ``L[:k, :k]'^-1 Z[:k]`` take less: a solve for each class instead of each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prune_tool.errors import DataError, UsageError
from prune_tool.redundancy.checks import Float64, Int64, check_features
from prune_tool.redundancy.held_out import HeldOut, check_held_out, image_weights
from prune_tool.redundancy.moments import Moments

_SOLVE_IMAGES = 8192  # validation images solved at once; they bound the memory of V to 64 KiB a neuron
_SCORES_AT_ONCE = 2**15  # PyTorch's grain on CPU: below it no thread waits for another, and scores stay in cache
_SCORES_AT_ONCE_GPU = 2**24  # enough work to hide a kernel's launch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
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


def prepare(moments: Moments, held_out: HeldOut, device: str) -> Problem:
    """The problem on a device, for any draw.

    Raises:
        DataError: there are no validation images, or they do not fit the moments.
    """
    check_features(held_out.features, moments.width)
    check_held_out(held_out, moments.n_classes)
    if len(held_out) == 0:
        raise DataError(asked="accuracy on validation images", found="none", remedy="Hold out at least one image")
    cross, prior = moments.cross, moments.prior
    if held_out.metric != "accuracy":  # scores over the classes' shares: see held_out
        cross, prior = cross / np.where(prior > 0, prior, 1), np.sign(prior)
    weights = None if held_out.metric == "accuracy" else torch.tensor(image_weights(held_out.labels), device=device)
    return Problem(
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


class Draw:
    """A prepared problem in the order of a draw, for all strengths: gathering takes half as long as factoring."""

    def __init__(self, problem: Problem, order: Int64) -> None:
        self.problem = problem
        self.order = torch.tensor(order, device=problem.val.device)
        self.gram = problem.gram[self.order][:, self.order]
        self.cross = problem.cross[self.order]

    def standardised(self, images: slice, size: int) -> Tensor:
        """The first ``size`` neurons of some validation images, ``(size, n)`` float64."""
        problem, neurons = self.problem, self.order[:size]
        return problem.val[neurons, images].double().sub_(problem.mean[neurons]).div_(problem.scale[neurons])

    def factor(self, size: int, ridge: float) -> Tensor:
        """Lower ``L (size, size)`` with ``gram[:size, :size] + ridge n I = L L'``."""
        asked = f"ridge probes of strength {ridge:g}"
        if not ridge > 0:
            raise UsageError(asked=asked, found="a strength that is not positive", remedy="Try 1e-3 or more")
        gram = self.gram[:size, :size].clone()
        gram.diagonal().add_(ridge * self.problem.n_images)
        L: Tensor
        L, failed = torch.linalg.cholesky_ex(gram)
        if failed.item():
            raise DataError(
                asked=asked,
                found=f"a Gram matrix of {size:,} neurons that is not positive definite in float64",
                remedy="Try a stronger ridge, 1e-3 or more",
            )
        return L


def n_correct_of(draw: Draw, sizes: Int64, ridge: float) -> Int64 | Float64:
    """``sweep.sweep`` on a prepared draw: factor, solve, add up."""
    if not (sizes.size and sizes[0] >= 1 and (np.diff(sizes) > 0).all() and sizes[-1] <= len(draw.order)):
        raise UsageError(
            asked=f"subsets of {sizes.tolist()} out of {len(draw.order)} neurons",
            found="sizes that are not ascending within the layer",
            remedy=f"Ask for ascending sizes from 1 to {len(draw.order)}",
        )
    problem, size = draw.problem, int(sizes[-1])
    L = draw.factor(size, ridge)
    Z = torch.linalg.solve_triangular(L, draw.cross[:size], upper=False)
    octaves = _octaves(sizes)
    few = _are_few(octaves, len(problem.labels), Z.shape[1])
    probes = [_probes(L, Z, octave) for octave in octaves] if few else []
    n_correct = torch.zeros(len(sizes), dtype=torch.int64 if problem.weights is None else torch.float64)
    for start in range(0, len(problem.labels), _SOLVE_IMAGES):
        images = slice(start, start + _SOLVE_IMAGES)
        val = draw.standardised(images, size)
        labels, weights = problem.labels[images], None if problem.weights is None else problem.weights[images]
        if few:
            n_correct += torch.cat([_score_octave(W, val, problem.prior, labels, weights) for W in probes])
        else:
            # L^-1 A as (A' L^-T)': in this order LAPACK's columns are the neurons, and V comes out neuron by neuron.
            V = torch.linalg.solve_triangular(L.mT, val.mT, upper=True, left=False).mT
            n_correct += _score(Z, V, problem.prior, labels, weights, sizes.tolist())
    found: Int64 | Float64 = n_correct.numpy()
    return found


def _octaves(sizes: Int64) -> list[Int64]:
    """The ascending sizes in runs, of each of which the first is more than half of the last."""
    octaves: list[Int64] = []
    while len(sizes):
        octaves.insert(0, sizes[2 * sizes > sizes[-1]])
        sizes = sizes[2 * sizes <= sizes[-1]]
    return octaves


def _are_few(octaves: Sequence[Int64], n_val: int, n_classes: int) -> bool:
    """Whether a probe for each size takes fewer products than ``V``, which has all sizes at once."""
    each = sum(n_classes * len(octave) * int(octave[-1]) * (int(octave[-1]) + n_val) for octave in octaves)
    size = int(octaves[-1][-1])
    return each < n_val * size * (size + n_classes)


def _probes(L: Tensor, Z: Tensor, octave: Int64) -> Tensor:
    """``(s, c, k)``, the probes of an octave's sizes, 0 from each size on; ``k`` is the largest.

    Solved together against the largest factor, as ``[Z[:size]; 0]`` solves to a probe with zeros below.
    """
    k = int(octave[-1])
    is_read = torch.arange(k)[:, None] < torch.from_numpy(octave)
    padded = Z[:k, None] * is_read.to(Z)[:, :, None]
    W: Tensor = torch.linalg.solve_triangular(L[:k, :k].mT, padded.flatten(1), upper=True)
    return W.reshape(k, len(octave), -1).permute(1, 2, 0)


def _score_octave(probes: Tensor, val: Tensor, prior: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Correct predictions ``(s,)`` of the probes ``(s, c, k)`` on ``val (>= k, n)``, standardised."""
    n_sizes, n_classes, k = probes.shape
    scores = (probes.reshape(-1, k) @ val[:k]).reshape(n_sizes, n_classes, -1) + prior[:, None]
    hits = _hits(scores.transpose(0, 1).flatten(1), labels.repeat(n_sizes)).reshape(n_sizes, -1)
    n_correct: Tensor = hits.sum(dim=1) if weights is None else hits.to(weights.dtype) @ weights
    return n_correct.cpu()


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
    if V.is_cuda or len(starts) == 1:
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
