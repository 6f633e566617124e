"""Minimise the softmax objective to a small float64 gradient, most of the way with float32 products.

The objective is ``mean cross-entropy + strength / 2 * |W|_F^2`` with ``W (c, d)`` acting on standardised features and
an unpenalised bias. With ``R`` the correlation matrix, its Hessian at 0 is ``H = R / c + strength I`` (along weights
that sum to 0 over classes, as the minimiser's do). So L-BFGS runs in ``U = W L`` with ``H = L L'``, where the start is
round and a first step of length 1 is Newton's. A change of coordinates leaves the minimiser where it is and takes a
quarter of the iterations.

Products of images and weights are nearly all the work, and in float32 they take a third of the time. They lead until
an iteration gains less than they can tell from rounding. From there float64 goes on, L-BFGS keeping its memory, and it
alone says what has converged: often at its first look.

Everything runs in PyTorch, L-BFGS included: SciPy's brings a second pool of BLAS threads, and the two waiting for each
other made a fit several times slower on two busy cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
import torch
from torch import Tensor

from prune_tool.errors import DataError, UsageError
from prune_tool.redundancy.checks import Features, Int64
from prune_tool.redundancy.moments import Moments, MomentsAccumulator

GRADIENT_TOLERANCE = 1e-6
"""Largest entry of the gradient at which a fit has converged: a hundredth of scikit-learn's default."""

_MAX_ITERATIONS = 2000  # thirty times what fits at the default strengths take
_MAX_LINE_SEARCH = 25  # evaluations of one step; it takes one or two
_HISTORY = 10  # pairs that L-BFGS remembers: 20 or 30 save no iteration here
_RESOLUTION = 1e-8  # gain of an iteration that float32 cannot tell from rounding: its loss is off by some 1e-9
_ROWS_PER_BLOCK = 8192  # images whose logits are held at once


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """Standardised images with their labels among the classes that have any.

    Attributes:
        moments: of all neurons and all classes.
        present: ``(c,)`` int64, the classes with images.
        X: ``(n, d)`` float64, image by image in memory: products of the other order take four times as long.
        single: ``X`` in float32; None where there are no more images than neurons. Rounding
            leaves the span of the images then, where the whitening magnifies it: twice the iterations.
        labels: ``(n,)`` int64, positions in ``present``.
    """

    moments: Moments
    present: Int64
    X: Tensor
    single: Tensor | None
    labels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Minimum:
    """Where a descent ended: ``W (c, d)`` and ``b (c,)`` float64 in standardised coordinates, and how well.

    Attributes:
        gradient_norm: largest absolute entry of the gradient in ``W`` and ``b``, computed in float64.
        n_iterations: of L-BFGS.
    """

    W: Tensor
    b: Tensor
    gradient_norm: float
    n_iterations: int


def prepare(train: Features, labels: Int64, n_classes: int) -> Problem:
    """The problem of raw features ``train (n, d)`` with ``labels (n,)``. Raises ``DataError`` where they do not fit."""
    accumulator = MomentsAccumulator(train.shape[1] if train.ndim == 2 else 0, n_classes)
    accumulator.update(train, labels)
    moments = accumulator.freeze()
    present, among_present = np.unique(labels, return_inverse=True)
    X = torch.from_numpy(moments.standardise(train))
    single = X.float() if len(X) > moments.width else None
    return Problem(moments=moments, present=present, X=X, single=single, labels=torch.from_numpy(among_present))


def minimise(problem: Problem, strength: float, W: Tensor, b: Tensor) -> Minimum:
    """The minimum, sought from ``W (c, d)`` and ``b (c,)`` float64, whose sums over classes are 0.

    Raises:
        DataError: neurons so nearly dependent that float64 cannot tell under this strength.
        UsageError: ``strength`` is not positive.
    """
    at = _Evaluation(problem, strength, W, b)
    optimiser = torch.optim.LBFGS(
        [at.U, at.beta],
        max_iter=1,
        max_eval=_MAX_LINE_SEARCH,
        tolerance_grad=0,
        tolerance_change=0,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )
    stages = [(problem.X, 0.0)] if problem.single is None else [(problem.single, _RESOLUTION), (problem.X, 0.0)]
    n_iterations = 0
    for X, resolution in stages:
        at.X = X
        loss, gain = at(), inf
        while at.gradient_norm > GRADIENT_TOLERANCE and gain > resolution and n_iterations < _MAX_ITERATIONS:
            # PyTorch shortens the first step by the sum of the gradient's entries.
            optimiser.param_groups[0]["lr"] = max(1.0, at.gradient_sum()) if n_iterations == 0 else 1.0
            optimiser.step(at)  # type: ignore[no-untyped-call]  # PyTorch leaves it unannotated
            n_iterations += 1
            previous, loss = loss, at()
            gain = previous - loss
    return Minimum(W=at.W, b=at.b, gradient_norm=at.gradient_norm, n_iterations=n_iterations)


