"""prune-tool: smaller, faster vision backbones for one task, without training.

The front door. Everything behind it is imported when it is first used, so that ``import prune_tool`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prune_tool.deploy.bench import Conditions
    from prune_tool.errors import PruneToolError
    from prune_tool.pipeline.bench import bench
    from prune_tool.pipeline.export import export, export_each
    from prune_tool.pipeline.load import load
    from prune_tool.pipeline.module import from_module
    from prune_tool.pipeline.predict import predict
    from prune_tool.pipeline.study import analyze
    from prune_tool.pipeline.workspace import Workspace
    from prune_tool.records import Budget, Form, Limit, PreprocessingChange, Request
    from prune_tool.report.html import write_report
    from prune_tool.task.pooling import Pooling
    from prune_tool.task.preprocessing import Preprocessing

__all__ = [
    "Budget",
    "Conditions",
    "Form",
    "Limit",
    "Pooling",
    "Preprocessing",
    "PreprocessingChange",
    "PruneToolError",
    "Request",
    "Workspace",
    "analyze",
    "bench",
    "export",
    "export_each",
    "from_module",
    "load",
    "predict",
    "write_report",
]

_HOMES = {
    "Budget": "prune_tool.records",
    "Conditions": "prune_tool.deploy.bench",
    "Form": "prune_tool.records",
    "Limit": "prune_tool.records",
    "Pooling": "prune_tool.task.pooling",
    "Preprocessing": "prune_tool.task.preprocessing",
    "PreprocessingChange": "prune_tool.records",
    "PruneToolError": "prune_tool.errors",
    "Request": "prune_tool.records",
    "Workspace": "prune_tool.pipeline.workspace",
    "analyze": "prune_tool.pipeline.study",
    "bench": "prune_tool.pipeline.bench",
    "export": "prune_tool.pipeline.export",
    "export_each": "prune_tool.pipeline.export",
    "from_module": "prune_tool.pipeline.module",
    "load": "prune_tool.pipeline.load",
    "predict": "prune_tool.pipeline.predict",
    "write_report": "prune_tool.report.html",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
