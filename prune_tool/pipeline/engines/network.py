"""A backbone with all its taps in a form that a runtime loads: pixels in, neurons out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from prune_tool.deploy.onnx_file import write_onnx
from prune_tool.pipeline.subject import Subject
from prune_tool.pipeline.workspace import Workspace
from prune_tool.store.fingerprint import fingerprint
from prune_tool.surgery.capture import export_program
from prune_tool.task.backbone import Preprocessing

RuntimeName = Literal["onnxruntime", "pytorch"]
Form = Path | bytes | ExportedProgram
"""For ONNX Runtime a file or its bytes; for PyTorch a program or what ``torch.export.save`` made of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What a runner opens.

    Attributes:
        label: what to call it in an error.
        taps: names of the outputs, in order.
        preprocessing: how its pixels are made.
        runtime: what runs it.
        form: the graph and its weights.
    """

    label: str
    taps: tuple[str, ...]
    preprocessing: Preprocessing
    runtime: RuntimeName
    form: Form


class FromPixels(nn.Module):
    """A captured backbone that takes (b, h, w, 3) uint8.

    Bytes are a quarter of floats to move, and their order is the one that channels-last convolutions read.
    """

    def __init__(self, captured: nn.Module) -> None:
        super().__init__()
        self.captured = captured

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Neurons of every tap."""
        neurons: tuple[Tensor, ...] = self.captured(pixels.permute(0, 3, 1, 2).to(torch.float32) / 255)
        return neurons


def network_of(workspace: Workspace, subject: Subject, runtime: RuntimeName) -> Network:
    """A subject for a runtime: captured once in a workspace, compiled to ONNX once in a cache."""
    return Network(
        label=f"{subject.backbone.source} at {subject.trunk}",
        taps=tuple(tap.name for tap in subject.taps),
        preprocessing=subject.backbone.preprocessing,
        runtime=runtime,
        form=_program(workspace, subject) if runtime == "pytorch" else _onnx_file(workspace, subject),
    )


def portable(network: Network) -> Network:
    """The same for a process that shares neither memory nor files with this one."""
    if isinstance(network.form, Path):
        return replace(network, form=network.form.read_bytes())
    if isinstance(network.form, ExportedProgram):
        buffer = BytesIO()
        torch.export.save(network.form, buffer)
        return replace(network, form=buffer.getvalue())
    return network


def graph_key(subject: Subject) -> str:
    """Changes when the graph of pixels to neurons would."""
    return fingerprint("pixels to neurons", subject.fingerprint)


def _program(workspace: Workspace, subject: Subject) -> ExportedProgram:
    size = subject.input_size
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    return workspace.once(
        f"program {graph_key(subject)}", lambda: export_program(FromPixels(subject.captured), example)
    )


def _onnx_file(workspace: Workspace, subject: Subject) -> Path:
    names = tuple(tap.name for tap in subject.taps)

    def write(path: Path) -> None:
        with workspace.progress.stage(f"compiling the backbone at {subject.trunk}"):
            write_onnx(_program(workspace, subject), path, metadata={}, input_name="pixels", output_names=names)

    return workspace.cache.graph(graph_key(subject)).ensure(write, subject.about)
