"""What the user asks for: a request, a budget, limits, a form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from prune_tool import defaults
from prune_tool.errors import UsageError
from prune_tool.records.score import Score

Strategy = Literal["random", "pivoted"]
Allocation = Literal["uniform", "allocated"]
Metric = Literal["accuracy", "balanced-accuracy"]
Cost = Literal["latency", "macs", "params", "size", "neurons"]
COSTS: tuple[Cost, ...] = ("latency", "macs", "params", "size", "neurons")
Limited = Literal["latency", "macs", "params", "size"]
"""Costs that a limit can be set on."""
Engine = Literal["local", "ray"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming")
CROP_MODES = ("center", "squash", "border")
"""What timm's evaluation transform knows."""
Preprocess = Literal["normalize", "graph", "none"]
Precision = Literal["fp32", "fp16", "int8"]
AUTO_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
"""Those that may be the fastest on a CPU, which has few instructions for float16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much accuracy may be given up, relative to the full backbone's or in points of accuracy.

    ``relative``: kept accuracy must be at least ``(1 - loss) * full``. ``points``: at least ``full - loss``.
    ``loss`` is a fraction in [0, 1) in both cases (0.05 is 5 % or five points).
    """

    kind: Literal["relative", "points"]
    loss: float

    @staticmethod
    def parse(text: str) -> Budget:
        """Read ``0.05`` or ``5%`` (relative) or ``5pp`` (points). Raises ``UsageError`` on anything else."""
        kind: Literal["relative", "points"] = "points" if text.endswith("pp") else "relative"
        number = text.removesuffix("pp").removesuffix("%")
        try:
            loss = float(number) / (100 if number != text else 1)
        except ValueError:
            loss = -1.0
        if not 0 <= loss < 1:
            raise UsageError(
                asked=f"--budget {text}",
                found="not an accuracy loss from 0 to below 1 (or 0pp to below 100pp)",
                remedy="Try --budget 0.05 (5 % of the full backbone's accuracy) or --budget 5pp (five points); several"
                " with commas",
            )
        return Budget(kind=kind, loss=loss)

    @staticmethod
    def parse_all(text: str) -> tuple[Budget, ...]:
        """Read budgets with commas between: ``0.01,0.02,5pp``. Each stands there once, in the order given."""
        return tuple(dict.fromkeys(Budget.parse(part.strip()) for part in text.split(",")))

    @property
    def spelled(self) -> str:
        """As ``parse`` reads it: ``0.05`` or ``5pp``. Names the folder of its file where there are several."""
        return f"{self.loss:.12g}" if self.kind == "relative" else f"{100 * self.loss:.12g}pp"

    def floor(self, full: Score) -> float:
        """The least accuracy (0 to 1) that meets this budget when the full backbone scores ``full``."""
        return full.accuracy * (1 - self.loss) if self.kind == "relative" else full.accuracy - self.loss

    def is_met(self, kept: Score, full: Score) -> bool:
        """Whether ``kept`` is accurate enough. Both scores are of the same images."""
        return kept.accuracy >= self.floor(full) - 1e-12

    def __str__(self) -> str:
        return f"{100 * self.loss:g} %" if self.kind == "relative" else f"{100 * self.loss:g} points"


