import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from prune_tool.errors import CacheError
from prune_tool.store.features import FeatureCache, cache_root

N_IMAGES, SHARD_SIZE = 10, 4
ARRAYS = {
    "blocks.0": np.arange(N_IMAGES * 3, dtype=np.float32).reshape(N_IMAGES, 3),
    "head": np.arange(N_IMAGES * 5, dtype=np.float32).reshape(N_IMAGES, 5) ** 2,
}

WRITER = f"""
import pathlib, sys
import numpy as np
from prune_tool.store.features import FeatureCache
entry = FeatureCache(pathlib.Path(sys.argv[1])).entry("key", {N_IMAGES}, {SHARD_SIZE})
arrays = {{"head": np.ones(({SHARD_SIZE}, 5), np.float32)}}
"""


@pytest.fixture
def entry(tmp_path):
    return FeatureCache(tmp_path).entry("key", N_IMAGES, SHARD_SIZE)


def fill(entry, shards=None):
    for shard in entry.missing() if shards is None else shards:
        rows = entry.rows(shard)
        entry.write(shard, {name: array[rows.start : rows.stop] for name, array in ARRAYS.items()})


def shard_files(entry):
    return sorted(entry.folder.glob("shard-*"))


def test_what_is_read_is_what_was_written(entry):
    assert entry.missing() == [0, 1, 2]
    fill(entry)
    assert entry.missing() == []
    found = entry.read(["head", "blocks.0"])
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.float32


@pytest.mark.parametrize("rows", [[9, 0, 5, 5, 3], [4], [], list(range(10))[::-1]])
def test_rows_come_in_the_order_asked(entry, rows):
    fill(entry)
    found = entry.read(["head"], np.array(rows, np.int64))
    np.testing.assert_array_equal(found["head"], ARRAYS["head"][rows])


def test_rows_that_do_not_exist_are_an_error(entry):
    fill(entry)
    for row in (-1, N_IMAGES):
        with pytest.raises(IndexError):
            entry.read(["head"], np.array([row]))


def test_an_interrupted_entry_knows_what_is_missing_and_is_mended_by_running_again(entry):
    fill(entry, [0, 2])
    reopened = FeatureCache(entry.folder.parents[1]).entry("key", N_IMAGES, SHARD_SIZE)
    assert reopened.missing() == [1]
    np.testing.assert_array_equal(reopened.read(["head"], np.array([8, 1]))["head"], ARRAYS["head"][[8, 1]])
    with pytest.raises(CacheError, match="1 of 3 shards"):
        reopened.read(["head"])
    fill(reopened)
    np.testing.assert_array_equal(reopened.read(["head"])["head"], ARRAYS["head"])


def test_no_damage_to_a_shard_ever_gives_a_wrong_number(entry):
    fill(entry)
    path = shard_files(entry)[1]
    whole = path.read_bytes()
    flips = [whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :] for at in range(len(whole)) for bit in (1, 0x20)]
    cuts = [whole[:length] for length in range(0, len(whole), 16)]
    n_noticed, remedies = 0, set()
    for damaged in [*flips, *cuts, whole + b"\0", b"", bytes(len(whole))]:
        path.write_bytes(damaged)
        try:
            found = entry.read(ARRAYS)
        except CacheError as error:
            remedies.add(error.remedy)
            n_noticed += entry.missing() == [1]
        else:  # a flipped blank in the header changes nothing
            for name, array in ARRAYS.items():
                np.testing.assert_array_equal(found[name], array)
    assert n_noticed > 0.98 * (len(flips) + len(cuts))
    assert remedies == {"Run the same command again: it computes what is missing"}
    fill(entry, [1])
    np.testing.assert_array_equal(entry.read(["head"])["head"], ARRAYS["head"])


def test_a_shard_in_the_place_of_another_is_noticed(entry):
    fill(entry)
    first, second, _ = shard_files(entry)
    second.write_bytes(first.read_bytes())
    with pytest.raises(CacheError, match="shard 1"):
        entry.read(["head"])


def test_a_name_that_was_never_written_costs_no_shard(entry):
    fill(entry)
    with pytest.raises(KeyError, match="head"):
        entry.read(["neck"])
    assert entry.missing() == []


def test_another_shard_size_is_another_entry(entry):
    fill(entry)
    assert FeatureCache(entry.folder.parents[1]).entry("key", N_IMAGES, 5).missing() == [0, 1]


@pytest.mark.parametrize("array", [np.zeros((4, 5)), np.zeros((3, 5), np.float32), np.zeros(4, np.float32)])
def test_arrays_of_another_shape_or_type_are_refused(entry, array):
    with pytest.raises(ValueError, match="float32 expected"):
        entry.write(0, {"head": array})
    assert entry.missing() == [0, 1, 2]


def test_a_kill_in_the_middle_of_a_shard_leaves_no_shard(tmp_path, entry):
    fill(entry, [0])
    script = WRITER + (
        "import os, signal\n"
        "from prune_tool.store import atomic\n"
        "atomic._flush = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
        "entry.write(1, arrays)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert entry.missing() == [1, 2]
    assert list(entry.folder.glob(".partial-*"))
    fill(entry)  # the dead writer's lock does not hold anybody up
    assert not list(entry.folder.glob(".partial-*"))
    np.testing.assert_array_equal(entry.read(["head"])["head"], ARRAYS["head"])


def test_a_writer_waits_for_whoever_holds_the_entry(tmp_path, entry):
    with entry.locked():
        other = subprocess.Popen(
            [sys.executable, "-c", WRITER + "print(flush=True)\nentry.write(0, arrays)", tmp_path],
            stdout=subprocess.PIPE,
        )
        other.stdout.readline()  # it is about to write
        time.sleep(0.3)
        assert other.poll() is None
        assert entry.missing() == [0, 1, 2]
        fill(entry, [1])  # the holder itself may
    assert other.wait(timeout=20) == 0
    other.stdout.close()
    assert entry.missing() == [2]


def test_any_thread_of_the_holder_may_write(entry):
    with entry.locked():
        worker = threading.Thread(target=fill, args=(entry,), daemon=True)
        worker.start()
        worker.join(timeout=20)
    assert entry.missing() == []


def test_a_full_disk_is_an_error_with_a_remedy_and_leaves_nothing_half_written(tmp_path, entry):
    script = WRITER + (
        "import resource\n"
        "from prune_tool.errors import CacheError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n"
        "    entry.write(0, arrays)\n"
        "except CacheError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=True, capture_output=True, text=True)
    assert "PRUNE_TOOL_CACHE" in done.stdout
    assert entry.missing() == [0, 1, 2]
    assert not list(entry.folder.glob(".partial-*"))


def test_an_unusable_cache_folder_is_named_and_the_variable_mends_it(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRUNE_TOOL_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheError, match="PRUNE_TOOL_CACHE") as caught:
        fill(FeatureCache(cache_root()).entry("key", N_IMAGES, SHARD_SIZE))
    assert str(tmp_path / "file") in str(caught.value)
    monkeypatch.setenv("PRUNE_TOOL_CACHE", str(tmp_path / "elsewhere"))
    fill(FeatureCache(cache_root()).entry("key", N_IMAGES, SHARD_SIZE))


def test_without_the_variable_the_cache_is_the_platforms(monkeypatch):
    monkeypatch.delenv("PRUNE_TOOL_CACHE", raising=False)
    assert cache_root().name == "prune-tool"
    assert cache_root().is_absolute()
    monkeypatch.setenv("PRUNE_TOOL_CACHE", "~/c")
    assert cache_root() == Path.home() / "c"
