"""What may be said about a file's accuracy on images that had no part in choosing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prune_tool.errors import DataError, UsageError
from prune_tool.frontier.evidence import ClassEvidence, ImageEvidence, Outcomes
from prune_tool.records import Budget, Metric, Score

State = Literal["certified", "not met", "cannot certify"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTest:
    """One-sided paired test that accuracy falls by less than the budget.

    Attributes:
        metric: whether all images count alike, or all classes.
        full: score of the full backbone, on the test images.
        kept: score of the candidate, on the same images.
        evidence: outcomes on them.
        budget: the loss allowed.
        alpha: level of the test.
        p_value: of "the drop is at least the budget", valid at every number of images.
    """

    metric: Metric
    full: Score
    kept: Score
    evidence: ImageEvidence | ClassEvidence
    budget: Budget
    alpha: float
    p_value: float

    @property
    def passed(self) -> bool:
        """Whether the budget is certified to hold at level ``alpha``."""
        return self.p_value <= self.alpha


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a test allows to be said.

    Attributes:
        state: "certified"; "not met", the drop measured is itself beyond the budget; or "cannot certify", it is within,
            but there are too few images to be sure.
        test: the numbers behind it.
        drop_bound: upper confidence bound, at the test's ``1 - alpha``, of the accuracy drop in the budget's unit (a
            fraction of the full backbone's accuracy, or of all images), 0 to 1. It holds for a candidate fixed
            beforehand; that one was picked among several is accounted for in the budget's test alone, so ``sentence``
            leaves it out.
        n_images_needed: if "cannot certify", about how many test images the same rates would need to pass; otherwise,
            or where no number would do because the drop measured is exactly the budget, None.
        after_failure: the safest candidate failed, so nothing may be claimed of this one, whatever its test says.
    """

    state: State
    test: DropTest
    drop_bound: float
    n_images_needed: int | None
    after_failure: bool = False

    @property
    def confidence(self) -> float:
        """One-sided, that nothing certified of the budget is wrong: of the test, and of the sequence it ends."""
        return round(1 - self.test.alpha, 12)  # 0.95, not 0.9499999999999999556

    def sentence(self) -> str:
        """The finding in one sentence."""
        confidence = f"with {100 * self.confidence:g} % confidence"
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

    Exact at every number of images (``paired``). A budget of 0 asks for a candidate that is strictly better: the null
    is "kept is at most as good as full", so one that agrees with full on all images is never certified, whatever their
    number.

    Args:
        full_correct: (n,) bool, whether full classifies each test image correctly.
        kept_correct: (n,) bool, the same for the candidate, same images in the same order.
        budget: the loss allowed.
        alpha: level of the test, in (0, 1).

    Raises:
        DataError: no images, or arrays that are not two boolean vectors of one length.
        UsageError: ``alpha`` is no level.
    """
    full, kept = _checked(full_correct, kept_correct, alpha)
    return _judge("accuracy", ImageEvidence(outcomes=Outcomes.count(full, kept)), budget, alpha)


def test_balanced_drop(
    labels: NDArray[np.int64],
    full_correct: NDArray[np.bool_],
    kept_correct: NDArray[np.bool_],
    budget: Budget,
    alpha: float,
) -> DropTest:
    """The same for balanced accuracy, the mean of the accuracies of all classes in ``labels (n,)``.

    Valid at every number of images (``betting``), with classes taken as given and images drawn within each. The rarest
    class decides the power. Other arguments and errors as for ``test_drop``.
    """
    full, kept = _checked(full_correct, kept_correct, alpha)
    classes = tuple(Outcomes.count(full[labels == label], kept[labels == label]) for label in np.unique(labels))
    return _judge("balanced-accuracy", ClassEvidence(classes=classes), budget, alpha)


def _checked(
    full_correct: NDArray[np.bool_], kept_correct: NDArray[np.bool_], alpha: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if not 0 < alpha < 1:
        raise UsageError(asked=f"a test at level {alpha}", found="no level", remedy="Give a number between 0 and 1")
    full, kept = np.asarray(full_correct), np.asarray(kept_correct)
    if full.ndim != 1 or full.shape != kept.shape or not full.size or full.dtype != bool or kept.dtype != bool:
        raise DataError(
            asked="a paired test of two classifiers",
            found=f"{full.dtype} of shape {full.shape} and {kept.dtype} of shape {kept.shape}",
            remedy="Give two boolean vectors of one length, one entry for each of at least one test image",
        )
    return full, kept


def _judge(metric: Metric, evidence: ImageEvidence | ClassEvidence, budget: Budget, alpha: float) -> DropTest:
    return DropTest(
        metric=metric,
        full=evidence.full,
        kept=evidence.kept,
        evidence=evidence,
        budget=budget,
        alpha=alpha,
        p_value=evidence.p_value(budget, alpha),
    )


def certify(test: DropTest, *, after_failure: bool = False) -> Certificate:
    """Say what a test allows to be said.

    Args:
        test: of the file that ships.
        after_failure: whether the safest candidate failed already; then it is never "certified".
    """
    budget, alpha = test.budget, test.alpha
    certified = test.passed and not after_failure
    state: State = "certified" if certified else "cannot certify" if budget.is_met(test.kept, test.full) else "not met"
    unsure = state == "cannot certify" and not test.passed
    bound = test.evidence.drop_bound(budget, alpha)
    return Certificate(
        state=state,
        test=test,
        drop_bound=min(bound, budget.loss) if test.passed else bound,  # rounding up must not contradict the state
        n_images_needed=test.evidence.images_needed(budget, alpha) if unsure else None,
        after_failure=after_failure,
    )


def _measured(test: DropTest) -> str:
    """What was seen, in the budget's unit."""
    full, kept = test.full.accuracy, test.kept.accuracy
    against = f"({100 * kept:.1f} % against {100 * full:.1f} %)"
    what = test.metric.replace("-", " ")
    if test.budget.kind == "relative" and full > 0:
        return f"the file keeps {100 * kept / full:.1f} % of the full backbone's {what} {against}"
    verb = "loses" if kept <= full else "gains"
    return f"the file {verb} {100 * abs(full - kept):.1f} points of {what} {against}"
