import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from prune_tool.errors import CacheError
from prune_tool.store.atomic import read_json
from prune_tool.store.features import FeatureCache, FeaturesLostError
from prune_tool.store.root import About, cache_root

N_IMAGES, SHARD_SIZE = 10, 4
ARRAYS = {
    "blocks.0": np.arange(N_IMAGES * 3, dtype=np.float32).reshape(N_IMAGES, 3),
    "head": np.arange(N_IMAGES * 5, dtype=np.float32).reshape(N_IMAGES, 5) ** 2,
}

IMAGES = [f"image {i}" for i in range(N_IMAGES)]
ABOUT = About(model="net", input_sizes=(64,), data="pictures", n_images=N_IMAGES, taps=tuple(ARRAYS))

WRITER = f"""
import pathlib, sys
import numpy as np
from prune_tool.store.features import FeatureCache
from prune_tool.store.root import About
about = About(model="net", input_sizes=(64,))
cache = FeatureCache(pathlib.Path(sys.argv[1]))
entry = cache.entry("subject", {IMAGES}, {list(ARRAYS)}, shard_size={SHARD_SIZE}, about=about)
arrays = {{"head": np.ones(({SHARD_SIZE}, 5), np.float32), "blocks.0": np.ones(({SHARD_SIZE}, 3), np.float32)}}
"""


def open_entry(root, images=IMAGES, arrays=tuple(ARRAYS), *, subject="subject", shard_size=SHARD_SIZE):
    return FeatureCache(root).entry(subject, images, arrays, shard_size=shard_size, about=ABOUT)


@pytest.fixture
def entry(tmp_path):
    return open_entry(tmp_path)


def features(images, names=tuple(ARRAYS)):
    """What the backbone computes for images; those that are not of ``IMAGES`` have rows of their own."""
    rows = [IMAGES.index(image) if image in IMAGES else None for image in images]
    return {
        name: np.array([ARRAYS[name][row] if row is not None else -ARRAYS[name][-1] for row in rows]) for name in names
    }


def fill(entry, shards=None):
    """Compute shards, by default the missing ones; gives the images that it took."""
    shards = entry.missing() if shards is None else shards
    taken = [[entry.images[row] for row in entry.rows(shard)] for shard in shards]
    for shard, images in zip(shards, taken, strict=True):
        entry.write(shard, features(images, entry.arrays))
    return [image for images in taken for image in images]


def shard_file(entry, shard):
    return entry._file(shard)


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
    reopened = open_entry(entry.folder.parents[2])
    assert reopened.missing() == [1]
    np.testing.assert_array_equal(reopened.read(["head"], np.array([8, 1]))["head"], ARRAYS["head"][[8, 1]])
    with pytest.raises(CacheError, match="1 of 3 shards"):
        reopened.read(["head"])
    fill(reopened)
    np.testing.assert_array_equal(reopened.read(["head"])["head"], ARRAYS["head"])


def test_no_damage_to_a_shard_ever_gives_a_wrong_number(entry):
    fill(entry)
    path = shard_file(entry, 1)
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
    shard_file(entry, 1).write_bytes(shard_file(entry, 0).read_bytes())
    assert entry.missing() == [1]
    with pytest.raises(CacheError, match="1 of 3 shards"):
        entry.read(["head"])


def test_a_name_that_was_never_written_costs_no_shard(entry):
    fill(entry)
    with pytest.raises(KeyError, match="head"):
        entry.read(["neck"])
    assert entry.missing() == []


def changed(images):
    """Ways in which images change, and how many have to be computed then (in shards of ``SHARD_SIZE``)."""
    return {
        "one replaced": ([*images[:5], "new", *images[6:]], 4),
        "one added in front": (["new", *images], 4),
        "one added at the end": ([*images, "new"], 3),
        "one removed": (images[1:], 0),
        "another order": (images[::-1], 0),
        "some of them": (images[3:8], 0),
        "one twice": ([*images, images[0]], 0),
        "none of them": ([f"other {image}" for image in images], N_IMAGES),
    }


