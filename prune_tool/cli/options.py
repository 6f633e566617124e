"""Options that several commands share, each described once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from prune_tool import defaults
from prune_tool.errors import UsageError
from prune_tool.records import Request


def _hush(quiet: bool) -> bool:
    """Downloads bring bars of their own, which are switched off before their library is imported or not at all."""
    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return quiet


Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="timm name, hf-hub:..., local-dir:PATH; the embedded EfficientNet-Lite0 if absent.",
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="Folder of class folders (with or without train/val/test) or .npz; the embedded solar cells if absent.",
        show_default=False,
    ),
]
Checkpoint = Annotated[
    Path | None, typer.Option("--checkpoint", help="Weights for MODEL (.safetensors).", show_default=False)
]
InputSize = Annotated[
    str,
    typer.Option("--input-size", help="Input sizes to try besides the model's own: `auto`, `native` or `160,128`."),
]
OwnInputSize = Annotated[
    int | None,
    typer.Option("--input-size", min=1, help="Input size in pixels instead of the model's own.", show_default=False),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of splits and random subsets.")]
Draws = Annotated[int, typer.Option("--draws", min=2, help="Random subsets per size.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be decoded, and count them.")]
Device = Annotated[str, typer.Option("--device", help="Where features are extracted: cpu or cuda.")]
Strategy = Annotated[
    str,
    typer.Option("--strategy", help="How neurons are picked: random (the definition), or pivoted (by label)."),
]
Compare = Annotated[bool, typer.Option("--compare", help="Also measure PCA, projections, first and pivoted neurons.")]
Nearest = Annotated[bool, typer.Option("--nearest", help="Show redundancy by the authors' rule: the nearest size.")]
Modules = Annotated[
    str | None,
    typer.Option("--modules", help="Module paths to tap instead of every block, with commas.", show_default=False),
]
RoundTo = Annotated[int, typer.Option("--round-to", min=1, help="Kept widths are rounded up to a multiple of this.")]
MaxClassDrop = Annotated[
    str | None,
    typer.Option("--max-class-drop", help="Exit 1 if a class loses more points: 10pp.", show_default=False),
]
Preprocess = Annotated[
    str,
    typer.Option(
        "--preprocess",
        help="What the file does to images: normalize (takes [0, 1] at input size), graph (any size, bytes), none.",
    ),
]
Precision = Annotated[str, typer.Option("--precision", help="Of the file: fp32, fp16 or int8.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of run folders.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the new run.", show_default=False)]
Run = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="Run folder; the newest if absent.", show_default=False)
]
Budget = Annotated[str, typer.Option("--budget", help="Accuracy that may be lost: 0.05 (of the full) or 5pp (points).")]
Taps = Annotated[
    str, typer.Option("--taps", help="Taps that may be read: `all`, `last` (penultimate layer) or names with commas.")
]
Confidence = Annotated[float, typer.Option("--confidence", min=0.5, max=0.9999, help="Of the certificate, one-sided.")]
Provider = Annotated[str, typer.Option("--provider", help="ONNX Runtime execution provider: cpu, cuda or tensorrt.")]
BatchSizes = Annotated[str, typer.Option("--batch", help="Batch sizes to time, with commas.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads within an operator.")]
Seconds = Annotated[float, typer.Option("--seconds", min=0.1, help="Timing per batch size.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_hush, help="No progress on stderr.")]


def request(
    *,
    model: str | None,
    data: str | None,
    checkpoint: Path | None,
    input_size: str,
    seed: int,
    draws: int,
    skip_bad: bool,
    device: str,
    strategy: str,
    modules: str | None,
    round_to: int,
    compare: bool = False,
) -> Request:
    """The request that a command's options make."""
    if strategy not in ("random", "pivoted"):
        raise UsageError(asked=f"--strategy {strategy}", found="no such strategy", remedy="Choose random or pivoted")
    return Request(
        model=model,
        data=data,
        checkpoint=None if checkpoint is None else str(checkpoint),
        input_sizes=_input_sizes(input_size),
        seed=seed,
        n_draws=draws,
        skip_bad=skip_bad,
        device=device,
        strategy="pivoted" if strategy == "pivoted" else "random",
        compare=compare,
        taps=None if modules is None else tuple(modules.split(",")),
        round_to=round_to,
    )


def points(option: str, text: str) -> float:
    """Points of accuracy, as ``10pp``."""
    number = text.removesuffix("pp")
    if not number.replace(".", "", 1).isdecimal():
        raise UsageError(asked=f"{option} {text}", found="not points of accuracy", remedy=f"Try {option} 10pp")
    return float(number)


def _input_sizes(text: str) -> tuple[int, ...] | None:
    if text == "auto":
        return None
    return () if text == "native" else whole_numbers("--input-size", text, such_as="160,128")


def whole_numbers(option: str, text: str, *, such_as: str) -> tuple[int, ...]:
    """Whole numbers of at least one, separated by commas."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(
            asked=f"{option} {text}", found="not whole numbers with commas between", remedy=f"Try {option} {such_as}"
        )
    return tuple(int(part) for part in parts)


ROUND_TO = defaults.ROUND_TO
SEED, DRAWS, RUNS, CONFIDENCE = defaults.SEED, defaults.N_DRAWS, Path("runs"), defaults.CONFIDENCE