_UNITS: dict[Limited, dict[str, float]] = {
    "latency": {"ms": 1.0},
    "macs": {"k": 1e3, "M": 1e6, "G": 1e9},
    "params": {"k": 1e3, "M": 1e6, "G": 1e9},
    "size": {"kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 1e3, "mb": 1e6, "gb": 1e9, "k": 1e3, "m": 1e6, "g": 1e9}
    | {"b": 1.0},  # the last, since all the others of bytes end in it
}
_EXAMPLES: dict[Limited, str] = {"latency": "5ms", "macs": "200M", "params": "1.5M", "size": "3MB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What the file may cost at most: milliseconds a call on the target, a number of MACs or parameters, or bytes."""

    kind: Limited
    most: float

    @staticmethod
    def parse(kind: Limited, text: str) -> Limit:
        """Read ``5ms``, ``200M`` or ``1.5G``, and of sizes ``3MB``, ``500kB`` (thousands) or ``1.5MiB`` (of 1,024).

        Sizes are read in any case, with or without a space before the unit. Raises ``UsageError`` on anything else.
        """
        spelled = text.lower().replace(" ", "") if kind == "size" else text
        for unit, factor in _UNITS[kind].items():
            number = spelled.removesuffix(unit)
            if number != spelled and number.replace(".", "", 1).isdecimal() and float(number) > 0:
                return Limit(kind=kind, most=float(number) * factor)
        raise UsageError(
            asked=f"--max-{kind} {text}",
            found="not a positive number with its unit",
            remedy=f"Try --max-{kind} {_EXAMPLES[kind]}",
        )

    def __str__(self) -> str:
        return f"{self.most:g} ms" if self.kind == "latency" else f"{self.most / 1e6:g} {_COUNTED[self.kind]}"


_COUNTED: dict[str, str] = {"macs": "M MACs", "params": "M parameters", "size": "MB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the file will run on, as far as latency goes.

    Attributes:
        provider: ONNX Runtime execution provider: ``cpu``, ``cuda`` or ``tensorrt``.
        batch_size: images a call.
        n_threads: within an operator.
    """

    provider: str = "cpu"
    batch_size: int = defaults.TARGET_BATCH_SIZE
    n_threads: int = defaults.TARGET_N_THREADS


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessingChange:
    """What is to differ from the backbone's own preprocessing, in timm's terms; None keeps its own.

    Attributes:
        mean, std: of red, green and blue, of values from 0 to 1.
        interpolation: one of ``INTERPOLATIONS``.
        crop_pct: side of the crop as a share of the resized image's, above 0 to 1.
        crop_mode: one of ``CROP_MODES``.

    Raises:
        UsageError: a value that makes no sense.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and [_is_share(v, name == "mean") for v in values] != [True] * 3:
                raise _senseless(name, values, "three values, for pixels from 0 to 1", "0.485,0.456,0.406")
        if self.crop_pct is not None and not _is_share(self.crop_pct, zero=False):
            raise _senseless("crop-pct", self.crop_pct, "a share above 0 to 1", "0.875")
        if self.interpolation is not None and self.interpolation not in INTERPOLATIONS:
            raise _senseless("interpolation", self.interpolation, f"one of {', '.join(INTERPOLATIONS)}", "bicubic")
        if self.crop_mode is not None and self.crop_mode not in CROP_MODES:
            raise _senseless("crop-mode", self.crop_mode, f"one of {', '.join(CROP_MODES)}", "center")


def _is_share(value: float, zero: bool) -> bool:
    return 0 < value <= 1 or (zero and value == 0)


def _senseless(name: str, value: object, wanted: str, such_as: str) -> UsageError:
    text = ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else value
    return UsageError(asked=f"--{name} {text}", found=f"not {wanted}", remedy=f"Try --{name} {such_as}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What kind of file ships.

    Attributes:
        preprocess: what the file does to an image before the network: ``normalize`` (takes float images of the input
            size in [0, 1]), ``graph`` (takes bytes of any size, resizes, crops and normalises them), or ``none``.
        precision: of its weights and of what flows between.
        probabilities: whether it has a second output, the softmax of ``logits``.
    """

    preprocess: Preprocess = "normalize"
    precision: Precision = "fp32"
    probabilities: bool = False

    @staticmethod
    def parse_each(preprocess: str, precision: str, *, probabilities: bool = False) -> tuple[Form, ...]:
        """From the words of the command line: one form, or several to choose among (``fp32,int8``, ``auto``).

        Raises:
            UsageError: a word is none of those known, or a precision is named twice.
        """
        chosen = one_of("--preprocess", preprocess, get_args(Preprocess))
        return tuple(
            Form(preprocess=chosen, precision=each, probabilities=probabilities) for each in _precisions(precision)
        )

    @property
    def is_plain(self) -> bool:
        """Whether the file computes what the candidates' neurons were measured with."""
        return (self.preprocess, self.precision) == ("normalize", "fp32")

    def __str__(self) -> str:
        return f"{self.precision}, preprocessing {self.preprocess}"


def _precisions(text: str) -> tuple[Precision, ...]:
    words = text.split(",")
    if words == ["auto"]:
        return AUTO_PRECISIONS
    if len({*words}) < len(words):
        raise UsageError(asked=f"--precision {text}", found="the same precision twice", remedy="Name each once")
    known = get_args(Precision) if len(words) > 1 else (*get_args(Precision), "auto")
    return tuple(one_of("--precision", word, known) for word in words)


def one_of(option: str, word: str, allowed: tuple[str, ...]) -> Any:
    """The word, if an option allows it.

    Raises:
        UsageError: it does not.
    """
    if word not in allowed:
        remedy = f"Choose {', '.join(allowed[:-1])} or {allowed[-1]}"
        raise UsageError(asked=f"{option} {word}", found="no such choice", remedy=remedy)
    return word


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for; with the fingerprints in ``run.json`` it determines every number that follows.

    Attributes:
        model: timm name, ``hf-hub:...``, ``local-dir:...``; ``None`` for the embedded default. ``module:NAME`` is noted
            where a module was given in Python (``from_module``).
        data: path or scheme of the labelled images; ``None`` for the embedded default.
        checkpoint: file of weights for ``model``.
        input_sizes: square input sizes in pixels to try besides the backbone's own; ``None`` lets the tool choose.
        narrow: shares of the backbone's multiply-accumulates that narrowing its hidden widths leaves, each tried at
            every input size beside all widths; ``None`` lets the tool choose, and pass over what cannot be reached.
        n_calibration: training images whose statistics narrowing rests on.
        allocation: how many neurons of a narrowed trunk are kept where: ``uniform``, the same share of every width, or
            ``allocated`` by what is lost.
        heal: epochs of distillation of each narrowed trunk to the whole one's neurons, over all training images.
        taps: module paths to tap instead of every block.
        seed: of splits and draws.
        n_draws: random subsets per size.
        skip_bad: leave out images that cannot be decoded (they are counted) instead of stopping.
        device: ``cpu``, ``cuda`` (every GPU) or ``cuda:N``, where features are extracted.
        strategy: how neurons are picked: ``random`` (the definition of diffuse redundancy), or ``pivoted``, greedily by
            the training labels.
        metric: what budgets, curves and the certificate count: all images alike, or all classes.
        compare: also measure other ways to take numbers from the penultimate layer.
        cost: what the frontier trades accuracy against. ``latency`` is measured; the others are counted on the graph,
            ``size`` in bytes of a float32 file.
        target: what latency is measured on.
        round_to: kept widths inside the network are rounded up to a multiple of this; what comes out does not change.
        preprocessing: what is to differ from the backbone's own.
        amp: extract in half precision, checked against float32 on the first batch.
        engine: ``local``, this machine's devices, or ``ray``, a cluster. Changes no number.
        workers: processes that decode images; 0 for threads of this process, ``None`` for whichever is faster. Changes
            no number.
    """

    model: str | None = None
    data: str | None = None
    checkpoint: str | None = None
    input_sizes: tuple[int, ...] | None = None
    narrow: tuple[float, ...] | None = ()
    n_calibration: int = defaults.N_NARROWING
    allocation: Allocation = "uniform"
    heal: int = 0
    taps: tuple[str, ...] | None = None
    seed: int = defaults.SEED
    n_draws: int = defaults.N_DRAWS
    skip_bad: bool = False
    device: str = "cpu"
    strategy: Strategy = "random"
    metric: Metric = "accuracy"
    compare: bool = False
    cost: Cost = "latency"
    target: Target = field(default_factory=Target)
    round_to: int = defaults.ROUND_TO
    preprocessing: PreprocessingChange = PreprocessingChange()
    amp: bool = False
    engine: Engine = "local"
    workers: int | None = None
