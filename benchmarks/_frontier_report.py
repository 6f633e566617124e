"""The table and the plot of ``frontier.py``: what each axis of the search brings by itself, and all together."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from _assets import DATA, MODELS
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Pair = dict[str, Any]
NAMES = MODELS | DATA | {"solar": "solar cells"}
N_COLUMNS = 3

# Okabe and Ito's colours, told apart under every common colour blindness
STYLES = {
    "all axes": {"color": "#000000", "marker": "o", "lw": 1.8},
    "resolution alone": {"color": "#0072B2", "marker": "s", "lw": 1.2},
    "depth alone": {"color": "#009E73", "marker": "^", "lw": 1.2},
    "last layer alone": {"color": "#D55E00", "marker": "v", "lw": 1.2},
    "all axes, narrowed too": {"color": "#CC79A7", "marker": "D", "lw": 1.8},
}


def title(name: str) -> str:
    """A pair's name for people."""
    model, data = name.split("/")
    return f"{NAMES[model]}, {NAMES[data]}"


def report(pairs: dict[str, Pair]) -> str:
    """Markdown: a row for each pair, budget and search."""
    rows = [
        "| backbone, images | budget | search | full | kept | state | MACs | batch 1 (95 %) | batch 16 | told |",
        "|---|---|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    for name, pair in pairs.items():
        searches = pair["searches"]
        for budget in next(iter(searches.values()))["shipped"]:
            rows += [_row(name, budget, search, found["shipped"][budget]) for search, found in searches.items()]
    return "\n".join(rows)


def _row(name: str, budget: str, search: str, shipped: dict[str, Any]) -> str:
    head = f"| {title(name)} | {budget} | {search} "
    if "kept" not in shipped:
        return f"{head}| | | nothing within it | | | | |"
    low, median, high = shipped["batch 1"]["speedup"]
    predicted = shipped["predicted_ms"] / shipped["batch 1"]["p50_ms"]
    return (
        f"{head}| {100 * shipped['full']:.1f} | {100 * shipped['kept']:.1f} | {shipped['state']} "
        f"| {shipped['macs_ratio']:.1f}x | {median:.2f}x ({low:.2f}-{high:.2f}) "
        f"| {shipped['batch 16']['speedup'][1]:.2f}x | {predicted:.2f} |"
    )


def draw(pairs: dict[str, Pair], path: Path) -> None:
    """Write ``path`` with the endings ``.png`` and ``.svg``; the same numbers give the same files."""
    if not pairs:
        return
    n_rows = -(-len(pairs) // N_COLUMNS)
    n_columns = min(N_COLUMNS, len(pairs))
    with mpl.rc_context({"svg.hashsalt": "prune-tool", "font.size": 9}):
        figure = Figure(figsize=(max(5.5, 4.4 * n_columns), 3.5 * n_rows + 0.6), layout="constrained")
        axes = figure.subplots(n_rows, n_columns, squeeze=False)
        for place, (name, pair) in zip(axes.flat, pairs.items(), strict=False):
            _panel(place, name, pair)
        for place in axes.flat[len(pairs) :]:
            place.axis("off")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(STYLES), 2 * n_columns))
        figure.savefig(path.with_suffix(".png"), dpi=160)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def _panel(axes: Axes, name: str, pair: Pair) -> None:
    """Validation accuracy along each search's frontier, against how many times faster than full it is predicted."""
    for search, style in STYLES.items():
        points = pair["searches"][search]["points"]
        speed = [pair["full_ms_predicted"] / point["ms"] for point in points]
        axes.plot(speed, [100 * point["val"] for point in points], ms=4, label=search, **style)
    best = 100 * max(point["val"] for search in STYLES for point in pair["searches"][search]["points"])
    low = 100 * min(point["val"] for search in STYLES for point in pair["searches"][search]["points"])
    axes.set(
        title=title(name), xscale="log", xlabel="times faster than full (predicted)", ylabel="validated accuracy, %"
    )
    axes.set_ylim(max(low, best - 25) - 1, best + 1)
    ticks = [tick for tick in (1, 2, 3, 5, 8, 12, 20, 30) if tick <= max(axes.get_xlim())]
    axes.set_xticks(ticks, [f"{tick}x" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(visible=True, color="#dddddd", lw=0.6)
    axes.axhline(y=100 * pair["full_val"], color="#999999", ls=":", lw=1)
