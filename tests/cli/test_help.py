from __future__ import annotations

import json
from importlib.metadata import version

import pytest

from prune_tool.cli.app import app
from tests.support import ask, ask_process

COMMANDS = [command.name for command in app.registered_commands]
HEAVY = {"torch", "torchvision", "timm", "onnx", "onnxruntime", "numpy", "scipy", "PIL", "pyarrow", "datasets"}

PROBE = """
import json, sys, time
from prune_tool.cli.app import main
try:
    main()
finally:
    sys.stderr.write(json.dumps({"modules": list(sys.modules), "cpu_s": time.process_time()}))
"""


HELPED = [(), *((command,) for command in COMMANDS), ("cache",), ("cache", "ls"), ("cache", "rm")]


@pytest.mark.parametrize("args", [(*command, "--help") for command in HELPED], ids=" ".join)
def test_help_answers_at_once(args: tuple[str, ...]) -> None:
    answer = ask_process(*args, program=PROBE)
    assert answer.status == 0
    assert "Usage: prune-tool" in answer.out
    seen = json.loads(answer.err)
    assert not HEAVY & set(seen["modules"])
    assert seen["cpu_s"] < 1.5


def test_the_program_lists_every_command() -> None:
    listed = ask("--help").out
    assert COMMANDS == ["compress", "inspect", "analyze", "export", "bench", "report", "predict", "show", "push", "env"]
    assert all(f"│ {command} " in listed for command in (*COMMANDS, "cache"))


def test_version() -> None:
    assert ask("--version").out == f"prune-tool {version('prune-tool')}\n"


@pytest.mark.parametrize(
    "args", [("nonsense",), ("analyze", "--nonsense"), ("bench", "--seconds", "0"), ("analyze", "a", "b", "c")]
)
def test_wrong_usage_is_status_2_and_says_where_help_is(args: tuple[str, ...]) -> None:
    answer = ask(*args)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.count("Error") == 1
    assert "--help" in answer.err
