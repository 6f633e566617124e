"""What predictions on the test images say about a drop: for all images alike, or for all classes alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri

from prune_tool.defaults import SEED
from prune_tool.frontier import betting
from prune_tool.frontier.paired import Null, p_value, score
from prune_tool.records import Budget, Score

BOUND_PRECISION = 1e-4
"""Upper bounds of the drop are exact to this, as a fraction, and rounded up: nobody reads a hundredth of a percent."""

LARGEST_BOUND = 0.999
"""A drop beyond this is not told from a total loss."""

BOUND_STEP = 1e-3
"""The same for balanced accuracy, whose test is tried at every such step."""

SEARCH_LIMIT = 100_000
"""Up to this many images the number needed is found by the exact test; beyond, the normal approximation is as good."""

SEARCH_STEP = 1.02
"""Growth of the search for it. The rates it starts from are far less certain than 2 %."""


class Evidence(Protocol):
    """Outcomes of both classifiers on the same images, ready to be tested against any budget."""

    @property
    def full(self) -> Score:
        """The full backbone's score."""

    @property
    def kept(self) -> Score:
        """The candidate's."""

    def p_value(self, budget: Budget, alpha: float) -> float:
        """Of "the drop is at least the budget", valid at every number of images."""

    def drop_bound(self, budget: Budget, alpha: float) -> float:
        """Upper confidence bound of the drop in the unit of ``budget``: the smallest one that passes, rounded up."""

    def images_needed(self, budget: Budget, alpha: float) -> int | None:
        """About the fewest images at which the same rates pass; None if they lie exactly on the budget or beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """How often which of two classifiers was right on the same images.

    Attributes:
        n_both: images that both get right.
        n_lost: images that full gets right and kept wrong.
        n_won: images that kept gets right and full wrong.
        n_neither: images that both get wrong.
    """

    n_both: int
    n_lost: int
    n_won: int
    n_neither: int

    @staticmethod
    def count(full: NDArray[np.bool_], kept: NDArray[np.bool_]) -> Outcomes:
        """Of ``full (n,)`` and ``kept (n,)``, whether each image was classified correctly."""
        both, lost, won = int((full & kept).sum()), int((full & ~kept).sum()), int((kept & ~full).sum())
        return Outcomes(n_both=both, n_lost=lost, n_won=won, n_neither=full.size - both - lost - won)

    @property
    def n_images(self) -> int:
        """All of them."""
        return self.n_both + self.n_lost + self.n_won + self.n_neither

    @property
    def n_full(self) -> int:
        """Correct predictions of the full backbone."""
        return self.n_both + self.n_lost

    @property
    def n_kept(self) -> int:
        """Correct predictions of the candidate."""
        return self.n_both + self.n_won


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageEvidence:
    """Accuracy: every image counts alike, and the test is exact (``paired``)."""

    outcomes: Outcomes

    @property
    def full(self) -> Score:
        """See ``Evidence``."""
        return Score(n_correct=self.outcomes.n_full, n_images=self.outcomes.n_images)

    @property
    def kept(self) -> Score:
        """See ``Evidence``."""
        return Score(n_correct=self.outcomes.n_kept, n_images=self.outcomes.n_images)

    def p_value(self, budget: Budget, alpha: float) -> float:  # noqa: ARG002 - the exact test aims at no level
        """See ``Evidence``."""
        return _exact(budget, self.outcomes)

    def drop_bound(self, budget: Budget, alpha: float) -> float:
        """See ``Evidence``: a confidence bound, as it inverts one test for each budget."""

        def excess(loss: float) -> float:
            return _exact(Budget(kind=budget.kind, loss=loss), self.outcomes) - alpha

        if excess(0.0) <= 0:
            return 0.0
        if excess(LARGEST_BOUND) > 0:
            return 1.0
        return float(brentq(excess, 0.0, LARGEST_BOUND, xtol=BOUND_PRECISION / 2)) + BOUND_PRECISION / 2

    def images_needed(self, budget: Budget, alpha: float) -> int | None:
        """See ``Evidence``. The score grows with the root of the number of images; small counts need more than that."""
        seen = self.outcomes
        null = _null(budget, seen)
        observed = float(score(null, seen.n_lost, seen.n_won)) if null.m else 0.0
        if observed > -1e-9:
            return None
        n = seen.n_images
        needed = max(n + 1, math.ceil(n * (float(ndtri(alpha)) / observed) ** 2))
        while needed <= SEARCH_LIMIT and _exact(budget, _scaled(seen, needed / n)) > alpha:
            needed = math.ceil(needed * SEARCH_STEP)
        return needed


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassEvidence:
    """Balanced accuracy: every class counts alike.

    The images of each class are dealt, in a seeded order, into as many groups as the rarest class has images. The mean
    over classes of a group's class means is an unbiased look at the balanced drop, independent of the other groups and
    bounded: what ``betting`` tests. No image is left out.

    Attributes:
        classes: outcomes by class, each with at least one image. They say all that the test needs: which image of a
            class is which does not matter.
    """

    classes: tuple[Outcomes, ...]

    @property
    def full(self) -> Score:
        """See ``Evidence``."""
        return self._score([seen.n_full for seen in self.classes])

    @property
    def kept(self) -> Score:
        """See ``Evidence``."""
        return self._score([seen.n_kept for seen in self.classes])

    def p_value(self, budget: Budget, alpha: float) -> float:
        """See ``Evidence``."""
        return float(self._p_values(budget, np.array([budget.loss]), alpha)[0])

    def drop_bound(self, budget: Budget, alpha: float) -> float:
        """See ``Evidence``: above it every budget passes."""
        losses = np.arange(0, 1, BOUND_STEP)
        fails = np.flatnonzero(self._p_values(budget, losses, alpha) > alpha)
        return float(losses[fails[-1]] + BOUND_STEP) if len(fails) else 0.0

    def images_needed(self, budget: Budget, alpha: float) -> int | None:
        """See ``Evidence``."""
        numbers = _evidence(budget.kind, np.array([budget.loss]), *self._groups())[0]
        needed = betting.n_numbers_needed(numbers, budget.loss - 1, alpha)
        n = self.full.n_images
        return None if needed is None else max(n + 1, math.ceil(n * needed / len(numbers)))

    def _score(self, correct: list[int]) -> Score:
        n = sum(seen.n_images for seen in self.classes)
        share = sum(k / seen.n_images for k, seen in zip(correct, self.classes, strict=True)) / len(self.classes)
        return Score(n_correct=n * share, n_images=n)

    def _p_values(self, budget: Budget, losses: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
        return betting.p_values(_evidence(budget.kind, losses, *self._groups()), losses - 1, alpha)

    def _groups(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Balanced accuracy of full and of kept in each group, (m,) both."""
        n_groups = min(seen.n_images for seen in self.classes)
        rng = np.random.default_rng(SEED)
        full, kept = np.zeros(n_groups), np.zeros(n_groups)
        for seen in self.classes:
            counts = [seen.n_both, seen.n_lost, seen.n_won, seen.n_neither]
            outcome = rng.permutation(np.repeat(np.arange(4), counts))
            group = rng.permutation(np.arange(len(outcome)) % n_groups)
            size = np.bincount(group, minlength=n_groups)
            full += np.bincount(group, outcome < 2, n_groups) / size / len(self.classes)
            kept += np.bincount(group, outcome % 2 == 0, n_groups) / size / len(self.classes)
        return full, kept


