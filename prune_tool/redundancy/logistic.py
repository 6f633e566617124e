"""Converged multinomial logistic regression with an L2 penalty: the probe that ships.

It minimises the objective of ``redundancy.softmax`` on standardised features, and reads raw ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from prune_tool.errors import UsageError
from prune_tool.records import Score
from prune_tool.redundancy.checks import Features, Float64, Int64, check_features
from prune_tool.redundancy.held_out import HeldOut, check_held_out
from prune_tool.redundancy.softmax import GRADIENT_TOLERANCE, Problem, minimise, prepare

_PATIENCE = 2  # strengths in a row that may bring nothing before weaker ones are given up
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
    return _fit(prepare(train, labels, n_classes), strength, start)


def choose_logistic(
    train: Features,
    labels: Int64,
    val: HeldOut,
    n_classes: int,
    strengths: Iterable[float],
    start: LogisticProbe | None = None,
) -> LogisticProbe:
    """The probe of the strength with most correct predictions on ``val``, ties to the stronger.

    Strengths are fitted from strong to weak, each from where the last one ended, until ``_PATIENCE`` in a row bring
    nothing: weaker ones fit the training images ever closer, and take ever longer. Where ``val`` counts classes alike,
    each is judged, and the chosen one comes back, as ``for_equal_classes``. Other arguments and errors as for
    ``fit_logistic``; no strength at all is a ``UsageError``.
    """
    problem = prepare(train, labels, n_classes)
    fitted = start
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


def _fit(problem: Problem, strength: float, start: LogisticProbe | None) -> LogisticProbe:
    """The probe on raw features: ``W (x - mean) / scale + b``, with the absent classes filled in."""
    minimum = minimise(problem, strength, *_starting_point(problem, start))
    moments = problem.moments
    weight = np.zeros((moments.n_classes, moments.width))
    bias = np.full(moments.n_classes, _ABSENT_BIAS)
    weight[problem.present] = minimum.W.numpy() / moments.scale
    bias[problem.present] = minimum.b.numpy() - weight[problem.present] @ moments.mean
    return LogisticProbe(
        weight=weight,
        bias=bias,
        strength=strength,
        gradient_norm=minimum.gradient_norm,
        n_iterations=minimum.n_iterations,
    )


def _starting_point(problem: Problem, start: LogisticProbe | None) -> tuple[Tensor, Tensor]:
    """``W (c, d)`` and ``b (c,)`` in standardised coordinates, summing to 0 over classes, as the minimiser does."""
    if start is None:
        shape = len(problem.present), problem.moments.width
        return torch.zeros(shape, dtype=torch.float64), torch.zeros(shape[0], dtype=torch.float64)
    weight = start.weight[problem.present]
    W = torch.tensor(weight * problem.moments.scale)
    b = torch.tensor(start.bias[problem.present] + weight @ problem.moments.mean)
    return W - W.mean(dim=0), b - b.mean()
