"""The size of a file before there is one: what its weights take, what each operator takes, and what it says of itself.

Float32 files of networks from 90 kB to 45 MB (ResNet, MobileNet, ViT; narrow and wide, cut at every depth) were at most
0.2 % larger than predicted and at most 2 % smaller; the exporter folds normalisations into convolutions, whose
parameters then count too high. Weights of other precisions are known, but not how many nodes int8 leaves in float.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from prune_tool.pipeline.measure import Subset
from prune_tool.records import Candidate, Form, Precision
from prune_tool.surgery.cost import Cost

CALL_BYTES = 85
"""Of an operator: its name, those of what it reads and writes, its attributes. Measured: 74 to 98 where no
normalisation is folded."""

METADATA_BYTES = 3000
"""Of what a file says of itself, apart from its classes and neurons: recipe, checksums, certificate."""

BYTES_PER_WEIGHT: dict[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}

TOLERANCE = 0.03
"""Share by which a prediction may be wrong. A candidate is tried up to this far beyond a limit on size."""


def float32_bytes(cost: Cost, subset: Subset, classes: Sequence[str]) -> int:
    """Predicted size of the file of a network with its probe.

    Args:
        cost: of both.
        subset: neurons that the probe reads.
        classes: names, which the file carries.
    """
    neurons = {tap: kept.tolist() for tap, kept in subset.items()}
    said = METADATA_BYTES + len(json.dumps(neurons)) + len(json.dumps(list(classes)))
    return BYTES_PER_WEIGHT["fp32"] * cost.n_params + CALL_BYTES * cost.n_calls + said


def bytes_in_form(candidate: Candidate, form: Form) -> int:
    """Predicted size of a candidate's file in a form."""
    saved = BYTES_PER_WEIGHT["fp32"] - BYTES_PER_WEIGHT[form.precision]
    return candidate.n_bytes - saved * candidate.n_params
