"""What a written file says of itself that only the pipeline knows: its certificate, its cost, where it came from."""

from __future__ import annotations

import json

from prune_tool.deploy.seal import PREFIX
from prune_tool.frontier.certificate import Certificate
from prune_tool.pipeline.runs import RunRecord
from prune_tool.records import Analysis, Candidate, Score


def source_entries(record: RunRecord) -> dict[str, str]:
    """Tool, backbone, weights and images that a file was made with."""
    return {
        f"{PREFIX}version": record.versions["prune-tool"],
        f"{PREFIX}model": record.model,
        f"{PREFIX}model_fingerprint": record.model_fingerprint,
        f"{PREFIX}data": record.data,
        f"{PREFIX}data_fingerprint": record.data_fingerprint,
    }


def full_entries(record: RunRecord, analysis: Analysis) -> dict[str, str]:
    """What ``full.onnx`` says besides its preprocessing."""
    full = analysis.full
    return source_entries(record) | {
        f"{PREFIX}classes": json.dumps(record.classes),
        f"{PREFIX}macs": str(full.macs),
        f"{PREFIX}n_params": str(full.n_params),
    }


def shipped_entries(certificate: Certificate, candidate: Candidate) -> dict[str, str]:
    """What ``model.onnx`` can only say once it has been tested."""
    test = certificate.test
    verdict = {
        "state": certificate.state,
        "sentence": certificate.sentence(),
        "confidence": certificate.confidence,
        "full": _score(test.full),
        "kept": _score(test.kept),
    }
    return {
        f"{PREFIX}n_neurons": str(candidate.n_neurons),
        f"{PREFIX}macs": str(candidate.macs),
        f"{PREFIX}n_params": str(candidate.n_params),
        f"{PREFIX}certificate": json.dumps(verdict),
    }


def _score(score: Score) -> dict[str, int | float]:
    return {"n_correct": score.n_correct, "n_images": score.n_images}
