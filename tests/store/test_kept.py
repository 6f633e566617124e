"""A kept file is made once, by one process, and never trusted when it is not what was made."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prune_tool.errors import CacheError
from prune_tool.store.features import FeatureCache
from prune_tool.store.kept import KeptFile
from prune_tool.store.root import About

ABOUT = About(model="net", input_sizes=(64,))
CONTENT = b"a compiled graph"

MAKER = """
import os, pathlib, signal, sys, time
from prune_tool.store.features import FeatureCache
from prune_tool.store.root import About
kept = FeatureCache(pathlib.Path(sys.argv[1])).graph("a" * 64)
def make(path):
    with open(sys.argv[2], "a") as log:
        log.write("made\\n")
    time.sleep(0.5)
    path.write_bytes(b"a compiled graph")
kept.ensure(make, About(model="net", input_sizes=(64,)))
"""


@pytest.fixture
def kept(tmp_path: Path) -> KeptFile:
    return FeatureCache(tmp_path).graph("a" * 64)


def never(path: Path) -> None:
    raise AssertionError("made again")


def test_it_is_made_once(kept: KeptFile) -> None:
    path = kept.ensure(lambda path: path.write_bytes(CONTENT), ABOUT)
    assert path.read_bytes() == CONTENT
    assert kept.ensure(never, ABOUT) == path


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept.path.write_bytes(CONTENT[:-1]),
        lambda kept: kept.path.write_bytes(b"A" + CONTENT[1:]),
        lambda kept: kept.path.unlink(),
        lambda kept: kept.seal.unlink(),
        lambda kept: kept.seal.write_text("{"),
        lambda kept: kept.seal.write_text("[]"),
    ],
)
def test_it_is_made_again_when_it_is_damaged(kept: KeptFile, damage: object) -> None:
    kept.ensure(lambda path: path.write_bytes(CONTENT), ABOUT)
    damage(kept)  # type: ignore[operator]
    assert not kept.is_whole()
    assert kept.ensure(lambda path: path.write_bytes(CONTENT), ABOUT).read_bytes() == CONTENT


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    makers = [subprocess.Popen([sys.executable, "-c", MAKER, tmp_path / "cache", log]) for _ in range(3)]
    assert [maker.wait(timeout=60) for maker in makers] == [0, 0, 0]
    assert log.read_text() == "made\n"
    assert FeatureCache(tmp_path / "cache").graph("a" * 64).is_whole()


def test_a_maker_that_is_killed_leaves_nothing_that_counts(tmp_path: Path, kept: KeptFile) -> None:
    def die(path: Path) -> None:
        path.write_bytes(CONTENT)
        os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        FeatureCache(tmp_path).graph("a" * 64).ensure(die, ABOUT)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert list(kept.path.parent.iterdir())
    assert not kept.is_whole()
    kept.ensure(lambda path: path.write_bytes(CONTENT), ABOUT)
    assert sorted(kept.path.parent.iterdir()) == sorted([kept.path, kept.seal])


def test_what_cannot_be_written_is_a_clear_error_and_leaves_nothing(tmp_path: Path, kept: KeptFile) -> None:
    def full(path: Path) -> None:
        path.write_bytes(CONTENT)
        raise OSError(28, "No space left on device")

    with pytest.raises(CacheError, match="No space left on device"):
        kept.ensure(full, ABOUT)
    assert not list(kept.path.parent.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="PRUNE_TOOL_CACHE"):
        FeatureCache(tmp_path / "file").graph("a" * 64).ensure(never, ABOUT)
