"""How a command ends that neither finishes nor is refused."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from prune_tool import defaults
from prune_tool.cli.app import main
from prune_tool.cli.console import RateColumn, watching
from prune_tool.store.features import FeatureEntry
from tests.cli.conftest import QUICK
from tests.support import ask, ask_process, untimed

INTERRUPTIBLE = """
import signal
from prune_tool.cli.app import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have had it ignored
main()
"""


INTERRUPT_AFTER = """
import os, signal
from prune_tool import defaults
from prune_tool.store.features import FeatureEntry
defaults.SHARD_SIZE = {shard_size}
write, written = FeatureEntry.write, []
def write_and_interrupt(entry, shard, arrays):
    write(entry, shard, arrays)
    written.append(shard)
    if len(written) == {n_shards}:
        os.kill(os.getpid(), signal.SIGINT)
FeatureEntry.write = write_and_interrupt
"""


def test_an_interrupt_is_status_130_and_says_how_to_go_on(convnet: str, images: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTIBLE, "analyze", convnet, str(images), *QUICK]
    environment = os.environ | {"PRUNE_TOOL_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(
        [*command, "--runs", str(tmp_path / "runs")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("loading the backbone"):
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1].startswith("prune-tool: interrupted. ")
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_extraction_says_what_is_kept_and_its_command_goes_on(
    analyzed: Path, convnet: str, images: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = INTERRUPT_AFTER.format(n_shards=3, shard_size=16) + INTERRUPTIBLE
    cache, runs = tmp_path / "a cache", tmp_path / "runs"
    shutil.copytree(home / "cache" / "graphs", cache / "graphs")
    monkeypatch.setenv("PRUNE_TOOL_CACHE", str(cache))
    stopped = ask_process("analyze", convnet, images, *QUICK, "--runs", runs, program=program)
    assert stopped.status == 130, stopped.err
    message = stopped.err.splitlines()[-1]
    assert "Features of 48 of 156 images at 64 px are kept" in message
    assert "Traceback" not in stopped.err
    assert not runs.exists()

    def count(entry: FeatureEntry, shard: int, arrays: dict[str, np.ndarray]) -> None:
        computed.append(shard)
        write(entry, shard, arrays)

    computed: list[int] = []
    write = FeatureEntry.write
    monkeypatch.setattr(FeatureEntry, "write", count)
    monkeypatch.setattr(defaults, "SHARD_SIZE", 16)
    name, *again = shlex.split(message.split("goes on from there: ")[1])
    assert name == "prune-tool"
    assert ask(*again).status == 0
    assert computed == list(range(3, 10))
    (run,) = runs.iterdir()
    resumed, uninterrupted = (json.loads((each / "analysis.json").read_text()) for each in (run, analyzed))
    assert untimed(resumed) == untimed(uninterrupted)


def test_a_reader_who_has_gone_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as unread, redirect_stdout(unread), pytest.raises(SystemExit) as ended:
        main(["env", "--json"])
    assert ended.value.code == 141
    assert capsys.readouterr().err == ""


def test_progress_says_how_fast(capsys: pytest.CaptureFixture[str]) -> None:
    with watching(quiet=False) as progress:
        with progress.stage("extracting features", 2_000, unit="images") as advance:
            advance(2_000)
        with progress.stage("sweeping", 3) as advance:
            advance(3)
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"extracting features: \d+\.\d s, 2,000 images at [\d,]+ a second", first)
    assert re.fullmatch(r"sweeping: \d+\.\d s", second)


@pytest.mark.parametrize(("unit", "shown"), [("images", "250 images/s"), (None, "")])
def test_the_bar_shows_the_rate(unit: str | None, shown: str) -> None:
    now = [0.0]
    with Bars(RateColumn(), get_time=lambda: now[0], console=Console(file=StringIO())) as bars:
        task = bars.add_task("", total=1000, unit=unit)
        for now[0] in (1.0, 2.0, 3.0):
            bars.advance(task, 250)
        assert RateColumn().render(bars.tasks[0]).plain == shown


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("prune_tool.pipeline.machine.describe_machine", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["env"])
