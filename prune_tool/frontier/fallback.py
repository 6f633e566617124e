"""Testing candidates from safe to cheap so that one unlucky failure does not end it all.

In a plain fixed sequence the first failure is the last test. But the safest candidates are the most accurate of very
many on the validation images, hence flattered by chance, and on the test images they disappoint more often than what
comes behind them. So the order is entered twice: at its start, with most of the level, and in its middle, with the
rest. Whoever passes hands on what it was tested at; where nobody fails, the cheaper half is tested at the full level,
as in a fixed sequence. What it costs is a slightly stricter test of the dearer half. Equal shares cost too much there:
on the solar cells of the demo they stopped an order at 6 times faster that went on to 10 times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prune_tool import defaults
from prune_tool.frontier.certificate import DropTest

TestAt = Callable[[float], DropTest]
"""Tests a candidate at a level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """Outcome of testing an order.

    Attributes:
        tests: by the candidate's place in the order, from safe to cheap; candidates without one were never looked at.
    """

    tests: Mapping[int, DropTest]

    @property
    def last_passed(self) -> int | None:
        """Place of the cheapest candidate that is certified; None if none is."""
        return max((place for place, test in self.tests.items() if test.passed), default=None)


def fallback(tests: Sequence[TestAt], alpha: float) -> Fallback:
    """Test in order, each candidate at the level that it enters with and that those before it hand on.

    The chance that any candidate is certified wrongly is at most ``alpha``, whatever their dependence (the fallback
    procedure: Wiens, Pharm. Stat. 2003; Wiens & Dmitrienko, J. Biopharm. Stat. 2005). The order must not have been
    chosen on the images that are tested on.

    Args:
        tests: from the safest candidate to the cheapest, each evaluated when called.
        alpha: level of the whole.
    """
    shares = entries(len(tests))
    done: dict[int, DropTest] = {}
    share = 0.0
    for place, test in enumerate(tests):
        share += shares.get(place, 0.0)
        if share:
            done[place] = test(alpha * share)
            share = share if done[place].passed else 0.0
    return Fallback(tests=done)


def entries(n: int) -> dict[int, float]:
    """Where an order of ``n`` is entered, and with which share of the level; a short one at its start alone."""
    if n < defaults.MIN_ORDER_OF_TWO_ENTRIES:
        return {0: 1.0}
    return {0: defaults.FIRST_ENTRY, n // 2: 1 - defaults.FIRST_ENTRY}
