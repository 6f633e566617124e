"""The plot of ``paper.py``: test accuracy against the fraction of neurons kept, one panel a backbone and data set."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from _assets import DATA, MODELS
from _paper_report import PUBLISHED, Pair, name_of
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

X_LIMITS = (0.75, 115)  # percent: below one neuron in a hundred there is nothing to compare with

# Okabe and Ito's colours, told apart under every common colour blindness
STYLES = {
    "ridge": {"color": "#0072B2", "lw": 2, "label": "random neurons, ridge (mean ± std)"},
    "logistic": {"color": "#000000", "marker": "o", "ms": 4, "ls": "none", "label": "random, converged logistic"},
    "recipe": {"color": "#D55E00", "marker": "v", "ms": 4, "ls": "none", "label": "random, the paper's recipe"},
    "pivoted": {"color": "#009E73", "lw": 1.2, "label": "pivoted neurons, ridge"},
    "principal components": {"color": "#CC79A7", "lw": 1.2, "label": "principal components, ridge"},
    "random projection": {"color": "#56B4E9", "lw": 1.2, "ls": "--", "label": "random projection, ridge"},
    "first k": {"color": "#999999", "lw": 1.2, "ls": ":", "label": "first k neurons, ridge"},
}


def draw(pairs: dict[str, Pair], folder: Path) -> None:
    """Write ``paper.png`` and ``paper.svg`` into ``folder``; the same numbers give the same files."""
    models = [model for model in MODELS if any(pair["model"] == model for pair in pairs.values())]
    data = [name for name in DATA if any(pair["data"] == name for pair in pairs.values())]
    shape = len(data), len(models)
    with mpl.rc_context({"svg.hashsalt": "prune-tool", "font.size": 9}):
        figure = Figure(figsize=(max(6.4, 4.6 * shape[1]), 3.4 * shape[0] + 0.9), layout="constrained")
        axes = figure.subplots(*shape, squeeze=False)
        handles = {}
        for place in np.ndindex(shape):
            name = f"{models[place[1]]}/{data[place[0]]}"
            if name not in pairs:
                axes[place].axis("off")
                continue
            panel(axes[place], name, pairs[name])
            found = axes[place].get_legend_handles_labels()
            handles |= dict(zip(found[1], found[0], strict=True))
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=1 + shape[1])
        figure.savefig(folder / "paper.png", dpi=160)
        figure.savefig(folder / "paper.svg", metadata={"Date": None})


def panel(axes: Axes, name: str, pair: Pair) -> None:
    """One backbone on one data set."""
    for curve, style in STYLES.items():
        if curve not in pair["curves"]:
            continue
        found = pair["curves"][curve]
        x, mean, std = 100 * np.array([np.array(found["sizes"]) / pair["width"], found["mean"], found["std"]])
        shown = x >= X_LIMITS[0]
        x, mean, std = x[shown], mean[shown], std[shown]
        axes.plot(x, mean, **style)
        if curve == "ridge":
            axes.fill_between(x, mean - std, mean + std, color=style["color"], alpha=0.2, lw=0)
    full = 100 * pair["curves"]["logistic"]["mean"][-1]
    axes.axhline(pair["delta"] * full, color="#999999", lw=0.8, label=f"{pair['delta']} of all neurons, converged")
    if name in PUBLISHED and PUBLISHED[name].accuracy:
        known = PUBLISHED[name]
        x, y = np.array(list(known.accuracy.items())).T * 100
        axes.plot(x, y, "x", color="#D55E00", label=f"published for {known.backbone} (other weights)")
    axes.set_title(name_of(pair))
    axes.set_xscale("log")
    axes.set_xlim(*X_LIMITS)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("neurons kept (%)")
    axes.set_ylabel("test accuracy (%)")
    axes.grid(visible=True, alpha=0.3)
