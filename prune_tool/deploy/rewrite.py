"""Written ONNX files that are read, changed and written again, whole and checked or not at all."""

from pathlib import Path

import onnx

from prune_tool.defaults import OPSET
from prune_tool.deploy.seal import metadata_of, seal
from prune_tool.errors import VerificationError
from prune_tool.store.atomic import replacing


def read_model(path: Path) -> onnx.ModelProto:
    """A file that this tool wrote a moment ago."""
    return onnx.load(path)


def write_model(model: onnx.ModelProto, path: Path, *, stage: str) -> int:
    """Check a changed model against ONNX's rules, shapes included, and write it.

    Args:
        model: to write; standard operators at ``OPSET`` alone.
        path: the file to write or replace.
        stage: what changed the model, for the message.

    Returns:
        Size of the file in bytes.

    Raises:
        VerificationError: the model breaks ONNX's rules, or uses operators that are not of the standard.
    """
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    try:
        onnx.checker.check_model(model, full_check=True)
        found = None if opsets == {"ai.onnx": OPSET} else f"it needs the operator sets {opsets}"
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        found = f"the ONNX checker says: {error}"
    if found is not None:
        raise VerificationError(
            asked=f"{stage}: a valid ONNX file of opset {OPSET}",
            found=found,
            remedy="Please report the backbone; the file was not written",
        )
    seal(model, metadata_of(model))
    serialised = model.SerializeToString()
    with replacing(path) as partial:
        partial.write_bytes(serialised)
    return len(serialised)


def drop_unused_domains(model: onnx.ModelProto) -> None:
    """Forget operator sets that no node is of; ONNX Runtime's tools name all that it knows."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def copy_metadata(source: onnx.ModelProto, target: onnx.ModelProto) -> None:
    """Let a changed model say of itself what its source said; what a tool noted there is dropped."""
    onnx.helper.set_model_props(target, {entry.key: entry.value for entry in source.metadata_props})
