from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from prune_tool.frontier.screen import front
from prune_tool.pipeline.results import Results
from prune_tool.report.terminal import HEIGHT, WIDEST, FrontierPlot
from prune_tool.store.layout import RunFolder
from tests.support import ask


class Terminal(StringIO):
    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True


def plotted(results: Results, file: StringIO, width: int = 80) -> str:
    assert results.exported is not None
    shipped = results.exported.built.candidate
    counted = replace(results.analysis, timed=None)  # what a clock says of a network this small is mostly noise
    candidates = front(results.candidates, "macs")
    plot = FrontierPlot(analysis=counted, candidates=candidates, metric="accuracy", shipped=shipped)
    Console(file=file, width=width, color_system=None).print(plot)
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_frontier_fits_the_terminal_and_holds_every_candidate(results: Results, width: int) -> None:
    lines = plotted(results, Terminal(), width).splitlines()
    title, rows = " ".join(lines[: -HEIGHT - 2]), lines[-HEIGHT - 2 :]
    assert "Cross-validation accuracy against MACs" in title
    assert max(map(len, rows)) <= min(width, WIDEST)
    grid = rows[:HEIGHT]
    marks = [(column, -row) for row, line in enumerate(grid) for column, char in enumerate(line) if char in "●◉"]
    assert 1 < len(marks) <= len(results.candidates) + 1
    full = next((column, -row) for row, line in enumerate(grid) for column, char in enumerate(line) if char == "◆")
    assert max(marks)[0] <= full[0] + 1, "nothing costs more than the whole"
    ascending = [row for _, row in sorted(marks)]
    assert ascending == sorted(ascending), "a frontier rises"


def test_where_the_terminal_has_no_such_characters_plain_ones_do(results: Results) -> None:
    shown = plotted(results, Terminal("ascii"))
    assert shown.isascii()
    assert "#" in shown
    assert "@" in shown


def test_where_it_is_no_terminal_there_is_no_plot(
    results: Results, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # colours were asked for, not plots
    assert not plotted(results, StringIO()).strip()
    answer = ask("report", run.path, "-q")
    assert answer.status == 0
    assert "against latency" not in answer.out


def test_the_command_shows_it_on_a_terminal(run: RunFolder) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "prune_tool", "report", str(run.path), "-q"]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "90"}
    with subprocess.Popen(command, stdout=theirs, env=environment) as process:
        os.close(theirs)
        seen = bytearray()
        while True:
            try:
                seen += (block := os.read(ours, 4096))
            except OSError:  # Linux: whoever wrote has gone
                break
            if not block:
                break
    os.close(ours)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[\d;]*m", "", seen.decode())
    assert "Cross-validation accuracy against latency" in text
    assert "◉ shipped" in text
    assert "report.html" in text
