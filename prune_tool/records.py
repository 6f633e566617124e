"""What one stage hands to the next: frozen records, nothing that anybody edits.

Accuracy travels as counts (``Score``), because 0.9 - 0.3 is not 0.6; kept neurons as ascending indices, never masks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from prune_tool import defaults
from prune_tool.errors import UsageError

Strategy = Literal["random", "pivoted"]
Metric = Literal["accuracy", "balanced-accuracy"]
Cost = Literal["latency", "macs", "params", "neurons"]
COSTS: tuple[Cost, ...] = ("latency", "macs", "params", "neurons")
Engine = Literal["local", "ray"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming")
CROP_MODES = ("center", "squash", "border")
"""What timm's evaluation transform knows."""
Preprocess = Literal["normalize", "graph", "none"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Correct predictions out of all images looked at.

    ``n_correct`` is a whole number where every image counts alike; for balanced accuracy each counts by its class, so
    that the classes weigh the same and all images together count ``n_images``.
    """

    n_correct: int | float
    n_images: int

    @property
    def accuracy(self) -> float:
        """Share of images (or, balanced, mean over classes of that share) classified correctly, 0 to 1."""
        return self.n_correct / self.n_images

    def __str__(self) -> str:
        return f"{100 * self.accuracy:.1f} % of {self.n_images:,}"


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
                remedy="Try --budget 0.05 (5 % of the full backbone's accuracy) or --budget 5pp (five points)",
            )
        return Budget(kind=kind, loss=loss)

    def floor(self, full: Score) -> float:
        """The least accuracy (0 to 1) that meets this budget when the full backbone scores ``full``."""
        return full.accuracy * (1 - self.loss) if self.kind == "relative" else full.accuracy - self.loss

    def is_met(self, kept: Score, full: Score) -> bool:
        """Whether ``kept`` is accurate enough. Both scores are of the same images."""
        return kept.accuracy >= self.floor(full) - 1e-12

    def __str__(self) -> str:
        return f"{100 * self.loss:g} %" if self.kind == "relative" else f"{100 * self.loss:g} points"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What the file may cost at most: milliseconds a call on the target, or a number of MACs or parameters."""

    kind: Literal["latency", "macs", "params"]
    most: float

    @staticmethod
    def parse(kind: Literal["latency", "macs", "params"], text: str) -> Limit:
        """Read ``5ms``, ``200M`` or ``1.5G``. Raises ``UsageError`` on anything else."""
        units = {"ms": 1.0} if kind == "latency" else {"k": 1e3, "M": 1e6, "G": 1e9}
        for unit, factor in units.items():
            number = text.removesuffix(unit)
            if number != text and number.replace(".", "", 1).isdecimal() and float(number) > 0:
                return Limit(kind=kind, most=float(number) * factor)
        example = "5ms" if kind == "latency" else "200M"
        raise UsageError(
            asked=f"--max-{kind} {text}",
            found="not a positive number with its unit",
            remedy=f"Try --max-{kind} {example}",
        )

    def __str__(self) -> str:
        return f"{self.most:g} ms" if self.kind == "latency" else f"{self.most / 1e6:g} M {_COUNTED[self.kind]}"


_COUNTED = {"macs": "MACs", "params": "parameters"}


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
    def parse(preprocess: str, precision: str, *, probabilities: bool = False) -> Form:
        """From the words of the command line. Raises ``UsageError`` on others."""
        return Form(
            preprocess=_one_of("--preprocess", preprocess, get_args(Preprocess)),
            precision=_one_of("--precision", precision, get_args(Precision)),
            probabilities=probabilities,
        )

    @property
    def is_plain(self) -> bool:
        """Whether the file computes what the candidates' neurons were measured with."""
        return (self.preprocess, self.precision) == ("normalize", "fp32")

    def __str__(self) -> str:
        return f"{self.precision}, preprocessing {self.preprocess}"


def _one_of(option: str, word: str, allowed: tuple[str, ...]) -> Any:
    if word not in allowed:
        raise UsageError(asked=f"{option} {word}", found="no such choice", remedy=f"Choose {', '.join(allowed)}")
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
        taps: module paths to tap instead of every block.
        seed: of splits and draws.
        n_draws: random subsets per size.
        skip_bad: leave out images that cannot be decoded (they are counted) instead of stopping.
        device: ``cpu``, ``cuda`` (every GPU) or ``cuda:N``, where features are extracted.
        strategy: how neurons are picked: ``random`` (the definition of diffuse redundancy), or ``pivoted``, greedily by
            the training labels.
        metric: what budgets, curves and the certificate count: all images alike, or all classes.
        compare: also measure other ways to take numbers from the penultimate layer.
        cost: what the frontier trades accuracy against. ``latency`` is measured; the others are counted on the graph.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Neurons that a probe may read at one input size: one tap's, or a seeded pool over the last taps up to a cut.

    Attributes:
        input_size: square input in pixels.
        kind: ``layer`` (all neurons of one tap) or ``pool``.
        taps: names in the order of computation; the network ends at the last one.
        n_per_tap: neurons offered by each tap.
    """

    input_size: int
    kind: Literal["layer", "pool"]
    taps: tuple[str, ...]
    n_per_tap: tuple[int, ...]

    @property
    def cut(self) -> str:
        """The tap at which the network ends."""
        return self.taps[-1]

    @property
    def width(self) -> int:
        """Neurons offered in all."""
        return sum(self.n_per_tap)

    def __str__(self) -> str:
        where = self.cut if self.kind == "layer" else f"{self.taps[0]} to {self.cut} pooled"
        return f"{where} at {self.input_size} px"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredReading:
    """What the sweep found for a reading.

    Attributes:
        reading: what was swept.
        macs: multiply-accumulates per image of the network that ends here, all neurons read.
        n_params: its parameters.
        sizes: subset sizes scored, ascending; the last is the reading's width.
        n_correct: correct validation predictions of ridge probes, per draw and size; see ``Score``.
        n_val: validation images.
        critical_size: smallest size whose mean over draws keeps the analysis' share of the reading's own accuracy.
        critical_size_std: spread of that size over draws.
        redundancy: diffuse redundancy, 1 - critical_size / width (Nanda et al. 2023, Definition 1).
        redundancy_nearest: the same by the authors' scripts, which take the size nearest to the threshold, maybe below.
    """

    reading: Reading
    macs: int
    n_params: int
    sizes: tuple[int, ...]
    n_correct: tuple[tuple[int | float, ...], ...]
    n_val: int
    critical_size: int
    critical_size_std: float
    redundancy: float
    redundancy_nearest: float

    @property
    def accuracy(self) -> tuple[float, ...]:
        """Mean over draws of the ridge probe's validation accuracy, per size."""
        n = self.n_val * len(self.n_correct)
        return tuple(sum(column) / n for column in zip(*self.n_correct, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Full:
    """The yardstick: the backbone as it came, penultimate layer, its own input size, a converged logistic probe."""

    input_size: int
    width: int
    macs: int
    n_params: int
    val: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Another way to take ``k`` numbers from the penultimate layer, on the axes of random subsets.

    Attributes:
        name: of the way.
        sizes: numbers taken, ascending.
        accuracy: mean over draws of the ridge probe's validation accuracy, per size.
        spread: standard deviation over draws; 0 where there is only one.
        cka: linear CKA with the whole layer (mean over draws), where what is taken are neurons.
    """

    name: str
    sizes: tuple[int, ...]
    accuracy: tuple[float, ...]
    spread: tuple[float, ...]
    cka: tuple[float, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedReadings:
    """Latencies of some readings' networks on one machine.

    Attributes:
        target: what was timed on.
        cpu: name of the processor.
        full_ms: median milliseconds a call of the full backbone.
        reading_ms: the same of each reading's network, all its neurons read.
    """

    target: Target
    cpu: str
    full_ms: float
    reading_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What it took to find the candidates.

    Attributes:
        n_subsets: subsets whose accuracy was measured, all sizes, draws and readings.
        n_readings: layers and pools they were taken from, over all input sizes.
        n_timed: networks whose latency was measured.
        n_probed: subsets that got a converged logistic probe.
        seconds: all of it, without extracting features.
    """

    n_subsets: int
    n_readings: int
    n_timed: int
    n_probed: int
    seconds: float = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Everything ``analyze`` measured.

    Attributes:
        full: the yardstick.
        delta: share of a layer's own accuracy that critical sizes keep.
        measured: every reading.
        search: what it took.
        timed: latencies, where they are what counts.
        comparisons: on the penultimate layer, where they were asked for.
    """

    full: Full
    delta: float
    measured: tuple[MeasuredReading, ...]
    search: Search
    timed: TimedReadings | None = None
    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network that could ship: a random subset of a reading with its converged logistic probe.

    Attributes:
        reading: index into ``Analysis.measured``.
        n_neurons: subset size; the subset is the prefix of this length of draw 0 (or of the pivoted order).
        macs, n_params: of the sliced trunk and probe.
        val: validation score of its logistic probe.
        strength: L2 strength of that probe, chosen on the same validation images.
        latency_ms: predicted, a call on the request's target: measured on the reading's whole network and scaled by the
            multiply-accumulates that the subset leaves of it. None where latency was not measured.
    """

    reading: int
    n_neurons: int
    macs: int
    n_params: int
    val: Score
    strength: float
    latency_ms: float | None = None

    def cost(self, kind: Cost) -> tuple[float, int, int]:
        """What the candidate costs, to be compared with others of the same ``kind``: ties go by MACs, then neurons."""
        if kind == "latency":
            assert self.latency_ms is not None, "latency was not measured"
            return self.latency_ms, self.macs, self.n_neurons
        return {"macs": self.macs, "params": self.n_params, "neurons": self.n_neurons}[kind], self.macs, self.n_neurons
