"""What the cache holds, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prune_tool.store.inventory import CacheEntry

DIGITS = 8
"""Digits of a key that are shown; any number that names one entry is taken."""


def cache_tables(root: Path, entries: Sequence[CacheEntry]) -> Sequence[RenderableType]:
    """One row an entry, the most recently used first, and the total."""
    table = Table(title=str(root), title_justify="left", title_style="bold", header_style="bold")
    for name in ("key", "kind", "of"):
        table.add_column(name, overflow="fold")
    for name in ("images", "taps", "MB", "last used"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in entries:
        n_images, n_taps = ("", "")
        if entry.about is not None:
            n_images = "" if entry.about.n_images is None else f"{entry.about.n_images:,}"
            n_taps = str(len(entry.about.taps))
        used = _age(datetime.now(UTC) - datetime.fromisoformat(entry.last_used))
        kind = entry.kind.removesuffix("s") if entry.kind == "graphs" else entry.kind
        table.add_row(entry.key[:DIGITS], kind, describe(entry), n_images, n_taps, megabytes(entry.n_bytes), used)
    n_bytes = sum(entry.n_bytes for entry in entries)
    total = Text(f"{len(entries):,} {'entry' if len(entries) == 1 else 'entries'}, {megabytes(n_bytes)} MB")
    return [table, total] if entries else [Text(f"{root} holds nothing")]


def describe(entry: CacheEntry) -> str:
    """Model, input sizes and images of an entry, in a few words."""
    if entry.about is None:
        return "it does not say"
    sizes = ", ".join(map(str, entry.about.input_sizes))
    of = f"{entry.about.model} at {sizes} px"
    return of if entry.about.data is None else f"{of}, {entry.about.data}"


def megabytes(n_bytes: int) -> str:
    """A size with one decimal."""
    return f"{n_bytes / 1e6:,.1f}"


def _age(age: timedelta) -> str:
    seconds = max(0.0, age.total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return "now"
