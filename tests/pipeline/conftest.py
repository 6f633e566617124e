"""One small analysis and export that the tests of this room share."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune_tool.pipeline.analyze import Analyzed, analyze
from prune_tool.pipeline.export import Exported, export
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget, Request


@pytest.fixture(scope="session")
def request_(images: Path, convnet: str) -> Request:
    return Request(model=convnet, data=str(images), input_sizes=(), n_draws=10)


@pytest.fixture(scope="session")
def workspace(request_: Request) -> Workspace:
    return Workspace(request_)


@pytest.fixture(scope="session")
def analyzed(workspace: Workspace, home: Path) -> Analyzed:
    return analyze(workspace, runs=home / "runs")


@pytest.fixture(scope="session")
def exported(workspace: Workspace, analyzed: Analyzed) -> Exported:
    return export(workspace, analyzed.run, budget=Budget.parse("0.2"))
