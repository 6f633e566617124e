"""Worker processes: the same results, errors as they were raised, and nobody left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from prune_tool.errors import BadImageError, WorkerError
from prune_tool.pipeline.decode import Batch, Decoder, decode
from prune_tool.pipeline.processes import N_AHEAD, map_in_processes
from prune_tool.task.images import open_images
from prune_tool.task.preprocessing import Preprocessing
from tests.support import doubled, killed_at_three, write_images

PREPARED = Preprocessing(
    input_size=32, interpolation="bicubic", crop_pct=1.0, crop_mode="center", mean=(0.5,) * 3, std=(0.5,) * 3
)

SCRIPT = """
import sys, time
from pathlib import Path
from prune_tool.pipeline.processes import map_in_processes
from tests.support import slowly_named

print("script", flush=True)
for pid in map_in_processes(slowly_named, range(10_000), 2):
    print(pid, flush=True)
"""


@pytest.fixture
def decoder(images: Path) -> Decoder:
    return Decoder(open_images(str(images)), {0: PREPARED, 1: PREPARED.at(48)})


def batches(n: int) -> list[Batch]:
    return [Batch(rows=np.arange(i, i + 3), wanted=(0, 1) if i % 2 else (0,)) for i in range(0, 3 * n, 3)]


def test_processes_and_threads_decode_the_same(decoder: Decoder) -> None:
    threads = list(decode(decoder, batches(6), n_threads=2))
    processes = list(decode(decoder, batches(6), n_threads=2, n_workers=2))
    assert len(threads) == len(processes) == 6
    for one, other in zip(threads, processes, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert not torch.equal(threads[0][0], threads[1][0])


def test_a_broken_image_arrives_as_itself(tmp_path: Path) -> None:
    root = write_images(tmp_path / "images", n_per_class=3)
    (root / "rows" / "001.png").write_bytes(b"<html>")
    decoder = Decoder(open_images(str(root)), {0: PREPARED})
    with pytest.raises(BadImageError, match=r"rows.001\.png") as raised:
        list(decode(decoder, [Batch(rows=np.arange(9), wanted=(0,))], n_threads=1, n_workers=1))
    assert raised.value.found.startswith("not an image")
    assert "--skip-bad" in raised.value.remedy


def test_a_worker_that_dies_is_an_error_and_no_hang() -> None:
    start = time.monotonic()
    with pytest.raises(WorkerError, match="--workers 0"):
        list(map_in_processes(killed_at_three, range(8), 2))
    assert time.monotonic() - start < 60
    assert multiprocessing.active_children() == []


def test_items_are_read_only_a_little_ahead_and_an_early_end_leaves_no_process() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(1000):
            taken.append(i)
            yield i

    results = map_in_processes(doubled, items(), 2)
    assert [int(next(results)) for _ in range(3)] == [0, 2, 4]
    assert len(taken) <= 3 + 2 * N_AHEAD
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert multiprocessing.active_children() == []


def test_the_global_random_numbers_stay_as_they_were() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(map_in_processes(doubled, range(2), 1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_process_that_started_it(ending: signal.Signals, tmp_path: Path) -> None:
    """The script has no ``if __name__ == "__main__"``: workers must not run it again."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    with subprocess.Popen(
        [sys.executable, script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no threads yet
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "script\n"
        workers = {int(process.stdout.readline()) for _ in range(6)}
        assert len(workers) == 2
        if ending == signal.SIGINT:
            os.killpg(process.pid, ending)  # as a terminal does: to the workers too
        else:
            process.kill()
        out, err = process.communicate(timeout=60)
    assert "script" not in out
    if ending == signal.SIGINT:
        assert err.count("Traceback") == 1, err
        assert err.rstrip().endswith("KeyboardInterrupt")
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.1)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
