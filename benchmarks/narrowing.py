"""Accuracy against multiply-accumulates of narrowed backbones: what folding, pivots and allocation are each worth.

    python benchmarks/narrowing.py [--only MODEL/DATA/SIZE ...] [--shares S,S] [--ways N] [--heal N] [--quick] [--out F]

For every backbone, task and share of its MACs, the hidden widths are narrowed by each combination of strategy (random,
pivoted), folding (on, off) and allocation (uniform, allocated), and a converged logistic probe is fitted anew to the
penultimate neurons of the narrowed network: on 2,000 training images, its strength chosen and its accuracy told on
1,000 validation images; where there are fewer, test images join them, for nothing here is certified. CIFAR-10 of
``PRUNE_TOOL_ASSETS`` and the demo's solar cells; no other weight is trained. ``--ways N`` takes the first N of these
combinations (see ``WAYS``); ``--heal N`` the first alone, and then heals for so many epochs on the training images
without their labels; ``--quick`` takes a tenth of the images. Writes ``narrowing.json`` into F (``benchmarks/results``)
as it goes, beside what is on file of other plans, and prints its tables.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import _record
import numpy as np
import torch
from _small_tasks import Images, SmallTask, batches, open_small
from torch import fx

from prune_tool import defaults
from prune_tool.pipeline.cutter import Plan
from prune_tool.pipeline.heal import heal
from prune_tool.pipeline.narrow import Narrower
from prune_tool.pipeline.progress import Silent
from prune_tool.records import Allocation, Strategy
from prune_tool.redundancy.checks import Int64
from prune_tool.redundancy.held_out import HeldOut
from prune_tool.redundancy.logistic import choose_logistic
from prune_tool.surgery.cost import cost_of

PAIRS = (
    "tf_efficientnet_lite0/cifar10/128",
    "resnet50_v1/cifar10/64",
    "vit_small_patch14_dinov2/cifar10/98",
    "tf_efficientnet_lite0/solar/128",
    "resnet50_v1/solar/96",
    "vit_small_patch14_dinov2/solar/98",
)
"""Backbones, images, and the input sizes they are measured at: small, so that two cores do it in hours."""
WAYS: list[tuple[Strategy, bool, Allocation]] = [
    ("pivoted", True, "uniform"),
    ("pivoted", True, "allocated"),
    ("random", True, "allocated"),
    ("random", True, "uniform"),
    ("pivoted", False, "allocated"),
    ("random", False, "uniform"),
    ("pivoted", False, "uniform"),
    ("random", False, "allocated"),
]
"""Strategy, whether folded, allocation: what ``analyze --narrow`` does first, then what tells most."""
PACKAGES = ("torch", "timm", "numpy")


def accuracy(network: fx.GraphModule, task: SmallTask) -> float:
    """Validation accuracy of a converged logistic probe on the network's neurons."""
    with torch.inference_mode():
        train, val = (
            np.concatenate([network(torch.from_numpy(batch))[-1].numpy() for batch in batches(images)])
            for images in (task.train, task.val)
        )
    held_out = HeldOut(val, task.val_labels)
    return (
        choose_logistic(train, task.train_labels, held_out, task.n_classes, defaults.LOGISTIC_GRID)
        .score(held_out)
        .accuracy
    )


def healed(task: SmallTask, network: fx.GraphModule, n_epochs: int) -> fx.GraphModule:
    """The network after some epochs of healing."""

    def read(rows: Int64) -> Iterator[Images]:
        size = defaults.BATCH_SIZE["cpu"]
        yield from (task.train[rows[start : start + size]] for start in range(0, len(rows), size))

    rows = np.arange(len(task.train))
    found = heal(task.subject.captured, network, read, rows, n_epochs=n_epochs, seed=0, progress=Silent())
    _record.note(f"  healed from {found.before:.3f} to {found.after:.3f}")
    network.load_state_dict(found.weights, strict=False)
    return network


