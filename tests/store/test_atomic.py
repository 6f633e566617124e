import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from prune_tool.errors import RunError
from prune_tool.store.atomic import PARTIAL_PREFIX, read_json, replacing, share, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    sizes: np.ndarray
    where: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    inner: tuple[Inner, ...]
    n: np.int64
    share: np.float32


def test_a_file_appears_whole_and_nothing_else_does(tmp_path):
    target = tmp_path / "model.onnx"
    with replacing(target) as partial:
        assert partial.parent == target.parent
        assert partial.suffix == target.suffix
        partial.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_of_any_kind_leaves_the_old_file_alone(tmp_path, failure):
    target = tmp_path / "run.json"
    target.write_text("old")

    def fail_half_way():
        with replacing(target) as partial:
            partial.write_text("half of the n")
            raise failure

    with pytest.raises(failure):
        fail_half_way()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_writes_nothing_is_a_failure(tmp_path):
    target = tmp_path / "run.json"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert target.read_text() == "old"


def test_a_killed_writer_leaves_the_old_file_and_a_recognisable_leftover(tmp_path):
    target = tmp_path / "run.json"
    target.write_text("old")
    script = (
        "import os, pathlib, signal, sys\n"
        "from prune_tool.store.atomic import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, target], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    (leftover,) = set(tmp_path.iterdir()) - {target}
    assert leftover.name.startswith(PARTIAL_PREFIX)


def test_json_carries_records_arrays_and_paths(tmp_path):
    value = Outer(
        inner=(Inner(sizes=np.array([1, 2], np.int64), where=Path("a/b")),), n=np.int64(3), share=np.float32(0.5)
    )
    write_json(tmp_path / "x.json", value)
    expected = {"inner": [{"sizes": [1, 2], "where": "a/b"}], "n": 3, "share": 0.5}
    assert read_json(tmp_path / "x.json") == expected


@pytest.mark.parametrize(
    ("value", "error"), [(float("nan"), ValueError), (np.float32("inf"), ValueError), ({1}, TypeError)]
)
def test_what_json_lacks_is_refused_and_the_old_file_stays(tmp_path, value, error):
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})
    with pytest.raises(error):
        write_json(path, {"a": [value]})
    assert read_json(path) == {"old": 1}


def test_reading_what_is_not_there_or_not_json_says_so(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(RunError, match=r"x\.json: No such file"):
        read_json(path)
    path.write_text('{"a": ')
    with pytest.raises(RunError, match="not JSON"):
        read_json(path)


def test_a_folder_that_cannot_be_written_is_a_run_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="choose a folder that can be written"):
        write_json(tmp_path / "file" / "x.json", {})


def test_sharing_takes_no_room_where_files_can_be_linked(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    share(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").samefile(tmp_path / "a")
    with replacing(tmp_path / "a") as partial:
        partial.write_text("newer")
    assert (tmp_path / "b").read_text() == "new", "what shares a file is not changed by what replaces it"


def test_sharing_copies_where_files_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    (tmp_path / "a").write_text("new")
    share(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"
    assert not (tmp_path / "b").samefile(tmp_path / "a")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
