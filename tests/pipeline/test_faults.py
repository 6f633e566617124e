"""Extraction that is killed at any moment, or done by several processes at once, ends with the same bytes.

One process imports everything once and forks the extractions that are killed, so that a trial takes no longer than its
extraction.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import QUICK

PROGRAM = r"""
import json, os, shutil, signal, sys, time
from pathlib import Path
import numpy as np
from prune_tool import Request, Workspace, defaults
from prune_tool.pipeline.extract import extract
from prune_tool.store.features import FeatureCache, FeatureEntry

model, data, scratch, n_kills, seed = sys.argv[1:]
scratch, rng = Path(scratch), np.random.default_rng(int(seed))
defaults.SHARD_SIZE = 8
workspace = Workspace(Request(model=model, data=data, input_sizes=()))
rows = np.arange(len(workspace.source))
workspace.native.trunk_fingerprint, workspace.source.content_hashes()
write = FeatureEntry.write

def logged(entry, shard, arrays):
    with open(entry.folder.parents[2] / "log", "a") as log:
        log.write(f"{shard}\n")
    write(entry, shard, arrays)

def start(root):
    # An extraction in a process of its own; what it writes is logged.
    process = os.fork()
    if process == 0:
        FeatureEntry.write = logged
        workspace.__dict__["cache"] = FeatureCache(root)
        status = 1
        try:
            extract(workspace, [workspace.native], rows)
            status = 0
        finally:
            os._exit(status)
    return process

def wait(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def shards(root):
    return {path.name: path for path in root.glob("features/*/*/[0-9a-f]*.safetensors")}

def new_root(name):
    shutil.copytree(scratch / "reference" / "graphs", scratch / name / "graphs")
    return scratch / name

def outcome(root):
    whole = {name: path.read_bytes() for name, path in shards(scratch / "reference").items()}
    found = {name: path.read_bytes() for name, path in shards(root).items()}
    left = [str(path) for path in root.rglob(".partial-*")]
    n_written = len((root / "log").read_text().splitlines())
    return {"same": found == whole, "n_shards": len(found), "n_written": n_written, "left": left}

def has_ended(process):
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

def bide(root, process, seconds):
    # Some time of a whole extraction or, as most of that is preparation, until some shards are there.
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0, 1.1 * seconds))
        return
    n = len(shards(root)) + rng.integers(1, 9)
    while len(shards(root)) < n and not has_ended(process):
        time.sleep(0.001)

def trial(i, seconds):
    root = new_root(f"trial-{i}")
    n_killed, n_lost, kept_at = 0, 0, []
    for _ in range(int(rng.integers(1, 4))):
        process = start(root)
        bide(root, process, seconds)
        os.kill(process, signal.SIGKILL)
        n_killed += (status := wait(process)) == -signal.SIGKILL
        kept = {name: path.stat().st_mtime_ns for name, path in shards(root).items()}
        kept_at.append(len(kept))
        if status == 0:
            break  # it was done before
    finished = wait(start(root))
    after = {name: path.stat().st_mtime_ns for name, path in shards(root).items()}
    n_rewritten = sum(after[name] != written for name, written in kept.items())
    return {"finished": finished, "n_killed": n_killed, "kept_at": kept_at, "n_rewritten": n_rewritten, **outcome(root)}

(scratch / "reference").mkdir()
assert wait(start(scratch / "reference")) == 0
timed = new_root("timed")
begun = time.perf_counter()
assert wait(start(timed)) == 0
seconds = time.perf_counter() - begun
trials = []
while sum(each["n_killed"] for each in trials) < int(n_kills):
    trials.append(trial(len(trials), seconds))
together = new_root("together")
crowd = [start(together) for _ in range(3)]
statuses = [wait(process) for process in crowd]
print(json.dumps({
    "seconds": seconds, "n_shards": len(shards(timed)), "timed": outcome(timed), "trials": trials,
    "together": {"statuses": statuses, **outcome(together)},
}))
"""


def inject(model: str, images: Path, scratch: Path, n_kills: int, seed: int) -> Any:
    command = [sys.executable, "-c", PROGRAM, model, images, scratch, str(n_kills), str(seed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(found: Any, n_kills: int) -> None:
    n_shards = found["n_shards"]
    assert n_shards == 27
    assert found["timed"]["same"], "an extraction repeats to the byte"
    assert sum(trial["n_killed"] for trial in found["trials"]) >= n_kills
    assert any(0 < kept < n_shards for trial in found["trials"] for kept in trial["kept_at"]), "some kills hit half-way"
    for trial in found["trials"]:
        assert trial["finished"] == 0
        assert trial["same"]
        assert trial["n_rewritten"] == 0
        assert trial["n_written"] <= n_shards + trial["n_killed"], "no more than the shard in hand was lost"
        assert trial["left"] == []


@pytest.fixture(scope="module")
def faults(convnet: str, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return inject(convnet, images, tmp_path_factory.mktemp("faults"), n_kills=20, seed=0)


def test_an_extraction_killed_at_random_points_ends_with_the_same_bytes(faults: Any) -> None:
    check(faults, n_kills=20)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_so_do_many_more(seed: int, convnet: str, images: Path, tmp_path: Path) -> None:
    check(inject(convnet, images, tmp_path, n_kills=60, seed=seed), n_kills=60)


def test_processes_at_once_extract_every_image_once(faults: Any) -> None:
    together = faults["together"]
    assert together["statuses"] == [0, 0, 0]
    assert together["same"]
    assert together["n_written"] == together["n_shards"] == faults["n_shards"]
    assert together["left"] == []


def test_two_analyses_at_once_both_finish_with_one_set_of_shards(convnet: str, images: Path, tmp_path: Path) -> None:
    place = ("--runs", str(tmp_path / "runs"))
    command = [sys.executable, "-m", "prune_tool", "analyze", convnet, str(images), *QUICK, *place]
    environment = os.environ | {"PRUNE_TOOL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    runs = sorted((tmp_path / "runs").iterdir())
    assert len(runs) == 2
    assert len({(run / "analysis.json").read_text() for run in runs}) == 1
    assert len(list(tmp_path.glob("cache/features/*/*/*.safetensors"))) == 1
    assert sum("extracting features" in lines for lines in said) == 1, said
