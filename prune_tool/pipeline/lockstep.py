"""Run a captured network and its narrowed twin side by side over all calibration images, layer by layer.

Both start as one. Where a layer is narrowed, its twin reads fewer of its inputs with other weights, and from there on
the two have values of their own; until then they share them, computed once. So the moments behind every narrowed layer
are gathered in two forward passes in all, however many layers are narrowed.

Between layers only values that are still to be read are held, for all images; within a stretch of the graph, one
batch's at a time. ``bytes_per_image`` says how much that is at most.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx

from prune_tool.pipeline.reader import Reader
from prune_tool.surgery.capture import outputs_of
from prune_tool.surgery.narrowing import Cut
from prune_tool.surgery.site import is_tensor, shape_of


@dataclass(frozen=True, slots=True)
class Twin:
    """One value in both networks: the same object where they do not differ."""

    original: Any
    narrowed: Any

    @property
    def differs(self) -> bool:
        """Whether the networks have parted before this value."""
        return self.original is not self.narrowed


Values = dict[fx.Node, Twin]


class Lockstep:
    """A walk over ``captured`` that stops where it is told, for all batches at once.

    Args:
        captured: from ``capture``; not changed.
        batches: (b, 3, h, w) float32 images in [0, 1] each, on the device of the captured network.
    """

    def __init__(self, captured: fx.GraphModule, batches: Iterable[Tensor]) -> None:
        self._graph = captured.graph
        self._nodes = list(captured.graph.nodes)
        self._constants = {n: attrgetter(str(n.target))(captured) for n in self._nodes if n.op == "get_attr"}
        self._last_reader = last_readers(self._nodes)
        self._at = 0
        self._narrowed: dict[fx.Node, tuple[Reader, Cut]] = {}
        [images] = [node for node in self._nodes if node.op == "placeholder"]
        self._batches: list[Values] = [{images: Twin(batch, batch)} for batch in batches]

    @torch.inference_mode()
    def before(self, node: fx.Node) -> Iterator[Values]:
        """Go on until ``node`` is next, batch by batch; each batch's live values are handed out on the way.

        Whoever asks reads all batches before asking for another node.
        """
        start, self._at = self._at, self._nodes.index(node)
        for values in self._batches:
            for step in self._nodes[start : self._at]:
                self._run(step, values)
            yield values

    def narrow(self, reader: Reader, cut: Cut) -> None:
        """From now on the twin of ``reader``, which the walk has not passed yet, computes with ``cut``."""
        self._narrowed[reader.node] = (reader, cut)

    def outputs(self) -> Iterator[tuple[Twin, ...]]:
        """Go on to the end: the network's outputs, batch by batch."""
        returned = outputs_of(self._graph)
        for values in self.before(self._nodes[-1]):
            yield tuple(values[node] for node in returned)

    def _run(self, node: fx.Node, values: Values) -> None:
        if node.op != "call_function":
            return
        values[node] = self._called(node, values)
        for source in node.all_input_nodes:
            if self._last_reader[source] is node:
                values.pop(source, None)

    def _called(self, node: fx.Node, values: Values) -> Twin:
        original = self._call(node, values, "original")
        if node in self._narrowed:
            reader, cut = self._narrowed[node]
            return Twin(original, reader.call(self._arguments(node, values, "narrowed"), cut))
        if any(source in values and values[source].differs for source in node.all_input_nodes):
            return Twin(original, self._call(node, values, "narrowed"))
        return Twin(original, original)

    def _call(self, node: fx.Node, values: Values, network: str) -> Any:
        assert callable(node.target)
        return node.target(*self._arguments(node, values, network), **node.kwargs)

    def _arguments(self, node: fx.Node, values: Values, network: str) -> tuple[Any, ...]:
        """Positional ones: canonical calls have no others that are computed."""

        def value(source: fx.Node) -> Any:
            return self._constants[source] if source.op == "get_attr" else getattr(values[source], network)

        return tuple(fx.map_arg(node.args, value))


def last_readers(nodes: Sequence[fx.Node]) -> dict[fx.Node, fx.Node]:
    """For every node that is read, the last one that reads it."""
    return {source: node for node in nodes for source in node.all_input_nodes}


def bytes_per_image(graph: fx.Graph, stops: Collection[fx.Node]) -> int:
    """The most that is held of one image between stretches, when a lockstep walk stops before each of ``stops``.

    Values behind the first stop are counted twice, and views as if they were copies.
    """
    nodes = list(graph.nodes)
    place = {node: i for i, node in enumerate(nodes)}
    ends = {source: place[reader] for source, reader in last_readers(nodes).items()}
    stopped = [place[stop] for stop in stops]
    return max((_held(nodes[:at], ends, at, min(stopped)) for at in stopped), default=0)


def _held(nodes: Sequence[fx.Node], ends: Mapping[fx.Node, int], at: int, first: int) -> int:
    live = [(i, n) for i, n in enumerate(nodes) if n.op != "get_attr" and is_tensor(n) and ends.get(n, -1) >= at]
    return sum(_bytes(node) * (1 if i < first else 2) for i, node in live)


def _bytes(node: fx.Node) -> int:
    n_bytes: int = node.meta["val"].element_size()
    for size in shape_of(node, batch=1):
        n_bytes *= size
    return n_bytes
