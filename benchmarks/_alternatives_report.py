"""The table and the plot of ``alternatives.py``."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from _frontier_report import title
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

Pair = dict[str, Any]

COLOURS = {"full": "#999999", "ONNX": "#0072B2", "lower": "#56B4E9", "smaller": "#E69F00", "Torch": "#D55E00"}
OURS = "#000000"


def report(pairs: dict[str, Pair]) -> str:
    """Markdown: a row for each contender of each pair."""
    columns = (
        "contender",
        "test acc. % (95 %)",
        "within budget",
        "batch 1",
        "batch 16",
        "MACs",
        "MB",
        "s to get",
        "lines",
    )
    rows = [f"| backbone, images | {' | '.join(columns)} |", "|---|---|--:|---|--:|--:|--:|--:|--:|--:|"]
    for name, pair in pairs.items():
        full = pair["contenders"]["full"]
        for contender, found in pair["contenders"].items():
            rows.append(_row(title(name), contender, found, full, pair["n_test"]))
    return "\n".join(rows)


def _row(name: str, contender: str, found: dict[str, Any], full: dict[str, Any], n_test: int) -> str:
    head = f"| {name} | {contender} "
    seconds = f"{found['seconds']:.0f}" if "seconds" in found else ""
    if "batch 1" not in found:
        return f"{head}| | {found['state']} | | | | | {seconds} | {found['n_lines']} |"
    low, high = binomtest(round(found["accuracy"] * n_test), n_test).proportion_ci(method="wilson")
    one, sixteen = found["batch 1"]["speedup"][1], found["batch 16"]["speedup"][1]
    return (
        f"{head}| {100 * found['accuracy']:.1f} ({100 * low:.1f}-{100 * high:.1f}) | {found['state']} "
        f"| {one:.2f}x | {sixteen:.2f}x | {full['macs'] / found['macs']:.1f}x fewer "
        f"| {found['n_bytes'] / 1e6:.1f} | {seconds} | {found['n_lines']} |"
    )


def draw(pairs: dict[str, Pair], path: Path) -> None:
    """Write ``path`` with the endings ``.png`` and ``.svg``; the same numbers give the same files."""
    if not pairs:
        return
    with mpl.rc_context({"svg.hashsalt": "prune-tool", "font.size": 9}):
        figure = Figure(figsize=(7.5, 3.6 * len(pairs)), layout="constrained")
        axes = figure.subplots(len(pairs), 1, squeeze=False)
        for place, (name, pair) in zip(axes.flat, pairs.items(), strict=True):
            _panel(place, name, pair)
        figure.savefig(path.with_suffix(".png"), dpi=160)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def _panel(axes: Axes, name: str, pair: Pair) -> None:
    """A bar for each contender: how many times faster than full at batch 1; pale where not certified."""
    shown = {name: found for name, found in pair["contenders"].items() if "batch 1" in found}
    for place, (contender, found) in enumerate(reversed(shown.items())):
        speedup, is_certified = found["batch 1"]["speedup"][1], found["state"] == "certified"
        colour = next((c for start, c in COLOURS.items() if contender.startswith(start)), OURS)
        axes.barh(place, speedup, color=colour, alpha=1.0 if is_certified or contender == "full" else 0.3)
        said = "" if is_certified or contender == "full" else f", {found['state']}"
        axes.text(speedup, place, f" {speedup:.2f}x at {100 * found['accuracy']:.1f} %{said}", va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), list(reversed(shown)))
    axes.set(title=f"{title(name)}, within {pair['budget']}", xlabel="times faster than full, batch 1, one thread")
    axes.set_xlim(0, 1.6 * max(found["batch 1"]["speedup"][1] for found in shown.values()))
