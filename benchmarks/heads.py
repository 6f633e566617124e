"""Whole heads of an attention, or some dimensions of every head: which loses less at the same cost.

    python benchmarks/heads.py [--only MODEL/DATA/SIZE ...] [--quick] [--out FOLDER]

An attention can be narrowed in two ways that leave the same multiply-accumulates: ``k`` of its ``h`` heads go on whole,
or every head keeps ``k/h`` of its dimensions, of the values and of the queries and keys. Heads are the best of all
choices of ``k``; dimensions the pivoted ones, as ``analyze --narrow`` takes them. Both are folded, both are judged on
the moments that they are chosen with, in the unit in which narrowing weighs layers: the expected squared change of the
network's standardised neurons. Pairs go into FOLDER's ``heads.json``, the sums over all attentions are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import _record
import numpy as np
import torch
from _small_tasks import SmallTask, open_small

from prune_tool import defaults
from prune_tool.pipeline.calibration import Sampling, calibration_batches, moments_in_one_pass
from prune_tool.pipeline.consumer import Consumer
from prune_tool.pipeline.cutter import Plan, ScoresCutter
from prune_tool.pipeline.importance import importance_of
from prune_tool.pipeline.product import Product
from prune_tool.pipeline.progress import Silent
from prune_tool.pipeline.reader import reader_of
from prune_tool.redundancy.checks import Float64
from prune_tool.redundancy.reconstruction import Reconstruction
from prune_tool.surgery.groups import find_groups
from prune_tool.surgery.narrowing import narrow_graph

NAME = "heads"
PAIRS = ("vit_small_patch14_dinov2/cifar10/98", "vit_small_patch14_dinov2/solar/98")
RIDGE = 1e-3
SEED = 0


def measure(task: SmallTask) -> Iterator[dict[str, Any]]:
    """What is lost by the number of heads, or the share of dimensions, that is left: a row an attention."""
    captured = narrow_graph(task.subject.captured, {})
    readers = [reader_of(captured, group) for group in find_groups(captured) if group.kind in {"scores", "value"}]
    batches = calibration_batches(captured, task.calibration, readers, Silent())
    sampling = Sampling(n_images=sum(map(len, batches)), seed=SEED)
    moments = moments_in_one_pass(captured, batches, readers, sampling, Silent())
    importance = importance_of(captured, torch.cat(batches)[: defaults.N_IMPORTANCE], readers, SEED)
    scores: Float64 = np.zeros(1)
    for place, (reader, counts) in enumerate(zip(readers, importance, strict=True)):
        if isinstance(reader, Product):  # the attention's values are read next
            scores = ScoresCutter(reader, counts, SEED, place).errors(moments[place], Plan(share=1.0))
        else:
            (halves,) = moments[place]
            problem = Reconstruction(reader.layer(counts), halves[0].merged(halves[1]), RIDGE)
            yield _attention(reader, problem, scores)


def _attention(values: Consumer, problem: Reconstruction, scores: Float64) -> dict[str, Any]:
    n_heads, run = values.group.n_parts, values.group.run
    pivoted = problem.error_curve(problem.order("pivoted")).absolute
    row: dict[str, Any] = {"name": values.group.name, "n_heads": n_heads, "whole_heads": {}, "dimensions": {}}
    for k in range(n_heads - 1, 0, -1):
        n = run * k // n_heads
        row["whole_heads"][str(k)] = min(_of_heads(problem, heads, run) for heads in combinations(range(n_heads), k))
        row["dimensions"][str(k)] = float(pivoted[n * n_heads] + scores[(len(scores) - 1) * k // n_heads])
    return row


def _of_heads(problem: Reconstruction, heads: tuple[int, ...], run: int) -> float:
    """Error where these are left."""
    kept = np.concatenate([np.arange(head * run, (head + 1) * run) for head in heads])
    return float(problem.error_curve(kept).absolute[-1])


def report(pairs: dict[str, Any]) -> str:
    """Markdown: summed errors of both by how many heads, or that share of dimensions, is left."""
    lines = ["| backbone, images | left | whole heads | dimensions of every head | times as much |"]
    lines += ["|---|--:|--:|--:|--:|"]
    for name, rows in pairs.items():
        n_heads = rows[0]["n_heads"]
        for k in rows[0]["whole_heads"]:
            heads, dimensions = (sum(row[way][k] for row in rows) for way in ("whole_heads", "dimensions"))
            ratio = heads / dimensions
            lines.append(f"| {name} | {k} of {n_heads} | {heads:.3f} | {dimensions:.3f} | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="MODEL/DATA/SIZE")
    parser.add_argument("--quick", action="store_true", help="a tenth of the images")
    parser.add_argument("--out", type=Path, default=_record.RESULTS, metavar="FOLDER")
    asked = parser.parse_args()
    pairs = _record.pairs_on_file(NAME, asked.out)
    for name in asked.only or PAIRS:
        pairs[name] = list(measure(open_small(name, quick=asked.quick)))
        _record.save(NAME, {"pairs": pairs}, ("torch", "timm", "numpy"), asked.out)
    print(report(pairs))


if __name__ == "__main__":
    main()