def _evidence(
    kind: str, losses: NDArray[np.float64], full: NDArray[np.float64], kept: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(s, m) numbers whose mean is above 0 exactly if the drop is within the loss; none is below ``loss - 1``."""
    loss = losses[:, None]
    return kept - (1 - loss) * full if kind == "relative" else kept - full + loss


def _exact(budget: Budget, seen: Outcomes) -> float:
    return p_value(_null(budget, seen), n_lost=seen.n_lost, n_won=seen.n_won)


def _null(budget: Budget, seen: Outcomes) -> Null:
    """The hypothesis that the drop is at least the budget."""
    if budget.kind == "relative":
        return Null(b=budget.loss, c=1 - budget.loss, m=seen.n_both + seen.n_lost + seen.n_won)
    return Null(b=budget.loss, c=1.0, m=seen.n_images)


def _scaled(seen: Outcomes, factor: float) -> Outcomes:
    """The same rates on ``factor`` times as many images."""
    n_lost, n_won = round(factor * seen.n_lost), round(factor * seen.n_won)
    n_either = max(n_lost + n_won, round(factor * (seen.n_both + seen.n_lost + seen.n_won)))
    n_images = max(n_either, round(factor * seen.n_images))
    return Outcomes(n_both=n_either - n_lost - n_won, n_lost=n_lost, n_won=n_won, n_neither=n_images - n_either)
