"""From a candidate to files: slice, attach the probe, write, and prove that each step computed the same."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import copyfile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prune_tool.deploy.interleaving import Interval
from prune_tool.deploy.onnx_file import add_probabilities, write_onnx
from prune_tool.deploy.verify import Stage, check_parity, compare
from prune_tool.pipeline.decode import images_of
from prune_tool.pipeline.features import FitData
from prune_tool.pipeline.measure import Subset, kept_outputs
from prune_tool.pipeline.probing import fit_probe, subset_of
from prune_tool.pipeline.subject import Probed, Subject
from prune_tool.pipeline.transform import Agreement, Step, Transformed, Transformer
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Analysis, Budget, Candidate, Form, Reading, Score
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
        form: of the file.
        stages: what every step from the full backbone to the file changed: ``slice``, against the full network
            restricted to the same neurons; ``export``, ONNX Runtime against PyTorch; ``preprocess`` and ``quantise``.
        val: score of the file itself on the validation images.
        in_float: nodes that int8 left in float, the probe aside.
        agreement: with timm's transform, where the file resizes images by itself.
        n_bytes: size of the ONNX file.
        gradient_norm: of the probe's objective where its fit ended (converged: see ``redundancy.logistic``).
    """

    reading: Reading
    n_per_tap: dict[str, int]
    candidate: Candidate
    form: Form
    stages: tuple[Stage, ...]
    val: Score
    in_float: tuple[str, ...]
    agreement: Agreement | None
    n_bytes: int
    gradient_norm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked of every file of an export.

    Attributes:
        form: precision and preprocessing.
        budget: the loss allowed, which a file of fewer bits must meet on the validation images.
        metadata: what the file says of itself besides its recipe.
    """

    form: Form
    budget: Budget
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shippable:
    """A network with everything that ships, and what it is compared with once the test images are read.

    Attributes:
        built: what stands in the certificate.
        folder: holds ``model.onnx``, ``model.pt2`` and ``labels.json``.
        exported: the same network in float32, taking images in [0, 1].
        pillow: the file before it resized images by itself.
        faster: how many times faster ``pillow`` is than ``exported`` on the run's target, where that has been timed.
    """

    built: Built
    folder: RunFolder
    exported: Step
    pillow: Step
    faster: Interval | None = None


def build(
    workspace: Workspace,
    data: FitData,
    analysis: Analysis,
    candidate: Candidate,
    folder: RunFolder,
    order: Order,
) -> Shippable:
    """Write ``model.onnx``, ``model.pt2`` and ``labels.json`` of a candidate.

    ``model.pt2`` is the float32 network that takes images in [0, 1], whatever the form of ``model.onnx``.

    Raises:
        BudgetError: no version of that precision keeps the validation accuracy.
        VerificationError: a step changed more than it may; the message names it.
    """
    reading = analysis.measured[candidate.reading].reading
    subject = workspace.subject(reading.trunk)
    subset = subset_of(workspace, data, reading, candidate.n_neurons)
    probe = fit_probe(data, reading.trunk, subset, (candidate.strength,))
    with workspace.progress.stage(f"cutting {reading} to {candidate.n_neurons:,} neurons"):
        trunk = slice_graph(subject.captured, kept_outputs(subset, subject), round_to=workspace.request.round_to)
        sliced = Probed(trunk, *_tensors(probe)).eval()
        exported, stages = _export(workspace, reading, subset, sliced, folder, order)
    spare = candidate.val.accuracy - order.budget.floor(analysis.full.val)
    transformer = Transformer(workspace, subject.backbone.preprocessing, order.form, spare)
    made = transformer.run(exported)
    copyfile(made.last.path, folder.model)
    if order.form.probabilities:
        add_probabilities(folder.model)
    built = Built(
        reading=reading,
        n_per_tap={tap: len(neurons) for tap, neurons in subset.items()},
        candidate=replace(candidate, precision=order.form.precision),
        form=order.form,
        stages=(*stages, *made.stages),
        val=transformer.score(made.last.logits),
        in_float=made.in_float,
        agreement=made.agreement,
        n_bytes=folder.model.stat().st_size,
        gradient_norm=probe.gradient_norm,
    )
    return Shippable(built=built, folder=folder, exported=made.exported, pillow=made.pillow)


def _export(
    workspace: Workspace, reading: Reading, subset: Subset, sliced: Probed, folder: RunFolder, order: Order
) -> tuple[Path, tuple[Stage, ...]]:
    """Write a cut network in float32, as ONNX and for PyTorch, and its labels; the ONNX file, and what was checked."""
    subject, classes = workspace.subject(reading.trunk), workspace.source.classes
    exported = folder.path / "exported.onnx"
    images = parity_images(workspace, subject)
    cut = _check_slicing(sliced, subject, subset, images)
    program = export_program(sliced, subject.example)
    recipe = describe_preprocessing(subject.backbone.preprocessing, order.form) | {
        "prune_tool.classes": json.dumps(classes),
        "prune_tool.cut": str(reading),
        "prune_tool.neurons": json.dumps({tap: neurons.tolist() for tap, neurons in subset.items()}),
        **order.metadata,
    }
    write_onnx(program, exported, metadata=recipe)
    parity = check_parity(exported, _reference(sliced), images, stage="export")
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine, and the file is shared
    with replacing(folder.program) as partial:
        torch.export.save(program, partial)
    write_json(folder.labels, classes)
    return exported, (cut, parity)


@dataclass(frozen=True, slots=True, kw_only=True)
class FullInt8:
    """The full backbone as int8: what quantising without cutting gives.

    Attributes:
        stage: against the float32 file, on the validation images; it has no gate.
        test: score on the test images. It is reported; nothing is claimed of it.
    """

    stage: Stage
    test: Score


def build_full(workspace: Workspace, folder: RunFolder, probe: LogisticProbe) -> Stage:
    """Write ``full.onnx``: the backbone as it came, with its probe."""
    subject = workspace.native
    head = {len(subject.taps) - 1: None}
    with workspace.progress.stage("writing the full backbone"):
        full = Probed(slice_graph(subject.captured, head), *_tensors(probe)).eval()
        images = parity_images(workspace, subject)
        _check_slicing(full, subject, {HEAD: np.arange(subject.taps[-1].width)}, images)
        metadata = describe_preprocessing(subject.backbone.preprocessing, Form())
        write_onnx(export_program(full, subject.example), folder.full, metadata=metadata)
        return check_parity(folder.full, _reference(full), images, stage="full backbone")


def quantise_full(workspace: Workspace, folder: RunFolder) -> Transformed:
    """Write ``full-int8.onnx`` beside ``full.onnx``, everything but the probe quantised, whatever its accuracy.

    Raises:
        VerificationError: it does not say the same at every batch size and without optimisations.
    """
    form, preprocessing = Form(precision="int8"), workspace.native.backbone.preprocessing
    transformer = Transformer(workspace, preprocessing, form, spare=math.inf)
    made = transformer.run(folder.full)
    copyfile(made.last.path, folder.full_int8)
    return made


def parity_images(workspace: Workspace, subject: Subject) -> NDArray[np.float32]:
    """A few validation images, (n, 3, h, w) in [0, 1]."""
    rows = workspace.splits.val[:N_PARITY_IMAGES]
    return np.concatenate(list(images_of(workspace.source, rows, subject.backbone.preprocessing)))


def describe_preprocessing(preprocessing: Preprocessing, form: Form) -> dict[str, str]:
    """What a file takes and what a caller must do to an image before, for the file's metadata."""
    side = preprocessing.input_size
    takes = {
        "normalize": f"images: float32 (batch, 3, {side}, {side}), RGB in [0, 1]; normalisation is inside",
        "none": f"images: float32 (batch, 3, {side}, {side}), RGB in [0, 1] less mean, over std",
        "graph": "images: uint8 (batch, height, width, 3), RGB of any size; resizing, cropping and normalisation are "
        "inside",
    }
    recipe = asdict(preprocessing)
    return {
        "prune_tool.input": takes[form.preprocess],
        "prune_tool.preprocess": form.preprocess,
        "prune_tool.precision": form.precision,
        "prune_tool.preprocessing": json.dumps(recipe),
    }


def _tensors(probe: LogisticProbe) -> tuple[Tensor, Tensor]:
    return torch.tensor(probe.weight, dtype=torch.float32), torch.tensor(probe.bias, dtype=torch.float32)


def _reference(module: nn.Module) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
        return logits

    return run


def _check_slicing(sliced: Probed, subject: Subject, subset: Subset, images: NDArray[np.float32]) -> Stage:
    """The sliced network against the full one restricted to the same neurons."""
    batch = torch.from_numpy(images)
    names = [tap.name for tap in subject.taps]
    with torch.inference_mode():
        outputs = dict(zip(names, subject.captured(batch), strict=True))
        kept = torch.cat([outputs[tap][:, torch.from_numpy(neurons)] for tap, neurons in subset.items()], dim=1)
        expected, found = sliced.probe(kept), sliced(batch)
    return compare("slice", expected.numpy(), found.numpy())
