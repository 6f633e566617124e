"""What an ONNX file says of itself, read without running it; whatever is wrong with it is one message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from prune_tool.deploy.seal import PREFIX, as_text, metadata_of, opsets, require_sound
from prune_tool.errors import RunError
from prune_tool.store.fingerprint import file_fingerprint

GIVE_ANOTHER = "Give the path of an ONNX file, such as the model.onnx of a run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output. ``shape`` has a number, a name or None (open) for each axis; it is None for no tensor."""

    name: str
    type: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """An ONNX file.

    Attributes:
        path: where it lies.
        n_bytes: its size.
        sha256: of its bytes.
        sealed: this tool wrote it, and the checksums that it carries of itself hold.
        metadata: what this tool wrote into ``metadata_props``, the names without ``prune_tool.``.
        other_metadata: the rest of them.
        producer: name and version of the program that made the graph; empty where it does not say.
        opsets: version by domain; ONNX's own domain is ``""``.
        inputs, outputs: in the file's order; an initialiser is no input.
        operators: how many nodes of each kind, those of subgraphs and functions included, most frequent first.
        n_weights: numbers in its initialisers.
    """

    path: Path
    n_bytes: int
    sha256: str
    sealed: bool
    metadata: dict[str, str]
    other_metadata: dict[str, str]
    producer: str
    opsets: dict[str, int]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: dict[str, int]
    n_weights: int

    @property
    def n_operators(self) -> int:
        """Nodes in all."""
        return sum(self.operators.values())


def describe_file(path: Path) -> Description:
    """Read and check an ONNX file.

    Raises:
        RunError: it is missing, truncated, damaged, no ONNX file, or of an opset that is not known here.
    """
    model = read_model(path)
    sealed = require_sound(model, str(path))
    _require_known_opset(model, path)
    _require_valid(path)
    metadata = metadata_of(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    return Description(
        path=path,
        n_bytes=path.stat().st_size,
        sha256=file_fingerprint(path),
        sealed=sealed,
        metadata={name.removeprefix(PREFIX): value for name, value in metadata.items() if name.startswith(PREFIX)},
        other_metadata={name: value for name, value in metadata.items() if not name.startswith(PREFIX)},
        producer=f"{as_text(model.producer_name)} {as_text(model.producer_version)}".strip(),
        opsets=opsets(model),
        inputs=tuple(_port(entry) for entry in model.graph.input if entry.name not in weights),
        outputs=tuple(map(_port, model.graph.output)),
        operators=dict(_count(model).most_common()),
        n_weights=sum(prod(tensor.dims) for tensor in model.graph.initializer),
    )


def read_model(path: Path) -> onnx.ModelProto:
    """The file's protobuf, weights that lie outside it not read. Raises ``RunError`` where there is none."""
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        missing = isinstance(error, OSError)
        found = str(error.strerror or error) if missing else "no ONNX file, or only a part of one"
        raise RunError(asked=f"read {path}", found=found, remedy=GIVE_ANOTHER) from error
    if not model.HasField("graph"):
        raise RunError(asked=f"read {path}", found="no ONNX file: there is no graph in it", remedy=GIVE_ANOTHER)
    return model


def read_metadata(path: Path) -> dict[str, str]:
    """All entries of ``metadata_props``, unchecked. Raises ``RunError`` if the file is missing or no ONNX file."""
    return metadata_of(read_model(path))


def _require_known_opset(model: onnx.ModelProto, path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    version = opsets(model).get("", 0)
    if version > newest:
        raise RunError(
            asked=f"read {path}",
            found=f"its opset is {version}, and onnx {onnx.__version__} here knows those up to {newest}",
            remedy="Update onnx and onnxruntime, or have the file written for an older opset",
        )


def _require_valid(path: Path) -> None:
    try:
        onnx.checker.check_model(path)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(
            asked=f"read {path}", found=f"it is not valid ONNX: {first.rstrip('.')}", remedy=GIVE_ANOTHER
        ) from error


def _port(entry: onnx.ValueInfoProto) -> Port:
    kind = entry.type.WhichOneof("value") or "unknown"
    if kind != "tensor_type":
        return Port(name=as_text(entry.name), type=kind.removesuffix("_type"), shape=None)
    tensor = entry.type.tensor_type
    shape = (
        axis.dim_value if axis.HasField("dim_value") else as_text(axis.dim_param) or None for axis in tensor.shape.dim
    )
    return Port(
        name=as_text(entry.name),
        type=onnx.TensorProto.DataType.Name(tensor.elem_type).lower(),
        shape=tuple(shape),
    )


def _count(model: onnx.ModelProto) -> Counter[str]:
    counts: Counter[str] = Counter()
    todo: list[Iterable[onnx.NodeProto]] = [model.graph.node, *(function.node for function in model.functions)]
    while todo:
        for node in todo.pop():
            counts[f"{as_text(node.domain)}.{as_text(node.op_type)}".removeprefix(".")] += 1
            for attribute in node.attribute:
                todo += [graph.node for graph in [attribute.g, *attribute.graphs] if graph.node]
    return counts
