"""Options that several commands share, each described once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer

from prune_tool import defaults, records
from prune_tool.errors import UsageError
from prune_tool.records import CROP_MODES, INTERPOLATIONS, Limit, Limited, PreprocessingChange, Request, Target, one_of


def _hush(quiet: bool) -> bool:
    """Downloads bring bars of their own, which are switched off before their library is imported or not at all."""
    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
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
        help="Folder of class folders (with or without train/val/test), .csv, .parquet, .tar, .npz, hfds/NAME[:CONFIG],"
        " torch/NAME or wds/PATTERN; the embedded solar cells if absent.",
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
Narrow = Annotated[
    str,
    typer.Option("--narrow", help="Hidden widths narrowed to these shares of MACs: `off`, `auto` or `0.65,0.5`."),
]
Calibration = Annotated[
    int, typer.Option("--calibration", min=1, help="Training images that narrowing takes its statistics from.")
]
Allocation = Annotated[
    str,
    typer.Option("--allocation", help="How narrowing shares out neurons: uniform, or allocated by what is lost."),
]
Heal = Annotated[
    int,
    typer.Option("--heal", min=0, help="Epochs of distillation of narrowed trunks to the whole one's neurons."),
]
OwnInputSize = Annotated[
    int | None,
    typer.Option("--input-size", min=1, help="Input size in pixels instead of the model's own.", show_default=False),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of splits and random subsets.")]
Draws = Annotated[int, typer.Option("--draws", min=2, help="Random subsets per size.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be decoded, and count them.")]
Device = Annotated[str, typer.Option("--device", help="Where features are extracted: cpu, cuda or cuda:0.")]
Amp = Annotated[bool, typer.Option("--amp", help="Extract in float16 (for GPUs); checked against float32 first.")]
Engine = Annotated[str, typer.Option("--engine", help="What extracts features: local (this machine), or ray.")]
Workers = Annotated[str, typer.Option("--workers", help="Processes that decode images: a number, or `auto`.")]
Strategy = Annotated[
    str,
    typer.Option("--strategy", help="How neurons are picked: random (the definition), or pivoted (by label)."),
]
Metric = Annotated[
    str,
    typer.Option("--metric", help="What counts: accuracy, or balanced-accuracy (every class alike)."),
]
Cost = Annotated[
    str,
    typer.Option("--cost", help="What accuracy is traded against: latency (measured), macs, params, size, neurons."),
]
TargetProvider = Annotated[str, typer.Option("--target", help="What latency is measured on: cpu, cuda or tensorrt.")]
TargetBatch = Annotated[int, typer.Option("--target-batch", min=1, help="Images a call, for latency.")]
TargetThreads = Annotated[int, typer.Option("--target-threads", min=1, help="Threads within an operator, for latency.")]
MaxLatency = Annotated[
    str | None,
    typer.Option("--max-latency", help="Most accurate file within it: 5ms a call on the target.", show_default=False),
]
MaxMacs = Annotated[
    str | None, typer.Option("--max-macs", help="Most accurate file within it: 200M.", show_default=False)
]
MaxParams = Annotated[
    str | None, typer.Option("--max-params", help="Most accurate file within it: 1.5M.", show_default=False)
]
MaxSize = Annotated[
    str | None,
    typer.Option("--max-size", help="Most accurate file within it: 3MB, 500kB or 1.5MiB.", show_default=False),
]
Compare = Annotated[bool, typer.Option("--compare", help="Also measure PCA, projections, first and pivoted neurons.")]
Nearest = Annotated[bool, typer.Option("--nearest", help="Show redundancy by the authors' rule: the nearest size.")]
Modules = Annotated[
    str | None,
    typer.Option("--modules", help="Module paths to tap instead of every block, with commas.", show_default=False),
]
Mean = Annotated[
    str | None,
    typer.Option("--mean", help="Of RGB in [0, 1], instead of the model's: 0.485,0.456,0.406.", show_default=False),
]
Std = Annotated[
    str | None,
    typer.Option("--std", help="Of RGB in [0, 1], instead of the model's: 0.229,0.224,0.225.", show_default=False),
]
Interpolation = Annotated[
    str | None, typer.Option("--interpolation", help=f"Instead of the model's: {', '.join(INTERPOLATIONS)}.")
]
CropPct = Annotated[
    float | None, typer.Option("--crop-pct", help="Share of the resized image, instead of the model's: 0.875.")
]
CropMode = Annotated[str | None, typer.Option("--crop-mode", help=f"Instead of the model's: {', '.join(CROP_MODES)}.")]
RoundTo = Annotated[int, typer.Option("--round-to", min=1, help="Kept widths are rounded up to a multiple of this.")]
MaxClassDrop = Annotated[
    str | None,
    typer.Option("--max-class-drop", help="Exit 1 if a class loses more points: 10pp.", show_default=False),
]
Probabilities = Annotated[bool, typer.Option("--probabilities", help="Add an output: the softmax of the logits.")]
Plots = Annotated[bool, typer.Option("--plots", help="Also write the figures as PNG and SVG, for papers.")]
Preprocess = Annotated[
    str,
    typer.Option(
        "--preprocess",
        help="What the file does to images: normalize (takes [0, 1] at input size), graph (any size, bytes), none.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="Of the file: fp32, fp16, int8; several (fp32,int8) or auto to choose among by measured cost.",
    ),
]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of run folders.")]
Name = Annotated[str | None, typer.Option("--name", help="Name of the new run.", show_default=False)]
Run = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="Run folder; the newest if absent.", show_default=False)
]
File = Annotated[Path, typer.Argument(metavar="RUN|FILE", help="Run folder or ONNX file.", show_default=False)]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Picture files, or folders of them.")]
Top = Annotated[int, typer.Option("--top", min=1, help="Classes named for each picture.")]
Budget = Annotated[
    str,
    typer.Option(
        "--budget",
        help="Accuracy that may be lost: 0.05 (of the full) or 5pp (points). With commas, one file for each.",
    ),
]
Taps = Annotated[
    str, typer.Option("--taps", help="Taps that may be read: `all`, `last` (penultimate layer) or names with commas.")
]
Confidence = Annotated[float, typer.Option("--confidence", min=0.5, max=0.9999, help="Of the certificate, one-sided.")]
Provider = Annotated[str, typer.Option("--provider", help="ONNX Runtime execution provider: cpu, cuda or tensorrt.")]
BatchSizes = Annotated[str, typer.Option("--batch", help="Batch sizes to time, with commas.")]
Threads = Annotated[str, typer.Option("--threads", help="Threads within an operator, with commas: 1,all.")]
Against = Annotated[
    list[Path] | None,
    typer.Option("--against", help="Another ONNX file for the same table; may be repeated.", show_default=False),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        min=1,
        help="Pixels a side where a file takes any; its recipe's if absent.",
        show_default=False,
    ),
]
Isolated = Annotated[bool, typer.Option("--isolated", help="One process for each file, taking turns.")]
Starts = Annotated[int, typer.Option("--starts", min=0, help="Fresh processes a file, for cold start and peak memory.")]
FailIfSlower = Annotated[
    float | None,
    typer.Option(
        "--fail-if-slower",
        min=0,
        help="Exit 1 where surely less than this many times as fast.",
        show_default=False,
    ),
]
Seconds = Annotated[float, typer.Option("--seconds", min=0.1, help="Timing per batch size.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", callback=_hush, help="No progress on stderr.")]


def request(
    *,
    model: str | None,
    data: str | None,
    checkpoint: Path | None,
    input_size: str,
    narrow: str,
    calibration: int,
    allocation: str,
    heal: int,
    seed: int,
    draws: int,
    skip_bad: bool,
    device: str,
    strategy: str,
    modules: str | None,
    round_to: int,
    metric: str,
    cost: str,
    target: Target,
    preprocessing: PreprocessingChange,
    amp: bool,
    engine: str,
    workers: str,
    compare: bool = False,
) -> Request:
    """The request that a command's options make."""
    known_engine: records.Engine = one_of("--engine", engine, get_args(records.Engine))
    if known_engine == "ray":
        from prune_tool.pipeline.engines.ray import require_ray

        require_ray()  # before images are checked, which may take long
    return Request(
        model=model,
        data=data,
        checkpoint=None if checkpoint is None else str(checkpoint),
        input_sizes=_input_sizes(input_size),
        narrow=_shares(narrow),
        n_calibration=calibration,
        allocation=one_of("--allocation", allocation, get_args(records.Allocation)),
        heal=heal,
        seed=seed,
        n_draws=draws,
        skip_bad=skip_bad,
        device=device,
        strategy=one_of("--strategy", strategy, get_args(records.Strategy)),
        metric=one_of("--metric", metric, get_args(records.Metric)),
        cost=one_of("--cost", cost, records.COSTS),
        target=target,
        compare=compare,
        taps=None if modules is None else tuple(modules.split(",")),
        round_to=round_to,
        preprocessing=preprocessing,
        amp=amp,
        engine=known_engine,
        workers=_workers(workers),
    )


