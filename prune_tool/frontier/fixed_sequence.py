"""Testing candidates from safe to cheap, each at the full level, until one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prune_tool.frontier.certificate import DropTest


def fixed_sequence(tests: Iterable[Callable[[], DropTest]]) -> tuple[DropTest, ...]:
    """Carry out tests in order and stop after the first that fails; the rest are never evaluated.

    Each may use the full level: the chance that any is passed wrongly stays below it, whatever their dependence
    (Maurer, Hothorn & Lehmacher, 1995; Westfall & Krishen, J. Stat. Plan. Inference 2001). The order must not have been
    chosen on the images that are tested on.

    Args:
        tests: from the safest candidate to the cheapest, each evaluated when called.

    Returns:
        Those carried out: all but possibly the last passed.
    """
    done: list[DropTest] = []
    for test in tests:
        done.append(test())
        if not done[-1].passed:
            break
    return tuple(done)
