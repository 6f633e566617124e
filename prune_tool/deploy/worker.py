"""One ONNX file in a process of its own: how it starts, how much memory it takes, and turns of timed calls.

``python -m prune_tool.deploy.worker ORDER`` with an ``Order`` as JSON. It opens the file and calls it once, then
prints a ``Start`` as JSON; for each line on stdin it takes a turn and prints its latencies as a JSON list.
PyTorch and onnx are not imported: memory is that of Python, NumPy, ONNX Runtime and the file.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from prune_tool.deploy.bound import BoundFile, take_turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a worker is to run."""

    path: str
    provider: str
    n_threads: int | None
    image_size: int | None
    batch_size: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How a file started in a fresh process.

    Attributes:
        cold_start_ms: creating the session and the first call on a batch; importing the libraries is not in it.
        peak_bytes: most memory the process has held until then (resident); None where the system does not say.
    """

    cold_start_ms: float
    peak_bytes: int | None


def peak_resident_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """Most resident memory of this process so far, as Linux counts it; None elsewhere.

    Not ``ru_maxrss``, which on Linux is inherited from the process that started this one.
    """
    if not status.is_file():
        return None
    for line in status.read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return None


def main(order: Order) -> None:
    """Start, report, and take turns until stdin ends."""
    started = time.perf_counter()
    file = BoundFile(Path(order.path), provider=order.provider, n_threads=order.n_threads, image_size=order.image_size)
    opened = time.perf_counter()
    binding = file.bind(order.batch_size, np.random.default_rng(order.seed))
    bound = time.perf_counter()
    file.run(binding)
    seconds = opened - started + time.perf_counter() - bound
    _say(asdict(Start(cold_start_ms=1000 * seconds, peak_bytes=peak_resident_bytes())))
    for _ in sys.stdin:
        _say(take_turn(lambda: file.run(binding)))


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Order(**json.loads(sys.argv[1])))
