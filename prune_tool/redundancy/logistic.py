"""Converged multinomial logistic regression with an L2 penalty: the probe that ships.

The objective is ``mean cross-entropy + strength / 2 * |W|_F^2`` with ``W (c, d)`` acting on standardised features and
an unpenalised bias. With ``R`` the correlation matrix, its Hessian at 0 is ``(R + c strength I) / c`` (along weights
that sum to 0 over classes, as the minimiser's do). So L-BFGS runs in ``U = W L`` with ``R + c strength I = L L'``, and
starts where the objective is round. A change of coordinates leaves the minimiser where it is and takes a quarter of the
iterations. Everything runs in PyTorch, L-BFGS included: SciPy's brings a second pool of BLAS threads, and the two
waiting for each other made a fit several times slower on two busy cores.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from prune_tool.errors import DataError, UsageError
from prune_tool.records import Score
from prune_tool.redundancy.checks import Features, Float64, Int64, check_features
from prune_tool.redundancy.held_out import HeldOut, check_held_out
from prune_tool.redundancy.moments import Moments, MomentsAccumulator

GRADIENT_TOLERANCE = 1e-6
"""Largest entry of the gradient at which a fit has converged: a hundredth of scikit-learn's default."""

_PATIENCE = 2  # strengths in a row that may bring nothing before weaker ones are given up
_MAX_ITERATIONS = 2000  # twenty times what any fit took that was ever watched
_HISTORY = 10  # pairs that L-BFGS remembers: 20 or 30 save no iteration here
_ROWS_PER_BLOCK = 8192  # images whose logits are held at once
_ABSENT_BIAS = -1e4  # logit of a class never trained on: the largest of the others is at least 0; float16 can hold it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogisticProbe:
    """A linear classifier of raw features; standardisation is folded in.

    Attributes:
        weight: ``(c, d)`` float64, 0 for constant neurons and for classes without training images.
        bias: ``(c,)`` float64, -10,000 for classes without training images: they are never predicted.
        strength: L2 strength of the fit, per image.
        gradient_norm: largest absolute entry of the objective's gradient at the end, in standardised coordinates.
        n_iterations: of L-BFGS.
    """

    weight: Float64
    bias: Float64
    strength: float
    gradient_norm: float
    n_iterations: int

    def __post_init__(self) -> None:
        for array in (self.weight, self.bias):
            array.setflags(write=False)

    @property
    def converged(self) -> bool:
        """Whether the gradient is within ``GRADIENT_TOLERANCE`` of 0."""
        return self.gradient_norm <= GRADIENT_TOLERANCE

    def logits(self, features: Features) -> Float64:
        """``(n, c)`` float64 logits of raw features ``(n, d)``. Raises ``DataError`` where they do not fit."""
        check_features(features, self.weight.shape[1])
        return features @ self.weight.T + self.bias

    def predict(self, features: Features) -> Int64:
        """``(n,)`` int64, the class of the highest logit, the lowest class among equals."""
        predicted: Int64 = self.logits(features).argmax(axis=1)
        return predicted

    def score(self, held_out: HeldOut) -> Score:
        """Correct predictions on images that it was not fitted on. Raises ``DataError`` where they do not fit."""
        check_held_out(held_out, len(self.bias))
        return held_out.score(self.predict(held_out.features))

    def for_equal_classes(self, prior: Float64) -> LogisticProbe:
        """The same probe for images of which every class sends as many: shares ``prior (c,)`` are divided out.

        Menon et al., "Long-tail learning via logit adjustment" (ICLR 2021), section 4.1, with a strength of 1.
        """
        return replace(self, bias=self.bias - np.log(np.where(prior > 0, prior, 1)))


def fit_logistic(
    train: Features, labels: Int64, n_classes: int, strength: float, start: LogisticProbe | None = None
) -> LogisticProbe:
    """The probe that minimises the objective on ``train (n, d)`` with ``labels (n,)``.

    Args:
        train: raw features, float32 or float64; a standardised float64 copy is made.
        labels: int64 classes.
        n_classes: classes of the task; some may have no image here.
        strength: L2 strength, per image; above 0.
        start: where to begin, a probe of the same neurons and classes. It changes the time, not the result.

    Raises:
        DataError: features or labels that cannot be used, or none.
        UsageError: ``strength`` is not positive.
    """
    return _fit(_prepare(train, labels, n_classes), strength, start)


