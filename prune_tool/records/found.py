"""What a stage finds and hands to the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from prune_tool.records.asked import Cost, Precision, Target
from prune_tool.records.score import Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Trunk:
    """A form of the backbone that neurons are read from.

    Attributes:
        input_size: square input in pixels.
        narrow: share of its multiply-accumulates that is left once its hidden widths are narrowed; None for all widths.
    """

    input_size: int
    narrow: float | None = None

    def __str__(self) -> str:
        return f"{self.input_size} px" + ("" if self.narrow is None else f" narrowed to {100 * self.narrow:g} %")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Neurons of one trunk that a probe may read: one tap's, or a seeded pool over the last taps up to a cut.

    Attributes:
        trunk: what computes them.
        kind: ``layer`` (all neurons of one tap) or ``pool``.
        taps: names in the order of computation; the network ends at the last one.
        n_per_tap: neurons offered by each tap.
    """

    trunk: Trunk
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
        return f"{where} at {self.trunk}"


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
        ridge: strength of the ridge probes at each size, in multiples of the number of training images.
        critical_size: smallest size whose mean over draws keeps the analysis' share of the reading's own accuracy.
        critical_size_std: spread of that size over draws.
        redundancy: diffuse redundancy, 1 - critical_size / width (Nanda et al. 2023, Definition 1).
        redundancy_nearest: the same by the authors' scripts, which take the size nearest to the threshold, maybe below.
        flattery: accuracy (0 to 1) by which the validation images flatter the reading, or wrong it where it is below 0,
            as images that take turns to judge tell; 0 where none do.
    """

    reading: Reading
    macs: int
    n_params: int
    sizes: tuple[int, ...]
    n_correct: tuple[tuple[int | float, ...], ...]
    n_val: int
    ridge: tuple[float, ...]
    critical_size: int
    critical_size_std: float
    redundancy: float
    redundancy_nearest: float
    flattery: float = 0.0

    @property
    def accuracy(self) -> tuple[float, ...]:
        """Mean over draws of the ridge probe's validation accuracy, per size."""
        n = self.n_val * len(self.n_correct)
        return tuple(sum(column) / n for column in zip(*self.n_correct, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Full:
    """The yardstick: the backbone as it came, penultimate layer, its own input size, a converged logistic probe.

    ``n_bytes`` is the size of its file, as predicted for candidates; ``val`` its score, as theirs.
    """

    input_size: int
    width: int
    macs: int
    n_params: int
    n_bytes: int
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
class NarrowedWidth:
    """One hidden width of a narrowed network.

    Attributes:
        name: of the group of neurons.
        kind: of width (expansion, attention values and so on).
        width: neurons before.
        kept: ascending indices of those kept.
        error: expected squared error of the layer that reads them, behind everything narrowed before, as a share of the
            variance of its output; channels count as far as they matter to the network's outputs.
        effect: the same in the network's outputs, to first order, as a share of their variance.
    """

    name: str
    kind: str
    width: int
    kept: tuple[int, ...]
    error: float
    effect: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """What narrowing a network kept.

    Attributes:
        widths: every hidden width, in the order of computation.
        n_images: calibration images.
        macs: multiply-accumulates per image that are left.
        full_macs: of the network as it is, with what no output reads.
    """

    widths: tuple[NarrowedWidth, ...]
    n_images: int
    macs: int
    full_macs: int


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

    @property
    def judged_in(self) -> Literal["validation", "cross-validation"]:
        """Whether candidates were scored on the validation images alone, or training images took turns with them."""
        return "validation" if self.full.val.n_images == self.measured[0].n_val else "cross-validation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network that could ship: a random subset of a reading with its converged logistic probe.

    Attributes:
        reading: index into ``Analysis.measured``.
        n_neurons: subset size; the subset is the prefix of this length of draw 0 (or of the pivoted order).
        macs, n_params: of the sliced trunk and probe.
        n_bytes: predicted size of its file in float32.
        val: score of its logistic probe on the validation images, and of probes of its strength, in turn, on training
            images that they were not fitted on (see ``task.splits``).
        strength: L2 strength of that probe, chosen on the validation images.
        latency_ms: predicted, a call on the request's target: measured on the reading's whole network and scaled by the
            multiply-accumulates that the subset leaves of it. None where latency was not measured.
        precision: of its file. Neurons are measured in float32; fewer bits are tried when files are written.
    """

    reading: int
    n_neurons: int
    macs: int
    n_params: int
    n_bytes: int
    val: Score
    strength: float
    latency_ms: float | None = None
    precision: Precision = "fp32"

    @property
    def network(self) -> tuple[int, int, Precision]:
        """Which network it is, whatever it was found to cost: where it is cut, how many neurons, in which precision."""
        return self.reading, self.n_neurons, self.precision

    def cost(self, kind: Cost) -> tuple[float, int, int]:
        """What the candidate costs, to be compared with others of the same ``kind``: ties go by MACs, then neurons."""
        if kind == "latency":
            assert self.latency_ms is not None, "latency was not measured"
            return self.latency_ms, self.macs, self.n_neurons
        counted = {"macs": self.macs, "params": self.n_params, "size": self.n_bytes, "neurons": self.n_neurons}
        return counted[kind], self.macs, self.n_neurons