def measure(task: SmallTask, plans: list[Plan], n_epochs: int) -> Iterator[dict[str, Any]]:
    """Every plan for one backbone, one after the other."""
    narrower = Narrower(task.subject.captured, task.calibration)
    for plan in plans:
        start = time.perf_counter()
        narrowing, network = narrower.narrow(plan)
        if n_epochs:
            network = healed(task, network, n_epochs)
        seconds = time.perf_counter() - start
        row = {
            "share": plan.share,
            "strategy": plan.strategy,
            "fold": plan.fold,
            "allocation": plan.allocation,
            "n_epochs": n_epochs,
            "macs": narrowing.macs,
            "accuracy": accuracy(network, task),
            "effect": sum(width.effect for width in narrowing.widths),
            "seconds": round(seconds, 1),
            "widths": {width.name: [width.width, len(width.kept)] for width in narrowing.widths},
        }
        _record.note(f"  {described(row)} of MACs: {100 * row['accuracy']:.1f} %, {seconds:.0f} s")
        yield row


def merged(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of both, the later one of the same plan."""
    rows = {described(row): row for row in [*before, *after]}
    return sorted(rows.values(), key=lambda row: (-row["share"], *_way(row)))


def _way(row: dict[str, Any]) -> tuple[str, bool, str, int]:
    return row["strategy"], not row["fold"], row["allocation"], row.get("n_epochs", 0)


def described(row: dict[str, Any]) -> str:
    """A plan in a few words."""
    fold = "folded" if row["fold"] else "not folded"
    healing = f", healed for {row['n_epochs']} epochs" if row.get("n_epochs") else ""
    return f"{row['strategy']}, {fold}, {row['allocation']}{healing}, {row['share']:.0%}"


def table(pairs: dict[str, Any]) -> str:
    """Accuracies in per cent, a row a way to narrow and a column a share."""
    lines: list[str] = []
    for name, found in pairs.items():
        rows = found["narrowed"]
        shares = sorted({row["share"] for row in rows}, reverse=True)
        lines += [f"\n{name}: full {100 * found['full']:.1f} % at {found['full_macs'] / 1e6:,.0f} M MACs\n"]
        lines += [
            "| neurons | folded | widths | healed | " + " | ".join(f"{share:.0%} of MACs" for share in shares) + " |"
        ]
        lines += ["| --- | --- | --- | --: | " + " | ".join("--:" for _ in shares) + " |"]
        for way in dict.fromkeys(map(_way, rows)):
            of_way = [row for row in rows if _way(row) == way]
            at = {row["share"]: row["accuracy"] for row in of_way}
            cells = " | ".join(f"{100 * at[share]:.1f}" if share in at else "" for share in shares)
            healing = f"{way[3]} epochs" if way[3] else ""
            lines.append(f"| {way[0]} | {'no' if way[1] else 'yes'} | {way[2]} | {healing} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="MODEL/DATA/SIZE")
    parser.add_argument("--shares", default="0.65,0.5", metavar="S,S")
    parser.add_argument("--ways", type=int, default=len(WAYS), metavar="N")
    parser.add_argument("--heal", type=int, default=0, metavar="N")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=_record.RESULTS, metavar="FOLDER")
    arguments = parser.parse_args()
    shares = [float(share) for share in arguments.shares.split(",")]
    ways = WAYS[: 1 if arguments.heal else arguments.ways]
    plans = [Plan(share=s, strategy=w[0], fold=w[1], allocation=w[2]) for w in ways for s in shares]
    pairs = _record.pairs_on_file("narrowing", arguments.out)
    for name in arguments.only or PAIRS:
        task = open_small(name, quick=arguments.quick)
        full = accuracy(task.subject.captured, task)
        _record.note(f"{name}: full {100 * full:.1f} %")
        rows = pairs.get(name, {"narrowed": []})["narrowed"]
        for row in measure(task, plans, arguments.heal):
            rows = merged(rows, [row])
            pairs[name] = {
                "n_train": len(task.train),
                "n_val": len(task.val),
                "n_calibration": sum(map(len, task.calibration)),
                "full": full,
                "full_macs": cost_of(task.subject.captured).macs,
                "narrowed": rows,
            }
            _record.save("narrowing", {"pairs": pairs}, PACKAGES, arguments.out)
    print(table(pairs))


if __name__ == "__main__":
    main()