class _Evaluation:
    """The objective and its gradient at ``U`` and ``beta``, which the optimiser moves in place: a closure for it.

    Calling it twice in one place costs nothing the second time.
    """

    def __init__(self, problem: Problem, strength: float, W: Tensor, b: Tensor) -> None:
        self.X = problem.X
        self._labels, self._strength = problem.labels, strength
        self._L = _whitener(problem, strength)
        self._root = sqrt(len(b))  # the bias' own Hessian is 1 / c
        self.U, self.beta = W @ self._L, b / self._root
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self) -> float:
        """The objective; gradients are left in ``U.grad`` and ``beta.grad``."""
        if self._seen is None or not (
            self._seen[0] is self.X and torch.equal(self._seen[1], self.U) and torch.equal(self._seen[2], self.beta)
        ):
            self._seen = self.X, self.U.clone(), self.beta.clone()
            self._evaluate()
        return self.loss

    def gradient_sum(self) -> float:
        """Sum of absolute entries of the gradient in ``U`` and ``beta``."""
        return sum(at.grad.abs().sum().item() for at in (self.U, self.beta) if at.grad is not None)

    def _evaluate(self) -> None:
        # From the left: with few right sides, PyTorch's solver from the right takes three times as long.
        self.W = torch.linalg.solve_triangular(self._L.mT, self.U.mT, upper=True).mT
        self.b = self.beta * self._root
        self.loss, dW, db = _objective(self.X, self._labels, self.W, self.b, self._strength)
        self.gradient_norm = max(dW.abs().max().item(), db.abs().max().item())
        self.U.grad = torch.linalg.solve_triangular(self._L, dW.mT, upper=False).mT.contiguous()
        self.beta.grad = db * self._root


def _whitener(problem: Problem, strength: float) -> Tensor:
    """Lower ``L (d, d)`` with ``R / c + strength I = L L'``."""
    asked = f"a logistic probe of strength {strength:g}"
    if not strength > 0:
        raise UsageError(asked=asked, found="a strength that is not positive", remedy="Try 1e-4 or more")
    hessian = torch.tensor(problem.moments.gram) / (problem.moments.n_images * len(problem.present))
    hessian.diagonal().add_(strength)
    L: Tensor
    L, failed = torch.linalg.cholesky_ex(hessian)
    if failed.item():
        raise DataError(
            asked=asked,
            found="features too nearly dependent for it in float64",
            remedy="Try a stronger penalty, 1e-4 or more",
        )
    return L


def _objective(X: Tensor, labels: Tensor, W: Tensor, b: Tensor, strength: float) -> tuple[float, Tensor, Tensor]:
    """The objective and its gradient in ``W (c, d)`` and ``b (c,)`` float64; products in the precision of ``X``."""
    loss, dW, db = strength / 2 * W.square().sum(), strength * W, torch.zeros_like(b)
    weight, bias, n_images = W.to(X.dtype), b.to(X.dtype)[:, None], len(labels)
    for rows, classes in zip(*(torch.split(tensor, _ROWS_PER_BLOCK) for tensor in (X, labels)), strict=True):
        targets = classes[None]
        log_p = torch.addmm(bias, weight, rows.mT).log_softmax(dim=0)
        loss -= log_p.gather(0, targets).sum(dtype=W.dtype) / n_images
        residual = log_p.exp_()
        residual.scatter_add_(0, targets, residual.new_full(targets.shape, -1.0))
        # Divided late: a quotient could be denormal in float32, and those are slow.
        dW.add_(residual @ rows, alpha=1 / n_images)
        db.add_(residual.sum(dim=1, dtype=W.dtype), alpha=1 / n_images)
    return loss.item(), dW, db
