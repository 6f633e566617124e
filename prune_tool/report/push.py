"""What was pushed, or would be, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prune_tool.pipeline.push import Pushed


def push_tables(pushed: Pushed) -> Sequence[RenderableType]:
    """Every file with its size, and where it went."""
    where = f"{pushed.repository}{' (private)' if pushed.private else ''}"
    title = f"Would be uploaded to {where}" if pushed.url is None else f"Uploaded to {where}"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for file in pushed.files:
        table.add_row(Text(file.name), f"{file.n_bytes:,}")
    return [table, *([] if pushed.url is None else [Text(pushed.url)])]
