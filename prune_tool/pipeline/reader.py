"""Whoever reads a hidden group: a layer, or a product of queries and keys."""

from __future__ import annotations

from typing import TypeAlias

from torch import fx

from prune_tool.pipeline.consumer import Consumer
from prune_tool.pipeline.product import Dimensions, Product
from prune_tool.surgery.groups import HiddenGroup

Reader: TypeAlias = Consumer | Product
"""Has a ``group``, a ``node``, ``inputs``, outputs on an ``output_axis`` and a ``call`` with less of its inputs."""

Input: TypeAlias = Consumer | Dimensions
"""One value that is read (a layer is its own): rows of a ``width`` at ``n_places`` of each image."""


def reader_of(captured: fx.GraphModule, group: HiddenGroup) -> Reader:
    """The reader of a group of a captured network."""
    return Product(captured, group) if group.kind == "scores" else Consumer(captured, group)
