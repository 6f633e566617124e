"""One small run that all tests of the command line share; those that export one copy it first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support import Answer, ask, ask_process

QUICK = ("--input-size", "native", "--draws", "2")


@pytest.fixture(scope="session")
def analysis(convnet: str, images: Path, home: Path) -> Answer:
    """``analyze`` as a user runs it."""
    runs = home / "cli"
    return ask_process("analyze", convnet, images, *QUICK, "--runs", runs, "--name", "shared", "--json", "-q")


@pytest.fixture(scope="session")
def analyzed(analysis: Answer, home: Path) -> Path:
    assert analysis.status == 0, analysis.err
    return home / "cli" / "shared"


@pytest.fixture(scope="session")
def export_answer(analyzed: Path, home: Path) -> Answer:
    shutil.copytree(analyzed, home / "cli-exported" / "shared")
    return ask("export", home / "cli-exported" / "shared", "--budget", "0.2", "--json")


@pytest.fixture(scope="session")
def exported(export_answer: Answer, home: Path) -> Path:
    assert export_answer.status == 0, export_answer.err
    return home / "cli-exported" / "shared"
