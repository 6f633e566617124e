"""Has anything become slower? A quick version of each benchmark against floors recorded on this kind of machine.

    python benchmarks/check.py [--record]

Before a release, on a quiet machine; about five minutes on two cores. Ratios are compared, never seconds. ``--record``
writes the ratios found into ``floors.json``; without it the run fails where one is below ``MARGIN`` of its record.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _record

MARGIN = 0.7
"""Share of a recorded ratio that must be reached: two runs on a shared machine differ by a fifth."""

FLOORS = Path(__file__).parent / "floors.json"
QUICK = "tf_efficientnet_lite0/cifar10"

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """A ratio, more being better, in what a script writes."""

    name: str
    command: tuple[str, ...]
    file: str
    ratio: Callable[[Result], float]


def _file(name: str) -> Callable[[Result], float]:
    return lambda result: float(result["pairs"][QUICK]["files"][name]["batch 1"]["speedup"][1])


SWEEP = ("sweep.py", "--quick"), "sweep.json"
EXTRACT = ("extract.py", "--images", "128"), "extract.json"
PRECISION = ("precision.py", "--quick"), "precision.json"

CHECKS = (
    Check("a scored subset, against scikit-learn", *SWEEP, lambda r: r["times_faster_per_subset"]["scikit_learn"]),
    Check("bare algebra, against the sweep", *SWEEP, lambda r: 1 / r["sweep_to_bare"]),
    Check("extraction, against timm's loop", *EXTRACT, lambda r: r["ratio_to_timm_loop"]["prune-tool, all taps"]),
    Check("extraction, against the bare runtime", *EXTRACT, lambda r: r["share_of_better_bare_runtime"]),
    Check("the full backbone as int8, against float32", *PRECISION, _file("full int8")),
    Check("the file kept, against the full backbone", *PRECISION, _file("kept fp32")),
    Check("the file kept as int8, against the full backbone", *PRECISION, _file("kept int8")),
)


def run(command: tuple[str, ...], file: str, folder: Path) -> Result:
    """What a script finds, in a process of its own."""
    if not (folder / file).exists():
        script, *arguments = command
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name(script)), *arguments, "--out", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{script} failed:\n{done.stderr}")
    result: Result = json.loads((folder / file).read_text())
    return result


def compared(found: dict[str, float], recorded: dict[str, float]) -> tuple[list[str], list[str]]:
    """A line for each ratio, and the names of those below their floor or without one."""
    lines, low = [], []
    for name, ratio in found.items():
        floor = MARGIN * recorded[name] if name in recorded else None
        is_low = floor is None or ratio < floor
        low += [name] if is_low else []
        lines.append(f"{'LOW ' if is_low else 'ok  '} {ratio:9.2f}  floor {floor or float('nan'):9.2f}  {name}")
    return lines, low


def main() -> None:
    """Measure and compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {check.name: check.ratio(run(check.command, check.file, Path(folder))) for check in CHECKS}
    if asked.record:
        record = {"machine": _record.machine(), "ratios": found}
        FLOORS.write_text(json.dumps(record, indent=2) + "\n")
    lines, low = compared(found, json.loads(FLOORS.read_text())["ratios"])
    print("\n".join(lines))
    if low:
        sys.exit(f"below the recorded floor: {', '.join(low)}")


if __name__ == "__main__":
    main()
