"""Where results and progress go: results to stdout, progress to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from prune_tool.errors import GateError
from prune_tool.pipeline.progress import Progress, Silent
from prune_tool.store.atomic import as_json_text

if TYPE_CHECKING:  # it imports ONNX, which not every command needs
    from prune_tool.pipeline.exported import Exported

PAGE_WIDTH = 118
"""Columns of a table where stdout is no terminal."""


class RichProgress:
    """A bar for the stage under way and a line for each one done, on stderr; lines alone where it is no terminal."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars

    @contextmanager
    def stage(self, title: str, total: int | None = None, unit: str | None = None) -> Iterator[Callable[[int], None]]:
        """See ``pipeline.progress.Progress``."""
        started = time.perf_counter()
        task = self.bars.add_task(title, total=total, unit=unit)
        try:
            yield lambda steps: self.bars.advance(task, steps)
        finally:
            self.bars.remove_task(task)
        seconds = time.perf_counter() - started
        rate = f", {total:,} {unit} at {total / seconds:,.0f} a second" if total and unit else ""
        self.note(f"{title}: {seconds:.1f} s{rate}")

    def note(self, message: str) -> None:
        """See ``pipeline.progress.Progress``."""
        self.bars.console.print(message, highlight=False, markup=False, soft_wrap=True)


class RateColumn(ProgressColumn):
    """Units a second of the stage under way, where it has a unit."""

    def render(self, task: Task) -> Text:
        """``213 images/s``."""
        unit, speed = task.fields.get("unit"), task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {unit}/s" if unit and speed else "")


@contextmanager
def watching(*, quiet: bool) -> Iterator[Progress]:
    """Show progress on stderr while the block runs."""
    if quiet:
        yield Silent()
        return
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield RichProgress(bars)


def show(value: object, tables: Sequence[RenderableType], *, as_json: bool) -> None:
    """Print a result to stdout, as tables or as one JSON object."""
    if as_json:
        sys.stdout.write(as_json_text(value))
        return
    console = Console(width=None if sys.stdout.isatty() else PAGE_WIDTH)
    with console.capture() as page:
        for table in tables:
            console.print(table)
    sys.stdout.write(page.get())


def pass_gates(several: Iterable[Exported], classes: Sequence[str], max_class_drop: float | None) -> None:
    """Exit 1 where a file missed a gate; the files are there, and the result above says so.

    Raises:
        GateError: a class lost more than ``max_class_drop`` points.
    """
    several = tuple(several)
    worst = max((exported.fairness.worst for exported in several), key=lambda scores: scores.drop_points)
    if max_class_drop is not None and worst.drop_points > max_class_drop:
        raise GateError(
            asked=f"--max-class-drop {max_class_drop:g}pp",
            found=f"class {classes[worst.label]} lost {worst.drop_points:.1f} points ({worst.full} to {worst.kept})",
            remedy="A smaller --budget keeps more of every class",
        )
    if any(exported.certificate.state != "certified" for exported in several):
        raise typer.Exit(GateError.exit_status)
