"""From a candidate to files: slice, attach the probe, write, and prove that each step computed the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prune_tool.deploy.onnx_file import write_onnx
from prune_tool.deploy.verify import FLOAT32_TOLERANCE, Parity, check_parity
from prune_tool.errors import VerificationError
from prune_tool.pipeline.decode import images_of
from prune_tool.pipeline.features import FitData
from prune_tool.pipeline.measure import Subset, kept_outputs
from prune_tool.pipeline.probing import fit_probe, subset_of
from prune_tool.pipeline.workspace import Probed, Subject, Workspace
from prune_tool.records import Analysis, Candidate, Reading
from prune_tool.redundancy.logistic import LogisticProbe
from prune_tool.store.atomic import replacing, write_json
from prune_tool.store.layout import RunFolder
from prune_tool.surgery.capture import export_program
from prune_tool.surgery.slicing import slice_graph
from prune_tool.surgery.taps import HEAD
from prune_tool.task.backbone import Preprocessing

N_PARITY_IMAGES = 14
"""Validation images that parity is checked on: two full rounds of the largest batch size tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One network written to a folder.

    Attributes:
        reading: where it is cut and what it reads.
        n_per_tap: neurons read of each tap.
        macs, n_params: of the network as written, probe included.
        slicing_diff: largest difference between the sliced network's logits and the full one's restricted to the same
            neurons, relative to the largest logit.
        parity: ONNX Runtime against PyTorch.
        n_bytes: size of the ONNX file.
        gradient_norm: of the probe's objective where its fit ended (converged: see ``redundancy.logistic``).
    """

    reading: Reading
    n_per_tap: dict[str, int]
    candidate: Candidate
    slicing_diff: float
    parity: Parity
    n_bytes: int
    gradient_norm: float


def build(
    workspace: Workspace,
    data: FitData,
    analysis: Analysis,
    candidate: Candidate,
    folder: RunFolder,
    metadata: dict[str, str],
) -> Built:
    """Write ``model.onnx``, ``model.pt2`` and ``labels.json`` of a candidate.

    Raises:
        VerificationError: slicing or export changed what the network computes.
    """
    reading = analysis.measured[candidate.reading].reading
    subject = workspace.subject(reading.input_size)
    classes = workspace.source.classes
    subset = subset_of(workspace, data, reading, candidate.n_neurons)
    probe = fit_probe(data, reading.input_size, subset, (candidate.strength,))
    with workspace.progress.stage(f"cutting {reading} to {candidate.n_neurons:,} neurons"):
        trunk = slice_graph(subject.captured, kept_outputs(subset, subject), round_to=workspace.request.round_to)
        sliced = Probed(trunk, *_tensors(probe))
        images = parity_images(workspace, subject)
        slicing_diff = _check_slicing(sliced, subject, subset, images)
        program = export_program(sliced.eval(), subject.example)
        recipe = describe_preprocessing(subject.backbone.preprocessing) | {
            "prune_tool.classes": json.dumps(classes),
            "prune_tool.neurons": json.dumps({tap: neurons.tolist() for tap, neurons in subset.items()}),
            **metadata,
        }
        n_bytes = write_onnx(program, folder.model, metadata=recipe)
        parity = check_parity(folder.model, _reference(sliced), images)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # it names folders of this machine, and the file is shared
        with replacing(folder.program) as partial:
            torch.export.save(program, partial)
        write_json(folder.labels, classes)
    n_per_tap = {tap: len(neurons) for tap, neurons in subset.items()}
    return Built(
        reading=reading,
        n_per_tap=n_per_tap,
        candidate=candidate,
        slicing_diff=slicing_diff,
        parity=parity,
        n_bytes=n_bytes,
        gradient_norm=probe.gradient_norm,
    )


def build_full(workspace: Workspace, folder: RunFolder, probe: LogisticProbe) -> Parity:
    """Write ``full.onnx``: the backbone as it came, with its probe."""
    subject = workspace.native
    head = {len(subject.taps) - 1: None}
    with workspace.progress.stage("writing the full backbone"):
        full = Probed(slice_graph(subject.captured, head), *_tensors(probe)).eval()
        metadata = describe_preprocessing(subject.backbone.preprocessing)
        write_onnx(export_program(full, subject.example), folder.full, metadata=metadata)
        return check_parity(folder.full, _reference(full), parity_images(workspace, subject), stage="full backbone")


def parity_images(workspace: Workspace, subject: Subject) -> NDArray[np.float32]:
    """A few validation images, (n, 3, h, w) in [0, 1]."""
    rows = workspace.splits.val[:N_PARITY_IMAGES]
    return np.concatenate(list(images_of(workspace.source, rows, subject.backbone.preprocessing)))


def describe_preprocessing(preprocessing: Preprocessing) -> dict[str, str]:
    """What a caller must do to an image before the file sees it, for the file's metadata."""
    size = preprocessing.input_size
    return {
        "prune_tool.input": f"images: float32 (batch, 3, {size}, {size}), RGB in [0, 1]; normalisation is inside",
        "prune_tool.preprocessing": json.dumps(
            {
                "input_size": size,
                "interpolation": preprocessing.interpolation,
                "crop_pct": preprocessing.crop_pct,
                "crop_mode": preprocessing.crop_mode,
                "mean": preprocessing.mean,
                "std": preprocessing.std,
            }
        ),
        "prune_tool.normalisation": json.dumps({"mean": preprocessing.mean, "std": preprocessing.std}),
    }


def _tensors(probe: LogisticProbe) -> tuple[Tensor, Tensor]:
    return torch.tensor(probe.weight, dtype=torch.float32), torch.tensor(probe.bias, dtype=torch.float32)


def _reference(module: nn.Module) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
        return logits

    return run


def _check_slicing(sliced: Probed, subject: Subject, subset: Subset, images: NDArray[np.float32]) -> float:
    """Largest relative difference between the sliced network and the full one restricted to the same neurons."""
    batch = torch.from_numpy(images)
    names = [tap.name for tap in subject.taps]
    with torch.inference_mode():
        outputs = dict(zip(names, subject.captured(batch), strict=True))
        kept = torch.cat([outputs[tap][:, torch.from_numpy(neurons)] for tap, neurons in subset.items()], dim=1)
        expected, found = sliced.probe(kept), sliced(batch)
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= FLOAT32_TOLERANCE:
        raise VerificationError(
            asked=f"cut the network after {list(subset)[-1]}",
            found=f"the sliced network's logits differ from the full one's by {difference:.1e} of the largest",
            remedy=f"Rounding explains {FLOAT32_TOLERANCE:g}; please report this backbone, and cut at {HEAD} meanwhile",
        )
    return difference