@pytest.mark.parametrize("change", changed(IMAGES))
def test_a_change_costs_the_shards_it_touches_and_no_other(tmp_path, entry, change):
    assert fill(entry) == IMAGES
    images, n_computed = changed(IMAGES)[change]
    after = open_entry(tmp_path, images)
    assert len(fill(after)) == n_computed
    for name, array in features(images).items():
        np.testing.assert_array_equal(after.read([name])[name], array)
        rows = np.arange(len(images))[::-2]
        np.testing.assert_array_equal(after.read([name], rows)[name], array[rows])
    assert entry.missing() == []


def test_another_subject_shares_nothing(tmp_path, entry):
    fill(entry)
    assert open_entry(tmp_path, subject="other weights").missing() == [0, 1, 2]


def test_another_shard_size_reads_the_same_rows(tmp_path, entry):
    fill(entry)
    other = open_entry(tmp_path, shard_size=3)
    assert other.missing() == []
    np.testing.assert_array_equal(other.read(["head"])["head"], ARRAYS["head"])


def test_fewer_arrays_are_there_and_more_are_added_to_them(tmp_path):
    few = open_entry(tmp_path, arrays=["head"])
    fill(few)
    whole = open_entry(tmp_path)
    assert whole.missing() == [0, 1, 2]
    for shard in range(3):
        images = [whole.images[row] for row in whole.rows(shard)]
        whole.write(shard, features(images, ["blocks.0"]))
    assert whole.missing() == []
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(whole.read([name])[name], array)
    assert few.missing() == open_entry(tmp_path, arrays=["blocks.0"]).missing() == []
    assert len(list(tmp_path.glob("features/*/*/*.safetensors"))) == 3


def test_what_another_entry_lent_is_missed_when_it_goes(tmp_path, entry):
    fill(entry)
    borrower = open_entry(tmp_path, IMAGES[::-1])
    assert borrower.missing() == []
    shutil.rmtree(entry.folder)
    with pytest.raises(FeaturesLostError, match="has gone"):
        borrower.read(["head"])
    assert fill(borrower) == IMAGES[::-1]
    np.testing.assert_array_equal(borrower.read(["head"])["head"], ARRAYS["head"][::-1])


def test_a_damaged_shard_that_another_entry_lent_is_noticed(tmp_path, entry):
    fill(entry)
    borrower = open_entry(tmp_path, IMAGES[::-1])
    assert borrower.missing() == []
    path = shard_file(entry, 0)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(FeaturesLostError, match="damaged"):
        borrower.read(["head"])
    assert entry.missing() == [0]
    assert borrower.missing() == [1, 2]  # which hold its images 0 to 3 in reverse


def test_a_cache_that_can_only_be_read_is_read(tmp_path, entry, monkeypatch):
    fill(entry)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Read-only file system")

    with monkeypatch.context() as patch:
        for call in ("utime", "mkdir", "unlink", "rename", "replace"):
            patch.setattr(os, call, refuse)
        real_open = os.open
        patch.setattr(os, "open", lambda path, flags, *more: refuse() if flags & os.O_RDWR else real_open(path, flags))
        reader = open_entry(tmp_path)
        assert reader.missing() == []
        np.testing.assert_array_equal(reader.read(["head"])["head"], ARRAYS["head"])


def test_an_entry_says_what_it_is_of_and_when_it_was_used(tmp_path, entry):
    fill(entry)
    about = entry.folder / "about.json"
    assert About.parse(read_json(about)) == ABOUT
    os.utime(about, (0, 0))
    open_entry(tmp_path).missing()
    assert time.time() - about.stat().st_mtime < 60


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
        fill(open_entry(cache_root()))
    assert str(tmp_path / "file") in str(caught.value)
    monkeypatch.setenv("PRUNE_TOOL_CACHE", str(tmp_path / "elsewhere"))
    fill(open_entry(cache_root()))


def test_without_the_variable_the_cache_is_the_platforms(monkeypatch):
    monkeypatch.delenv("PRUNE_TOOL_CACHE", raising=False)
    assert cache_root().name == "prune-tool"
    assert cache_root().is_absolute()
    monkeypatch.setenv("PRUNE_TOOL_CACHE", "~/c")
    assert cache_root() == Path.home() / "c"
