"""An ONNX file's description, as a page for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prune_tool.deploy.description import Description, Port

LONGEST = 300
"""Characters of an entry that are shown; ``--json`` has all of it."""

SHOWN_APART = {
    "classes",
    "certificate",
    "graph_sha256",
    "input",
    "metadata_sha256",
    "neurons",
    "opset",
    "preprocess",
    "preprocessing",
}
"""Entries that have a line of their own above the others, or none for people."""


def file_tables(file: Description) -> Sequence[RenderableType]:
    """Bytes, signature, operators, and what the file says of itself."""
    if not file.sealed:
        rows = [*_facts(file), *_plain(file.other_metadata)]
        return [_grid(rows), Text("It carries no prune-tool metadata: no classes, recipe, certificate or checksum.")]
    rest = {name: value for name, value in file.metadata.items() if name not in SHOWN_APART}
    return [_grid([*_facts(file), *_task(file.metadata), *_plain(rest | file.other_metadata)])]


def _facts(file: Description) -> Iterable[tuple[str, str]]:
    yield "file", f"{file.path} ({file.n_bytes / 1e6:,.2f} MB)"
    yield "sha256", file.sha256
    if file.sealed:
        yield "checksums", "graph, weights and metadata are those it was written with"
    for what, ports in (("input", file.inputs), ("output", file.outputs)):
        for port in ports:
            yield what, _signature(port)
    yield "opset", ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in file.opsets.items())
    yield "producer", file.producer or "not stated"
    kinds = ", ".join(f"{n:,} {name}" for name, n in file.operators.items())
    yield "operators", f"{file.n_operators:,}: {kinds}" if kinds else "none"
    yield "weights", f"{file.n_weights:,} numbers"


def _signature(port: Port) -> str:
    shape = "any shape" if port.shape is None else f"({', '.join('?' if s is None else str(s) for s in port.shape)})"
    return f"{port.name}: {port.type} {shape}"


def _task(said: dict[str, str]) -> Iterable[tuple[str, str]]:
    if "certificate" in said:
        certificate: dict[str, Any] = json.loads(said["certificate"])
        yield str(certificate["state"]), certificate["sentence"]
    if "classes" in said:
        names: list[str] = json.loads(said["classes"])
        yield "classes", f"{len(names)}: {', '.join(names)}"
    if "input" in said:
        yield "takes", said["input"]
    if "preprocessing" in said:
        recipe: dict[str, Any] = json.loads(said["preprocessing"])
        yield "recipe", ", ".join(f"{name} {value}" for name, value in recipe.items())
    if "neurons" in said:
        kept: dict[str, list[int]] = json.loads(said["neurons"])
        yield "neurons", ", ".join(f"{len(indices):,} of {tap}" for tap, indices in kept.items())


def _plain(entries: dict[str, str]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), value) for name, value in entries.items()]


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        shown = value if len(value) <= LONGEST else f"{value[:LONGEST]}..."
        table.add_row(Text(name, style="bold"), Text(shown, overflow="fold"))
    return table
