"""What ``export`` hands on and writes down as ``certificate.json``."""

from __future__ import annotations

from dataclasses import dataclass

from prune_tool.deploy.interleaving import Interval
from prune_tool.deploy.verify import Stage
from prune_tool.frontier.certificate import Certificate, DropTest
from prune_tool.pipeline.build import Built, FullInt8
from prune_tool.records import Candidate, Limit, Precision
from prune_tool.redundancy.fairness import Fairness


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What ``export`` wrote; stands in ``certificate.json``.

    Attributes:
        sentence: the certificate for people.
        certificate: of the file's own predictions on the test images.
        tested: every candidate tried, safest first, with the outcome of its test: of its neurons on the same images
            for a float32 file that takes images in [0, 1], of its file's own predictions for any other form.
        fairness: accuracy class by class of the file and of the full backbone, on the test images.
        built: what was shipped: recipe, form, what each step changed, and sizes.
        full_parity: ONNX Runtime against PyTorch for the full backbone.
        full_int8: the full backbone as int8, where the file is.
        precision_speedup: how many times faster the file's network is than the same in float32, on the run's target;
            None for float32.
        warnings: what whoever ships the file should know.
        model_sha256: of ``model.onnx``.
        taps, precisions, limits: what was asked for, as in ``export``.
    """

    sentence: str
    certificate: Certificate
    tested: tuple[tuple[Candidate, DropTest], ...]
    fairness: Fairness
    built: Built
    full_parity: Stage
    full_int8: FullInt8 | None
    precision_speedup: Interval | None
    warnings: tuple[str, ...]
    model_sha256: str
    taps: str | None
    precisions: tuple[Precision, ...]
    limits: tuple[Limit, ...]