def _workers(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise UsageError(asked=f"--workers {text}", found="no number of processes", remedy="Try --workers auto")
    return int(text)


def preprocessing(
    *, mean: str | None, std: str | None, interpolation: str | None, crop_pct: float | None, crop_mode: str | None
) -> PreprocessingChange:
    """The change to the backbone's preprocessing that a command's options make."""
    return PreprocessingChange(
        mean=None if mean is None else _colour("--mean", mean),
        std=None if std is None else _colour("--std", std),
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )


def _colour(option: str, text: str) -> tuple[float, float, float]:
    """Three numbers with commas between, or one for all three."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in {1, 3}:
        raise UsageError(
            asked=f"{option} {text}", found="not one number, nor three with commas", remedy=f"Try {option} 0.5,0.5,0.5"
        )
    red, green, blue = numbers * (3 // len(numbers))
    return red, green, blue


def points(option: str, text: str) -> float:
    """Points of accuracy, as ``10pp``."""
    number = text.removesuffix("pp")
    if not number.replace(".", "", 1).isdecimal():
        raise UsageError(asked=f"{option} {text}", found="not points of accuracy", remedy=f"Try {option} 10pp")
    return float(number)


def limits(*, latency: str | None, macs: str | None, params: str | None, size: str | None) -> tuple[Limit, ...]:
    """The limits that a command's options set."""
    texts: dict[Limited, str | None] = {"latency": latency, "macs": macs, "params": params, "size": size}
    return tuple(Limit.parse(kind, text) for kind, text in texts.items() if text is not None)


def require_one_budget(budgets: Sequence[object], limits: Sequence[Limit]) -> None:
    """Refuse several budgets beside limits, which choose one file whatever the budget."""
    if len(budgets) > 1 and limits:
        raise UsageError(
            asked=f"{len(budgets)} budgets with --max-{limits[0].kind}",
            found="a limit chooses one network, whatever the budget",
            remedy="Give one --budget, which the certificate then speaks of",
        )


def _input_sizes(text: str) -> tuple[int, ...] | None:
    if text == "auto":
        return None
    return () if text == "native" else whole_numbers("--input-size", text, such_as="160,128")


def _shares(text: str) -> tuple[float, ...] | None:
    """Of ``--narrow``, from large to small, each once."""
    if text in {"off", "auto"}:
        return () if text == "off" else None
    try:
        shares = {float(part) for part in text.split(",")}
    except ValueError:
        shares = {0.0}
    if not all(0 < share < 1 for share in shares):
        found = "not shares above 0 and below 1, with commas between"
        raise UsageError(asked=f"--narrow {text}", found=found, remedy="Try --narrow 0.65,0.5")
    return tuple(sorted(shares, reverse=True))


def whole_numbers(option: str, text: str, *, such_as: str) -> tuple[int, ...]:
    """Whole numbers of at least one, separated by commas."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(
            asked=f"{option} {text}", found="not whole numbers with commas between", remedy=f"Try {option} {such_as}"
        )
    return tuple(int(part) for part in parts)


def threads(text: str) -> tuple[int | None, ...]:
    """Numbers of threads separated by commas, ``all`` for as many as ONNX Runtime chooses."""
    counts = ((part, part.strip()) for part in text.split(","))
    return tuple(
        None if stripped == "all" else whole_numbers("--threads", part, such_as="1,all")[0] for part, stripped in counts
    )


ROUND_TO = defaults.ROUND_TO
CALIBRATION = defaults.N_NARROWING
TARGET_BATCH, TARGET_THREADS = defaults.TARGET_BATCH_SIZE, defaults.TARGET_N_THREADS
SEED, DRAWS, RUNS, CONFIDENCE = defaults.SEED, defaults.N_DRAWS, Path("runs"), defaults.CONFIDENCE
