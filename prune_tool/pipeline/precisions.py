"""Precision as an axis: candidates in several precisions, and of all those files the ones that are worth a test.

Whether eight bits are faster depends on the network and on the machine, and what they cost in accuracy on the task too.
So each file of fewer bits is built, timed against its own float32, and judged by what it loses on the validation images
against that: candidates are scored by more images than those where they are few (``probing.score_probe``), and a file
that a few flatter must not pass for the better of two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from prune_tool.errors import BudgetError, UsageError
from prune_tool.frontier.pareto import pareto_front
from prune_tool.pipeline.build import Shippable
from prune_tool.pipeline.sequence import Make, thin
from prune_tool.pipeline.speed import priced, speedup
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Candidate, Form, Limit, Precision, Request
from prune_tool.redundancy.held_out import score_of

PRICED = ("latency", "size")
"""Costs that fewer bits lower; the others count what they leave alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Entrant:
    """A candidate in one precision.

    Attributes:
        candidate: with what it costs in this precision.
        accuracy: of the candidate, less what its file loses on the validation images against float32.
        build: makes the file, or hands it over where it was made to be judged.
    """

    candidate: Candidate
    accuracy: float
    build: Callable[[], Shippable]


def require_choice(forms: Sequence[Form], limits: Sequence[Limit], request: Request) -> None:
    """Refuse to choose among precisions where there is nothing to choose by. Raises ``UsageError``."""
    asked = f"choose among the precisions {', '.join(form.precision for form in forms)}"
    if request.cost not in PRICED:
        raise UsageError(
            asked=asked,
            found=f"a run whose cost is {request.cost}, which is the same in every precision",
            remedy="Analyse with --cost latency or --cost size, or name one precision",
        )
    if limits:
        raise UsageError(
            asked=f"{asked} within {' and '.join(map(str, limits))}",
            found="limits, which order candidates by accuracy and not by cost",
            remedy="Name one precision, or give a --budget alone",
        )


def settle_precisions(
    workspace: Workspace, order: Sequence[Candidate], makes: Mapping[Precision, Make], folder: Path
) -> list[Shippable]:
    """Build the files that will be tested: the frontier of all candidates in all precisions, from safe to cheap.

    Args:
        workspace: of the run; its request says what is cheap.
        order: candidates that meet the budget in float32, from safe to cheap.
        makes: builds a candidate in a precision.
        folder: where to.

    Raises:
        BudgetError: float32 is not among the precisions, and none of them keeps the validation accuracy.
    """
    entrants = [
        entrant
        for number, candidate in enumerate(thin(order))
        for entrant in _entrants(workspace, candidate, makes, folder / str(number))
    ]
    if not entrants:
        raise BudgetError(
            asked=f"a file in {' or '.join(makes)} that keeps the budget on the validation images",
            found="none of the candidates does",
            remedy="Let fp32 take part: --precision auto",
        )
    return [entrant.build() for entrant in thin(worth_testing(entrants, workspace.request))]


def worth_testing(entrants: Sequence[Entrant], request: Request) -> list[Entrant]:
    """Those that no other matches in accuracy at less cost, from safe to cheap."""
    costs = [entrant.candidate.cost(request.cost)[0] for entrant in entrants]
    best = pareto_front(costs, [entrant.accuracy for entrant in entrants])
    return [entrants[int(i)] for i in best[::-1]]


def _entrants(
    workspace: Workspace, candidate: Candidate, makes: Mapping[Precision, Make], folder: Path
) -> Iterator[Entrant]:
    folder.mkdir()
    for precision, make in makes.items():
        place = folder / precision
        if precision == "fp32":
            yield Entrant(candidate=candidate, accuracy=candidate.val.accuracy, build=partial(make, candidate, place))
            continue
        try:
            file = _priced(workspace, make(candidate, place))
        except BudgetError as error:
            workspace.progress.note(f"leaving out {candidate.n_neurons:,} neurons in {precision}: {error.found}")
            continue
        accuracy = accuracy_of(workspace, candidate, file)
        yield Entrant(candidate=file.built.candidate, accuracy=accuracy, build=partial(_same, file))


def accuracy_of(workspace: Workspace, candidate: Candidate, file: Shippable) -> float:
    """Accuracy of a candidate (0 to 1), less what fewer bits lose on the validation images."""
    labels = workspace.source.labels[workspace.splits.val]
    float32 = score_of(labels, file.exported.logits.argmax(axis=1), workspace.request.metric)
    return candidate.val.accuracy + file.built.val.accuracy - float32.accuracy


def _priced(workspace: Workspace, file: Shippable) -> Shippable:
    """A file of fewer bits with its own cost."""
    built, found = file.built, None
    if built.candidate.latency_ms is not None:
        with workspace.progress.stage(f"timing {built.form.precision}"):
            size, target = built.reading.trunk.input_size, workspace.request.target
            found = speedup(file.exported.path, file.pillow.path, size, target)
    return replace(file, built=replace(built, candidate=priced(built.candidate, built.n_bytes, found)), faster=found)


def _same(file: Shippable) -> Shippable:
    return file
