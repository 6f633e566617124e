"""The first file that is small enough: what a file takes is known when it is there, and not before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree

from prune_tool.errors import BudgetError, LimitError
from prune_tool.frontier.choice import would_take
from prune_tool.pipeline.build import Shippable
from prune_tool.pipeline.progress import Progress
from prune_tool.pipeline.sequence import Make
from prune_tool.records import Candidate, Limit

CERTIFICATE_BYTES = 1200
"""Kept free for the certificate, which the file carries once it has been tested: a sentence and four counts."""


def require_within(n_bytes: int, limits: Sequence[Limit]) -> None:
    """Raise ``LimitError`` where a finished file is over a limit on size: its certificate took more than was kept."""
    for limit in limits:
        if limit.kind == "size" and n_bytes > limit.most:
            raise LimitError(
                asked=f"a file of at most {limit}",
                found=f"with its certificate it takes {n_bytes / 1e6:.2f} MB",
                remedy=would_take({limit: n_bytes}),
            )


def first_within(
    candidates: Sequence[Candidate], make: Make, folder: Path, limit: Limit, progress: Progress
) -> Shippable:
    """Build candidates one after the other until a file is within a limit on size, its certificate included.

    A file over the limit is not kept, and no candidate is tried that is predicted to be larger still.

    Args:
        candidates: in the order in which they are wanted.
        make: builds one.
        folder: where to.
        limit: on size.
        progress: is told of files that are too large.

    Raises:
        LimitError: no file is small enough; the message names the smallest, and the limit that would take it.
        BudgetError: those that would be small enough cannot keep the budget in their precision.
    """
    built: dict[Candidate, float] = {}
    refused: BudgetError | None = None
    for number, candidate in enumerate(candidates):
        if any(candidate.n_bytes >= larger.n_bytes for larger in built):
            continue
        try:
            file = make(candidate, folder / str(number))
        except BudgetError as error:
            progress.note(f"leaving out the file of {candidate.n_neurons:,} neurons: {error.found}")
            refused = error
            continue
        n_bytes = file.built.n_bytes + CERTIFICATE_BYTES
        if n_bytes <= limit.most:
            return file
        progress.note(f"the file of {candidate.n_neurons:,} neurons takes {n_bytes / 1e6:.2f} MB, more than {limit}")
        built[candidate] = n_bytes
        rmtree(file.folder.path)
    if not built:
        assert refused is not None
        raise refused
    smallest = min(built, key=built.__getitem__)
    raise LimitError(
        asked=f"a file of at most {limit}",
        found=f"the smallest takes {built[smallest] / 1e6:.2f} MB, with {smallest.n_neurons:,} neurons",
        remedy=would_take({limit: built[smallest]}),
    )
