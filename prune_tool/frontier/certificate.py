"""What may be said about a file's accuracy on images that had no part in choosing it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri

from prune_tool.errors import DataError, UsageError
from prune_tool.frontier.paired import Null, p_value, score
from prune_tool.records import Budget, Score

State = Literal["certified", "not met", "cannot certify"]

BOUND_PRECISION = 1e-4
"""Upper bounds of the drop are exact to this, as a fraction, and rounded up: nobody reads a hundredth of a percent."""

LARGEST_BOUND = 0.999
"""A drop beyond this is not told from a total loss."""

SEARCH_LIMIT = 100_000
"""Up to this many images the number needed is found by the exact test; beyond, the normal approximation is as good."""

SEARCH_STEP = 1.02
"""Growth of the search for it. The rates it starts from are far less certain than 2 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTest:
    """One-sided paired test that accuracy falls by less than the budget.

    Attributes:
        full: score of the full backbone, on the test images.
        kept: score of the candidate, on the same images.
        n_lost: images that full gets right and kept wrong.
        n_won: images that kept gets right and full wrong.
        budget: the loss allowed.
        alpha: level of the test.
        p_value: of "the drop is at least the budget"; exact, see ``paired.p_value``.
    """

    full: Score
    kept: Score
    n_lost: int
    n_won: int
    budget: Budget
    alpha: float
    p_value: float

    @property
    def passed(self) -> bool:
        """Whether the budget is certified to hold at level ``alpha``."""
        return self.p_value <= self.alpha


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedSequence:
    """Outcome of testing from the safest candidate to the cheapest.

    Attributes:
        tests: those carried out, in order; all but possibly the last passed.
    """

    tests: tuple[DropTest, ...]

    @property
    def n_passed(self) -> int:
        """Candidates certified; candidate ``n_passed - 1`` is the cheapest of them."""
        return sum(test.passed for test in self.tests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a test allows to be said.

    Attributes:
        state: "certified"; "not met", the drop measured is itself beyond the budget; or "cannot certify", it is within,
            but there are too few images to be sure.
        test: the numbers behind it.
        drop_bound: upper confidence bound, at ``1 - alpha``, of the accuracy drop in the budget's unit (a fraction of
            the full backbone's accuracy, or of all images), 0 to 1. It holds for a candidate fixed beforehand; that one
            was picked by a fixed sequence is accounted for in the budget's test alone, so ``sentence`` leaves it out.
        n_images_needed: if "cannot certify", about how many test images the same rates would need to pass; otherwise,
            or where no number would do because the drop measured is exactly the budget, None.
        after_failure: a safer candidate failed before, so nothing may be claimed of this one, whatever its test says.
    """

    state: State
    test: DropTest
    drop_bound: float
    n_images_needed: int | None
    after_failure: bool = False

    def sentence(self) -> str:
        """The finding in one sentence."""
        confidence = f"with {100 * (1 - self.test.alpha):g} % confidence"
        allowed = f"the budget of {self.test.budget}"
        match self.state:
            case "certified":
                end = f"{confidence} the loss is within {allowed}."
            case "not met":
                end = f"the loss measured is beyond {allowed}."
            case "cannot certify" if self.test.passed:
                end = f"that is within {allowed}, but a safer candidate failed before it, so nothing is claimed."
            case "cannot certify" if self.n_images_needed is None:
                end = f"that is exactly {allowed}, so that no number of such images could tell it from a larger loss."
            case "cannot certify":
                needed = f"about {self.n_images_needed:,} images"
                end = f"that is within {allowed}, but to say so {confidence} takes {needed}."
        return f"On {self.test.full.n_images:,} test images never used before, {_measured(self.test)}; {end}"


def test_drop(
    full_correct: NDArray[np.bool_], kept_correct: NDArray[np.bool_], budget: Budget, alpha: float
) -> DropTest:
    """Test whether the candidate's accuracy is certain to be within the budget of the full backbone's.

    Valid at every number of images. A budget of 0 asks for a candidate that is strictly better: the null is "kept is at
    most as good as full", so one that agrees with full on all images is never certified, whatever their number.

    Args:
        full_correct: (n,) bool, whether full classifies each test image correctly.
        kept_correct: (n,) bool, the same for the candidate, same images in the same order.
        budget: the loss allowed.
        alpha: level of the test, in (0, 1).

    Raises:
        DataError: no images, or arrays that are not two boolean vectors of one length.
        UsageError: ``alpha`` is no level.
    """
    if not 0 < alpha < 1:
        raise UsageError(asked=f"a test at level {alpha}", found="no level", remedy="Give a number between 0 and 1")
    full, kept = np.asarray(full_correct), np.asarray(kept_correct)
    if full.ndim != 1 or full.shape != kept.shape or not full.size or full.dtype != bool or kept.dtype != bool:
        raise DataError(
            asked="a paired test of two classifiers",
            found=f"{full.dtype} of shape {full.shape} and {kept.dtype} of shape {kept.shape}",
            remedy="Give two boolean vectors of one length, one entry for each of at least one test image",
        )
    n = full.size
    full_score = Score(n_correct=int(full.sum()), n_images=n)
    kept_score = Score(n_correct=int(kept.sum()), n_images=n)
    n_lost, n_won = int((full & ~kept).sum()), int((kept & ~full).sum())
    null = _null(budget, n_images=n, n_either=full_score.n_correct + n_won)
    p = p_value(null, n_lost=n_lost, n_won=n_won)
    return DropTest(full=full_score, kept=kept_score, n_lost=n_lost, n_won=n_won, budget=budget, alpha=alpha, p_value=p)


def fixed_sequence(tests: Iterable[Callable[[], DropTest]]) -> FixedSequence:
    """Carry out the tests in order and stop after the first that fails; the rest are never evaluated.

    Each may use the full level: the chance that any is passed wrongly stays below it (Maurer, Hothorn & Lehmacher,
    1995; Westfall & Krishen, J. Stat. Plan. Inference 2001). The order must not have been chosen on these images.

    Args:
        tests: from the safest candidate to the cheapest, each evaluated when called.
    """
    done: list[DropTest] = []
    for test in tests:
        done.append(test())
        if not done[-1].passed:
            break
    return FixedSequence(tests=tuple(done))


def certify(test: DropTest, *, after_failure: bool = False) -> Certificate:
    """Say what a test allows to be said.

    Args:
        test: of the file that ships.
        after_failure: whether a test before it in the fixed sequence failed; then it is never "certified".
    """
    certified = test.passed and not after_failure
    state: State = "certified" if certified else "cannot certify" if _is_met(test) else "not met"
    needed = _images_needed(test) if state == "cannot certify" and not test.passed else None
    return Certificate(
        state=state,
        test=test,
        drop_bound=_drop_bound(test),
        n_images_needed=needed,
        after_failure=after_failure,
    )


def _null(budget: Budget, *, n_images: int, n_either: int) -> Null:
    """The hypothesis that the drop is at least the budget; ``n_either`` images are right by full or kept or both."""
    if budget.kind == "relative":
        return Null(b=budget.loss, c=1 - budget.loss, m=n_either)
    return Null(b=budget.loss, c=1.0, m=n_images)


def _is_met(test: DropTest) -> bool:
    return test.budget.is_met(test.kept, test.full)


def _drop_bound(test: DropTest) -> float:
    """The smallest budget that passes, rounded up: a confidence bound, as it inverts one test for each budget."""

    def excess(loss: float) -> float:
        null = _null(
            Budget(kind=test.budget.kind, loss=loss),
            n_images=test.full.n_images,
            n_either=test.full.n_correct + test.n_won,
        )
        return p_value(null, n_lost=test.n_lost, n_won=test.n_won) - test.alpha

    if excess(0.0) <= 0:
        return 0.0
    if excess(LARGEST_BOUND) > 0:
        return 1.0
    bound = float(brentq(excess, 0.0, LARGEST_BOUND, xtol=BOUND_PRECISION / 2)) + BOUND_PRECISION / 2
    return min(bound, test.budget.loss) if test.passed else bound


def _images_needed(test: DropTest) -> int | None:
    """About the fewest images at which the test's own rates pass; None if they lie exactly on the budget.

    The score grows with the square root of the number of images, which gives a first guess; small counts need more.
    """
    n = test.full.n_images
    n_either = test.full.n_correct + test.n_won
    null = _null(test.budget, n_images=n, n_either=n_either)
    if null.m == 0:
        return None
    observed = float(score(null, test.n_lost, test.n_won))
    if observed > -1e-9:
        return None
    needed = max(n + 1, math.ceil(n * (float(ndtri(test.alpha)) / observed) ** 2))
    while needed <= SEARCH_LIMIT:
        lost, won = round(needed * test.n_lost / n), round(needed * test.n_won / n)
        either = max(lost + won, round(needed * n_either / n))
        if p_value(_null(test.budget, n_images=needed, n_either=either), n_lost=lost, n_won=won) <= test.alpha:
            break
        needed = math.ceil(needed * SEARCH_STEP)
    return needed


def _measured(test: DropTest) -> str:
    """What was seen, in the budget's unit."""
    full, kept = test.full.accuracy, test.kept.accuracy
    against = f"({100 * kept:.1f} % against {100 * full:.1f} %)"
    if test.budget.kind == "relative" and full > 0:
        return f"the file keeps {100 * kept / full:.1f} % of the full backbone's accuracy {against}"
    verb = "loses" if kept <= full else "gains"
    return f"the file {verb} {100 * abs(full - kept):.1f} points of accuracy {against}"
