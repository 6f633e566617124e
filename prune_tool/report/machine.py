"""What ``env`` found, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prune_tool.pipeline.machine import Machine


def machine_tables(machine: Machine) -> Sequence[RenderableType]:
    """One row a fact, in the order in which a bug report wants them."""
    rows = {
        **machine.versions,
        "os": machine.os,
        "cpu": f"{machine.cpu}, {machine.n_usable_cores} of {machine.n_cores} cores usable",
        "cuda": ", ".join(machine.cuda_devices) or "none that PyTorch can use",
        "providers": ", ".join(machine.providers),
        "cache": f"{machine.cache} ({machine.cache_bytes / 1e6:,.1f} MB)",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    return [table]
