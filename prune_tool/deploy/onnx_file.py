"""The file that ships: one ONNX file, readable in Netron, with a batch axis of any size and its own metadata."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import torch
from google.protobuf.message import Message  # type: ignore[import-untyped]

from prune_tool.defaults import OPSET
from prune_tool.deploy.attention import over_four_axes
from prune_tool.deploy.description import read_model
from prune_tool.deploy.seal import metadata_of, seal
from prune_tool.errors import ModelError, RunError, VerificationError
from prune_tool.store.atomic import replacing

BATCH_AXIS = "batch"
"""Name of the batch axis in the file."""

PROBABILITIES = "probabilities"
"""Name of the output that ``add_probabilities`` adds."""

MAX_BYTES = 2**31 - 1
"""Largest protobuf message, hence largest ONNX file that carries its own weights."""

NOISE = frozenset({"doc_string", "metadata_props"})
"""Fields in which the exporter leaves stack traces and class hierarchies: some hundred kilobytes that nobody reads."""


def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    *,
    metadata: Mapping[str, str],
    input_name: str = "images",
    output_names: Sequence[str] = ("logits",),
) -> int:
    """Write a captured program as one self-contained ONNX file, all at once or not at all.

    Args:
        program: captured with a dynamic batch, ``dynamic_shapes=({0: Dim("batch")},)``; one input.
        path: the file to write or replace.
        metadata: what the file says about itself; its opset and checksums are added (see ``seal``).
        input_name: name of the one input.
        output_names: names of the outputs, in the program's order.

    Returns:
        Size of the file in bytes.

    Raises:
        ModelError: the weights do not fit in one file, or ONNX has no word for what the network does.
        VerificationError: the batch axis has a fixed size, or the model breaks ONNX's rules.
    """
    n_bytes = sum(tensor.nbytes for tensor in program.state_dict.values())
    if n_bytes > MAX_BYTES:
        raise ModelError(
            asked=f"write {path} as one file",
            found=f"the weights alone take {n_bytes:,} bytes and an ONNX file holds at most {MAX_BYTES:,}",
            remedy="Use a smaller backbone or a stronger cut",
        )
    over_four_axes(program)
    try:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=list(output_names),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ModelError(
            asked=f"write {path} as ONNX",
            found=f"torch.onnx could not: {_reason(error)}",
            remedy="docs/support.md names families that work; please report this one",
        ) from error
    assert exported is not None
    model = exported.model_proto
    _tidy(model, batch_symbol=_batch_symbol(model, path))
    _check(model, path)
    return _save(model, path, metadata)


def update_metadata(path: Path, extra: Mapping[str, str]) -> int:
    """Add entries to a file's metadata, or replace them, and renew its checksums; graph and weights stay as they are.

    Returns:
        Size of the file in bytes.

    Raises:
        RunError: the file is missing or no ONNX file.
    """
    model = read_model(path)
    return _save(model, path, metadata_of(model) | dict(extra))


def add_probabilities(path: Path, *, of: str = "logits") -> None:
    """Give a file a second output, ``probabilities``: the softmax of its output ``of``, (batch, classes).

    Raises:
        RunError: the file is missing, no ONNX file, or has no such output.
        VerificationError: the result breaks ONNX's rules.
    """
    model = read_model(path)
    logits = next((output for output in model.graph.output if output.name == of), None)
    if logits is None:
        raise RunError(
            asked=f"add {PROBABILITIES} to {path}",
            found=f"its outputs are {', '.join(output.name for output in model.graph.output)}",
            remedy=f"Give a file with an output {of}",
        )
    model.graph.node.append(onnx.helper.make_node("Softmax", [of], [PROBABILITIES], PROBABILITIES, axis=-1))
    model.graph.output.add(name=PROBABILITIES).type.CopyFrom(logits.type)
    _check(model, path)
    _save(model, path, metadata_of(model))


def _save(model: onnx.ModelProto, path: Path, metadata: Mapping[str, str]) -> int:
    """Seal the model with its metadata and write it whole or not at all; returns its size in bytes."""
    seal(model, metadata)
    serialised = model.SerializeToString()
    with replacing(path) as temporary:
        temporary.write_bytes(serialised)
    return len(serialised)


def _reason(error: BaseException) -> str:
    """What began it, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _batch_symbol(model: onnx.ModelProto, path: Path) -> str:
    """The exporter's own name of the input's first axis; an axis of fixed size is an error."""
    axis = model.graph.input[0].type.tensor_type.shape.dim[0]
    if not axis.dim_param:
        raise VerificationError(
            asked=f"write {path} with a batch axis of any size",
            found=f"the program was captured for batches of {axis.dim_value}",
            remedy='Capture it with dynamic_shapes=({0: torch.export.Dim("batch")},)',
        )
    return str(axis.dim_param)


def _tidy(message: Message, *, batch_symbol: str) -> None:
    """Drop ``NOISE`` and name the batch axis, here and in everything below (subgraphs, functions, expressions)."""
    for field, value in message.ListFields():
        if field.name in NOISE:
            message.ClearField(field.name)
        elif field.name == "dim_param":
            message.dim_param = re.sub(rf"\b{re.escape(batch_symbol)}\b", BATCH_AXIS, value)
        elif field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                _tidy(part, batch_symbol=batch_symbol)


def _check(model: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(
            asked=f"write {path} as a valid ONNX file",
            found=f"the ONNX checker says: {error}",
            remedy="Please report the backbone; the file was not written",
        ) from error
