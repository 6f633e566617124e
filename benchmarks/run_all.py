"""Rerun every benchmark, one after the other, each in a process of its own.

    python benchmarks/run_all.py [--only SCRIPT ...] [--list]

Hours on two cores, which must have nothing else to do. What a script prints goes to the terminal; one that fails is
named at the end and keeps the others from nothing. ``--list`` only shows what would run.
"""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
COMMANDS = (
    "sweep.py",
    "sweep_large.py",
    "extract.py",
    "memory.py",
    "surgery.py",
    "latency.py",
    "bench_noise.py",
    "pools.py",
    "heads.py",
    "paper.py --recipe",
    "narrowing.py",
    "narrowing.py --heal 3",
    "frontier.py --budget 0.05,0.01",
    "precision.py",
    "alternatives.py --epochs 5",
    "check.py",
)
"""Scripts with their arguments, the quickest first."""


def main() -> None:
    """Run what is asked for; exit with 1 if any failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", metavar="SCRIPT", help="such as frontier.py")
    parser.add_argument("--list", action="store_true")
    asked = parser.parse_args()
    commands = [words for words in map(shlex.split, COMMANDS) if asked.only is None or words[0] in asked.only]
    if not commands:
        parser.error(f"no such script: {' '.join(asked.only)}; known are {', '.join(w.split()[0] for w in COMMANDS)}")
    failed = []
    for words in commands:
        print(f"$ python benchmarks/{shlex.join(words)}", flush=True)
        if asked.list:
            continue
        started = time.perf_counter()
        done = subprocess.run([sys.executable, str(HERE / words[0]), *words[1:]], check=False)
        print(f"exit {done.returncode} after {time.perf_counter() - started:.0f} s", flush=True)
        failed += [shlex.join(words)] if done.returncode else []
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
