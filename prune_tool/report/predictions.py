"""Predictions as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prune_tool.pipeline.predict import Predicted


def prediction_tables(predicted: Predicted) -> Sequence[RenderableType]:
    """A line a class, the image named before its first."""
    table = Table(header_style="bold")
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("%", justify="right")
    for prediction in predicted.predictions:
        for i, guess in enumerate(prediction.guesses):
            image = prediction.image if i == 0 else ""
            table.add_row(Text(image), Text(guess.name), f"{100 * guess.probability:.1f}")
    return [table] if predicted.predictions else []
