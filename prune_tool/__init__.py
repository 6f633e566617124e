"""prune-tool: smaller, faster vision backbones for one task, without training.

The front door. Everything behind it is imported when it is first used, so that ``import prune_tool`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prune_tool.errors import PruneToolError
    from prune_tool.pipeline.analyze import analyze
    from prune_tool.pipeline.bench import bench
    from prune_tool.pipeline.export import export
    from prune_tool.pipeline.load import load
    from prune_tool.pipeline.workspace import Workspace
    from prune_tool.records import Budget, Request
    from prune_tool.report.html import write_report

__all__ = ["Budget", "PruneToolError", "Request", "Workspace", "analyze", "bench", "export", "load", "write_report"]

_HOMES = {
    "Budget": "prune_tool.records",
    "PruneToolError": "prune_tool.errors",
    "Request": "prune_tool.records",
    "Workspace": "prune_tool.pipeline.workspace",
    "analyze": "prune_tool.pipeline.analyze",
    "bench": "prune_tool.pipeline.bench",
    "export": "prune_tool.pipeline.export",
    "load": "prune_tool.pipeline.load",
    "write_report": "prune_tool.report.html",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
