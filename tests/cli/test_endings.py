"""How a command ends that neither finishes nor is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from prune_tool.cli.app import main
from tests.cli.conftest import QUICK

INTERRUPTIBLE = """
import signal
from prune_tool.cli.app import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have had it ignored
main()
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


def test_a_reader_who_has_gone_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as unread, redirect_stdout(unread), pytest.raises(SystemExit) as ended:
        main(["env", "--json"])
    assert ended.value.code == 141
    assert capsys.readouterr().err == ""


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("prune_tool.pipeline.machine.describe_machine", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["env"])
