"""``cache ls`` and ``cache rm`` as a user meets them, on the cache of a real analysis."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import time
from pathlib import Path

import pytest
import typer

from tests.cli.conftest import QUICK
from tests.support import Answer, ask, untimed


@pytest.fixture(scope="module")
def kept(convnet: str, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cache of one analysis, and its run."""
    root = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNE_TOOL_CACHE", str(root / "cache"))
        assert ask("analyze", convnet, images, *QUICK, "--runs", root, "--name", "run", "-q").status == 0
    return root


@pytest.fixture
def cache(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the cache that an analysis left."""
    shutil.copytree(kept / "cache", tmp_path / "cache")
    monkeypatch.setenv("PRUNE_TOOL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def listed() -> dict[str, dict]:
    return {entry["key"]: entry for entry in json.loads(ask("cache", "ls", "--json").out)["entries"]}


def refusal(answer: Answer) -> str:
    assert (answer.status, answer.out) == (2, "")
    return answer.err


def test_what_an_analysis_keeps_is_listed(cache: Path, kept: Path) -> None:
    printed = json.loads(ask("cache", "ls", "--json").out)
    assert printed["root"] == str(cache)
    assert {entry["kind"] for entry in printed["entries"]} == {
        "features",
        "graphs",
        "findings",
        "latencies",
        "runtimes",
    }
    assert printed["n_bytes"] == sum(entry["n_bytes"] for entry in printed["entries"])
    record = json.loads((kept / "run" / "run.json").read_text())
    features = next(entry for entry in printed["entries"] if entry["kind"] == "features")
    assert features["about"]["model"] == "test_resnet"
    assert features["about"]["data"] == "textures"
    assert features["about"]["n_images"] == record["n_train"] + record["n_val"]
    assert features["about"]["input_sizes"] == [64]
    shown = ask("cache", "ls")
    assert (shown.status, shown.err) == (0, "")
    assert all(f"│ {key[:8]} " in shown.out for key in listed())
    assert "test_resnet at 64 px, textures" in shown.out


def test_nothing_is_removed_without_saying_what(cache: Path) -> None:
    before = listed()
    message = refusal(ask("cache", "rm"))
    assert listed() == before
    assert ask("cache", "rm", *shlex.split(re.search(r"(--older-than \w+)", message)[1]), "--yes").status == 0
    assert listed() == before, "it was used just now"
    assert ask("cache", "rm", "--all", "--yes").status == 0
    assert listed() == {}
    assert "holds nothing" in ask("cache", "ls").out


def test_without_a_terminal_it_takes_yes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = listed()
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    message = refusal(ask("cache", "rm", "--all"))
    assert listed() == before
    assert ask("cache", "rm", "--all", re.search(r"Add (--yes)", message)[1]).status == 0
    assert listed() == {}


@pytest.mark.parametrize("sure", [True, False])
def test_at_a_terminal_it_asks(sure: bool, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def confirm(question: str, **_: object) -> bool:
        assert "Remove" in question
        if not sure:
            raise typer.Abort
        return True

    before = listed()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", confirm)
    assert ask("cache", "rm", "--all").status == (0 if sure else 1)
    assert listed() == ({} if sure else before)


def test_one_entry_by_its_first_digits(cache: Path) -> None:
    before = listed()
    key = next(iter(before))
    printed = json.loads(ask("cache", "rm", key[:8], "--yes", "--json").out)
    assert [entry["key"] for entry in printed["removed"]] == [key]
    assert before.keys() - listed().keys() == {key}
    assert "no such key" in refusal(ask("cache", "rm", key[:8], "--yes"))


@pytest.mark.parametrize("age", ["30", "d", "a month", "", "3.5d"])
def test_an_age_that_is_none(age: str, cache: Path) -> None:
    before = listed()
    message = refusal(ask("cache", "rm", "--older-than", age, "--yes"))
    assert listed() == before
    assert ask("cache", "rm", *shlex.split(re.search(r"Try (--older-than \w+)", message)[1]), "--yes").status == 0


def test_by_age(cache: Path) -> None:
    old = [*cache.glob("features/*/*/about.json"), *cache.glob("graphs/*.seal.json")]
    for path in old:
        os.utime(path, (time.time() - 86400 * 3,) * 2)
    assert ask("cache", "rm", "--older-than", "50h", "--yes").status == 0
    assert {entry["kind"] for entry in listed().values()} == {"findings", "latencies", "runtimes"}


def test_what_was_removed_is_computed_again(
    cache: Path, kept: Path, convnet: str, images: Path, tmp_path: Path
) -> None:
    assert ask("cache", "rm", "--all", "--yes").status == 0
    again = ask("analyze", convnet, images, *QUICK, "--runs", tmp_path / "runs", "--name", "again", "-q")
    assert again.status == 0
    for name in ("analysis.json", "frontier.json"):
        first, second = (json.loads((run / name).read_text()) for run in (kept / "run", tmp_path / "runs" / "again"))
        assert untimed(first) == untimed(second)


def test_what_is_in_use_stays(cache: Path) -> None:
    from prune_tool.store.root import Lock

    key = next(key for key, entry in listed().items() if entry["kind"] == "features")
    with Lock(cache, key).held("features"):
        named = ask("cache", "rm", key, "--yes")
        assert named.status == 2
        assert "in use" in named.err
        swept = ask("cache", "rm", "--all", "--yes")
        assert swept.status == 0
        assert f"left {key[:8]}" in swept.err
        assert listed().keys() == {key}
    assert ask("cache", "rm", key, "--yes").status == 0