def choose_logistic(
    train: Features, labels: Int64, val: HeldOut, n_classes: int, strengths: Iterable[float]
) -> LogisticProbe:
    """The probe of the strength with most correct predictions on ``val``, ties to the stronger.

    Strengths are fitted from strong to weak, each from where the last one ended, until ``_PATIENCE`` in a row bring
    nothing: weaker ones fit the training images ever closer, and take ever longer. Where ``val`` counts classes alike,
    each is judged, and the chosen one comes back, as ``for_equal_classes``. Other arguments and errors as for
    ``fit_logistic``; no strength at all is a ``UsageError``.
    """
    problem = _prepare(train, labels, n_classes)
    fitted: LogisticProbe | None = None
    best: tuple[float, LogisticProbe] | None = None
    n_worse = 0
    for strength in sorted(strengths, reverse=True):
        fitted = _fit(problem, strength, fitted)
        probe = fitted if val.metric == "accuracy" else fitted.for_equal_classes(problem.moments.prior)
        n_correct = probe.score(val).n_correct
        n_worse = n_worse + 1 if best is not None and n_correct <= best[0] else 0
        if best is None or n_correct > best[0]:
            best = n_correct, probe
        if n_worse == _PATIENCE:
            break
    if best is None:
        raise UsageError(asked="the best of no strengths", found="an empty list", remedy="Pass at least one strength")
    return best[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Problem:
    """Standardised images ``X (n, d)`` float64 and their ``labels (n,)`` among the classes ``present (c,)``."""

    moments: Moments
    present: Int64
    X: Tensor
    labels: Tensor


def _prepare(train: Features, labels: Int64, n_classes: int) -> _Problem:
    accumulator = MomentsAccumulator(train.shape[1] if train.ndim == 2 else 0, n_classes)
    accumulator.update(train, labels)
    moments = accumulator.freeze()
    present, among_present = np.unique(labels, return_inverse=True)
    return _Problem(
        moments=moments,
        present=present,
        X=torch.from_numpy(moments.standardise(train)),
        labels=torch.from_numpy(among_present),
    )


def _fit(problem: _Problem, strength: float, start: LogisticProbe | None) -> LogisticProbe:
    """Minimise in ``U = W L`` and ``b``, both moved in place by the optimiser, until the gradient in ``W`` is small."""
    L = _whitener(problem, strength)
    W, b = _starting_point(problem, start)
    U = W @ L
    gradient_norm = np.inf

    def evaluate() -> float:
        nonlocal W, gradient_norm
        W = torch.linalg.solve_triangular(L, U, upper=False, left=False)
        loss, dW, b.grad = _objective(problem, W, b, strength)
        U.grad = torch.linalg.solve_triangular(L.mT, dW, upper=True, left=False).contiguous()
        gradient_norm = max(dW.abs().max().item(), b.grad.abs().max().item())
        return loss

    optimiser = torch.optim.LBFGS(
        [U, b], max_iter=_MAX_ITERATIONS, history_size=_HISTORY, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    # The optimiser stops on dF/dU. That is mostly as large as dF/dW, which is the one promised to be small.
    for factor in (1, 0.1, 0.01):
        optimiser.param_groups[0]["tolerance_grad"] = factor * GRADIENT_TOLERANCE
        optimiser.step(evaluate)  # type: ignore[no-untyped-call]  # PyTorch leaves it unannotated
        evaluate()
        if gradient_norm <= GRADIENT_TOLERANCE:
            break
    return _folded(problem, W.numpy(), b.numpy(), strength, gradient_norm, optimiser.state[U]["n_iter"])


def _whitener(problem: _Problem, strength: float) -> Tensor:
    """Lower ``L (d, d)`` with ``R + c strength I = L L'``."""
    asked = f"a logistic probe of strength {strength:g}"
    if not strength > 0:
        raise UsageError(asked=asked, found="a strength that is not positive", remedy="Try 1e-4 or more")
    correlation = torch.tensor(problem.moments.gram) / problem.moments.n_images
    correlation.diagonal().add_(len(problem.present) * strength)
    L: Tensor
    L, failed = torch.linalg.cholesky_ex(correlation)
    if failed.item():
        raise DataError(
            asked=asked,
            found="features too nearly dependent for it in float64",
            remedy="Try a stronger penalty, 1e-4 or more",
        )
    return L


def _starting_point(problem: _Problem, start: LogisticProbe | None) -> tuple[Tensor, Tensor]:
    """``W (c, d)`` and ``b (c,)`` in standardised coordinates, summing to 0 over classes, as the minimiser does."""
    if start is None:
        shape = len(problem.present), problem.moments.width
        return torch.zeros(shape, dtype=torch.float64), torch.zeros(shape[0], dtype=torch.float64)
    weight = start.weight[problem.present]
    W = torch.tensor(weight * problem.moments.scale)
    b = torch.tensor(start.bias[problem.present] + weight @ problem.moments.mean)
    return W - W.mean(dim=0), b - b.mean()


def _objective(problem: _Problem, W: Tensor, b: Tensor, strength: float) -> tuple[float, Tensor, Tensor]:
    """The objective and its gradient in ``W (c, d)`` and ``b (c,)``."""
    n_images = len(problem.labels)
    loss, dW, db = strength / 2 * W.square().sum(), strength * W, torch.zeros_like(b)
    for X, labels in zip(
        *(torch.split(tensor, _ROWS_PER_BLOCK) for tensor in (problem.X, problem.labels)), strict=True
    ):
        log_p = torch.addmm(b, X, W.mT).log_softmax(dim=1)
        loss -= log_p.gather(1, labels[:, None]).sum() / n_images
        residual = log_p.exp_()
        residual.scatter_add_(1, labels[:, None], residual.new_full((len(labels), 1), -1.0))
        residual /= n_images
        dW.addmm_(residual.mT, X)
        db += residual.sum(dim=0)
    return loss.item(), dW, db


def _folded(
    problem: _Problem, W: Float64, b: Float64, strength: float, gradient_norm: float, n_iterations: int
) -> LogisticProbe:
    """The probe on raw features: ``W (x - mean) / scale + b``, with the absent classes filled in."""
    moments = problem.moments
    weight = np.zeros((moments.n_classes, moments.width))
    bias = np.full(moments.n_classes, _ABSENT_BIAS)
    weight[problem.present] = W / moments.scale
    bias[problem.present] = b - weight[problem.present] @ moments.mean
    return LogisticProbe(
        weight=weight, bias=bias, strength=strength, gradient_norm=gradient_norm, n_iterations=n_iterations
    )
