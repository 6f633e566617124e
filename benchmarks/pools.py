"""How random neurons should be drawn from a pool over depths: uniformly over neurons, or the taps taking turns.

    python benchmarks/pools.py [--only MODEL/DATA ...] [--out FOLDER] [--render]

Wide taps have more neurons, so a uniform draw reads mostly those, the late ones as a rule; taking turns reads as many
of each tap until a narrow one is used up. For every pool of each pair, ten draws of both kinds, exact ridge probes at
some shares of the pool; the strength is chosen on the same validation images for both. Pairs go into FOLDER's
``pools.json`` beside those already there. ``--render`` only prints the table.
"""

import argparse
from pathlib import Path
from typing import Any

import _record
import numpy as np
from _frontier_report import title
from _pair_runs import measure_pairs
from _pairs import Pair, open_workspace, task

from prune_tool import defaults
from prune_tool.pipeline.features import fit_data
from prune_tool.pipeline.measure import moments_of, readings_of
from prune_tool.pipeline.progress import Progress
from prune_tool.records import Reading
from prune_tool.redundancy.checks import Int64
from prune_tool.redundancy.subsets import draw_permutations
from prune_tool.redundancy.sweep import sweep_draws

NAME = "pools"
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5)
KINDS = ("uniform over neurons", "taps taking turns")


def taking_turns(permutation: Int64, reading: Reading) -> Int64:
    """The same neurons of each tap in the same order, one of each tap after the other."""
    owner = np.repeat(np.arange(len(reading.taps)), reading.n_per_tap)[permutation]
    turn = np.empty(len(owner), np.int64)
    for tap in range(len(reading.taps)):
        turn[owner == tap] = np.arange(reading.n_per_tap[tap])
    return permutation[np.lexsort((owner, turn))]


def measure(pair: Pair, progress: Progress) -> dict[str, Any]:
    """Mean validation accuracy of both kinds at every share, for every pool."""
    with task(pair) as data:
        workspace = open_workspace(pair, data, progress)
        features = fit_data(workspace)
        work = [(s, r) for s in workspace.subjects for r in readings_of(s) if r.kind == "pool"]
        found = []
        with progress.stage("sweeping both kinds", len(work)) as advance:
            for subject, reading in work:
                moments, val = moments_of(reading, subject, features)
                uniform = draw_permutations(reading.width, workspace.request.n_draws, workspace.request.seed)
                turns = np.array([taking_turns(permutation, reading) for permutation in uniform])
                sizes = np.unique([max(1, round(share * reading.width)) for share in SHARES])
                curves = [
                    sweep_draws(moments, features.judged(val), orders, sizes, defaults.RIDGE_GRID).accuracy.tolist()
                    for orders in (uniform, turns)
                ]
                found.append(
                    {"reading": str(reading), "sizes": sizes.tolist(), **dict(zip(KINDS, curves, strict=True))}
                )
                advance(1)
        return {"pools": found}


def report(pairs: dict[str, Any]) -> str:
    """Markdown: points that taking turns gains, mean over pools, and in how many of them it does."""
    shares = " | ".join(f"{100 * share:g} %" for share in SHARES)
    rows = [f"| backbone, images | pools | {shares} |", "|---|--:|" + "--:|" * len(SHARES)]
    for name, pair in pairs.items():
        gains = 100 * np.array([np.subtract(pool[KINDS[1]], pool[KINDS[0]]) for pool in pair["pools"]])
        cells = [f"{mean:+.2f} ({better:.0%})" for mean, better in zip(gains.mean(0), (gains > 0).mean(0), strict=True)]
        rows.append(f"| {title(name)} | {len(gains)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=["*"])
    parser.add_argument("--out", type=Path, default=_record.RESULTS)
    parser.add_argument("--render", action="store_true")
    asked = parser.parse_args()
    print(report(measure_pairs(NAME, asked, measure, ("torch", "timm", "numpy"))))


if __name__ == "__main__":
    main()
