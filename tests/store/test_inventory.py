"""What is listed is what is there; what is removed is what was asked for, and nothing that is used or not ours."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from prune_tool.errors import UsageError
from prune_tool.store.features import FeatureCache, FeatureEntry
from prune_tool.store.inventory import CacheEntry, list_entries, remove, select
from prune_tool.store.root import About

ABOUT = About(model="net", input_sizes=(64,), data="pictures", n_images=4, taps=("head",))

USER = """
import sys, pathlib
from prune_tool.store.features import FeatureCache
from prune_tool.store.root import About
entry = FeatureCache(pathlib.Path(sys.argv[1])).entry(
    "f" * 64, ["1", "2", "3", "4"], ["head"], shard_size=2, about=About(model="net", input_sizes=(64,))
)
def wait():
    print(flush=True)
    sys.stdin.read()
"""


def filled(root: Path, subject: str = "f" * 64, n_images: int = 4) -> FeatureEntry:
    images = [str(i + 1) for i in range(n_images)]
    entry = FeatureCache(root).entry(subject, images, ["head"], shard_size=2, about=ABOUT)
    for shard in entry.missing():
        entry.write(shard, {"head": np.ones((len(entry.rows(shard)), 3), np.float32)})
    return entry


def filled_cache(root: Path) -> dict[str, CacheEntry]:
    filled(root)
    cache = FeatureCache(root)
    cache.graph("a" * 64).ensure(lambda path: path.write_bytes(bytes(1000)), About(model="net", input_sizes=(64,)))
    cache.findings("b" * 64).ensure(lambda path: path.write_text("{}"), ABOUT)
    return {entry.kind: entry for entry in list_entries(root)}


def test_everything_is_listed_with_what_it_is_of(tmp_path: Path) -> None:
    entries = filled_cache(tmp_path)
    assert set(entries) == {"features", "graphs", "findings"}
    assert entries["features"].about == entries["findings"].about == ABOUT
    assert entries["graphs"].about == About(model="net", input_sizes=(64,))
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert sum(entry.n_bytes for entry in entries.values()) == size
    assert list_entries(tmp_path / "nowhere") == ()


def test_an_entry_that_does_not_say_what_it_is_of_is_listed(tmp_path: Path) -> None:
    entry = filled(tmp_path)
    for said in (None, "[1, 2]", '{"colour": "red"}', "{"):
        (entry.folder / "about.json").unlink() if said is None else (entry.folder / "about.json").write_text(said)
        (listed,) = list_entries(tmp_path)
        assert (listed.about, listed.key) == (None, entry.folder.name)
    assert entry.missing() == []


def test_removing_everything_leaves_no_entry_and_what_is_not_ours(tmp_path: Path) -> None:
    entries = filled_cache(tmp_path)
    folder = entries["features"].paths[-1]
    (folder / ".partial-0123-x.safetensors").write_bytes(b"half")
    (tmp_path / "graphs" / f".partial-01-.partial-02-{'c' * 32}.onnx").write_bytes(b"half")
    theirs = [tmp_path / "thesis.txt", folder / "notes.txt", tmp_path / "graphs" / "mine.onnx"]
    outside = tmp_path.with_name(f"{tmp_path.name}-outside")
    outside.mkdir()
    (outside / f"{'d' * 32}.safetensors").write_bytes(b"theirs")
    (tmp_path / "features" / ("e" * 32)).mkdir()
    (tmp_path / "features" / ("e" * 32) / ("e" * 32)).symlink_to(outside)
    for path in theirs:
        path.write_text("keep me")
    done = remove(tmp_path, list_entries(tmp_path))
    assert (len(done.removed), done.in_use) == (4, ())
    assert list_entries(tmp_path) == ()
    assert {p for p in tmp_path.rglob("*") if p.is_file() and p.parent.name != "locks"} == set(theirs)
    assert (outside / f"{'d' * 32}.safetensors").exists()


def test_an_entry_is_named_by_the_first_digits_of_its_key(tmp_path: Path) -> None:
    keys = []
    for i in range(20):
        entry = filled(tmp_path, n_images=i + 1)
        keys.append(entry.folder.name)
    entries = list_entries(tmp_path)
    assert [entry.key for entry in select(entries, [keys[3][:8]])] == [keys[3]]
    with pytest.raises(UsageError, match="no such key"):
        select(entries, ["xyz"])
    twice = next(digit for digit in "0123456789abcdef" if sum(key.startswith(digit) for key in keys) > 1)
    with pytest.raises(UsageError, match="entries start so") as caught:
        select(entries, [twice])
    proposed = caught.value.remedy.removeprefix("Give more digits: ").split(", ")
    assert len(select(entries, proposed)) == len(proposed)


def test_age_counts_from_the_last_use(tmp_path: Path) -> None:
    entry = filled(tmp_path)
    two_days = time.time() - 2 * 86400
    os.utime(entry.folder / "about.json", (two_days, two_days))
    assert len(select(list_entries(tmp_path), (), timedelta(days=1))) == 1
    assert select(list_entries(tmp_path), (), timedelta(days=3)) == ()
    entry.missing()  # looks for it, as every run does
    assert select(list_entries(tmp_path), (), timedelta(days=1)) == ()


@pytest.mark.parametrize("use", ["entry.missing(); wait()", "\nwith entry.locked():\n    wait()"])
def test_what_another_process_uses_stays(tmp_path: Path, use: str) -> None:
    filled(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", USER + use, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as user:
        assert user.stdout is not None
        user.stdout.readline()
        done = remove(tmp_path, list_entries(tmp_path))
        user.communicate()
    assert user.returncode == 0
    assert (len(done.removed), len(done.in_use)) == (0, 1)
    assert len(remove(tmp_path, list_entries(tmp_path)).removed) == 1


def test_an_entry_is_free_when_nobody_has_it_any_more(tmp_path: Path) -> None:
    entry = filled(tmp_path)
    assert entry.missing() == []
    assert remove(tmp_path, list_entries(tmp_path)).removed == ()
    del entry
    assert len(remove(tmp_path, list_entries(tmp_path)).removed) == 1
