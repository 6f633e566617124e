"""Checksums that a file carries of itself, so that a bit that flipped on the way is known before the file is used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import onnx

from prune_tool.errors import RunError
from prune_tool.store.fingerprint import fingerprint

PREFIX = "prune_tool."
"""How the names of the entries begin that this tool writes into ``metadata_props``."""

OPSET = f"{PREFIX}opset"
GRAPH_SHA256 = f"{PREFIX}graph_sha256"
METADATA_SHA256 = f"{PREFIX}metadata_sha256"


def seal(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Replace the model's metadata, and add its opset and two checksums.

    ``graph_sha256`` is the SHA-256 of the serialised model without ``metadata_props``: graph, weights and opset.
    ``metadata_sha256`` is the fingerprint of all other entries, that checksum included.
    """
    entries = dict(metadata)
    entries[OPSET] = str(opsets(model).get("", 0))
    entries[GRAPH_SHA256] = graph_sha256(model)
    entries[METADATA_SHA256] = _metadata_sha256(entries)
    onnx.helper.set_model_props(model, entries)


def require_sound(model: onnx.ModelProto, named: str) -> bool:
    """Whether the model carries this tool's checksums, which then hold; False for a file that others wrote.

    Raises:
        RunError: they do not hold, or are missing from a file that this tool wrote.
    """
    entries = metadata_of(model)
    if not any(name.startswith(PREFIX) for name in entries):
        return False
    if GRAPH_SHA256 not in entries or METADATA_SHA256 not in entries:
        raise _damaged(named, "its checksums are missing")
    if entries[METADATA_SHA256] != _metadata_sha256(entries):
        raise _damaged(named, "its metadata are not those it was written with")
    if entries[GRAPH_SHA256] != graph_sha256(model):
        raise _damaged(named, "its graph or weights are not those it was written with")
    return True


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """All entries of ``metadata_props``."""
    return {as_text(entry.key): as_text(entry.value) for entry in model.metadata_props}


def as_text(field: str | bytes) -> str:
    """A string field of a model. Protobuf gives its bytes where they are no UTF-8, as after a bit has flipped."""
    return field if isinstance(field, str) else field.decode("utf-8", "replace")


def opsets(model: onnx.ModelProto) -> dict[str, int]:
    """Version of each operator set by domain; ONNX's own is ``""``."""
    return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}


def graph_sha256(model: onnx.ModelProto) -> str:
    """SHA-256 of the serialised model without ``metadata_props``, as 64 hexadecimal digits."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    bare.ClearField("metadata_props")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _metadata_sha256(entries: Mapping[str, str]) -> str:
    return fingerprint({name: value for name, value in entries.items() if name != METADATA_SHA256})


def _damaged(named: str, found: str) -> RunError:
    return RunError(
        asked=f"read {named}",
        found=f"the file is damaged or was changed by another program: {found}",
        remedy="Copy it again from where it is sound, or run `prune-tool export` again",
    )
