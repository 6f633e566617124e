"""The search for hidden widths: every layer is made to read less, and those stay whose cones are closed.

Which few channels are read tells structure: a grouped convolution keeps an equal number in each of its runs, and
attention keeps the same places in every head, so what fails as free choice is tried in runs, then in aligned runs. In
each run all channels but one are read, then that one alone; where runs need not be aligned, their places have no period
that heads or groups could share. What is found must stay closed with every second one read, too: a concatenation of
which one piece is a width and another is not shows nothing where a piece is read whole or not at all.

A product of queries and keys is tried like a layer whose channels are the dimensions of a head.

Layers that read the same channels and share them with nobody else (squeeze-and-excite reads the expansion that the
projection reads too) can be tried together: what leaks tells who else reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import fx, ops

from prune_tool.surgery.analysis import PRODUCTS, analyse
from prune_tool.surgery.capture import outputs_of
from prune_tool.surgery.cones import Cone, ConeFinder, Leak
from prune_tool.surgery.demand import Indices
from prune_tool.surgery.layers import Layer
from prune_tool.surgery.site import shape_of

BATCHED_PRODUCTS = PRODUCTS | {ops.aten.bmm.default}
"""Products of two values, as attention has them."""

Readers = tuple[Layer, ...]
"""Layers that read the same channels, in graph order; for most widths one."""

MAX_READERS = 4
"""Most layers that are tried together: squeeze-and-excite makes two. What reads a residual stream is no such few."""

_FAR = 32
"""Most calls between a leak and the layers that read there: the gate of squeeze-and-excite has a dozen."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which choices of channels are allowed: as many in each run, in aligned runs the same places.

    Where places are counted from the end of a run, those that are read are never the ones that an aligned layout of the
    same runs reads: keys and values that one layer makes are then told apart by what is read of them.
    """

    n_parts: int
    aligned: bool = False
    from_end: bool = False

    def at(self, width: int, places: Iterable[int]) -> Indices:
        """The channels at ``places`` of every run, moved on within runs that need not be aligned.

        They are moved by the number of ones in the run's binary number (the Thue-Morse sequence, for runs of two).
        """
        run = width // self.n_parts
        moved = np.array([0 if self.aligned else part.bit_count() for part in range(self.n_parts)])
        within = (np.fromiter(places, np.int64)[None, :] + moved[:, None]) % run
        within = run - 1 - within if self.from_end else within
        return np.sort((np.arange(self.n_parts)[:, None] * run + within).ravel())

    def every_second(self, width: int) -> Indices:
        """About half of the channels: the odd places of each run or, from the end, the even ones."""
        run = width // self.n_parts
        return self.at(width, range(int(not self.from_end or run % 2 == 0), run, 2))


def hidden_widths(graph: fx.Graph, layers: Sequence[Layer], *, coupled: bool) -> dict[Readers, Layout]:
    """Who reads a hidden width, in graph order of the last of them, and which choices it allows.

    Args:
        graph: captured.
        layers: those tried, in graph order.
        coupled: whether layers are tried together, too.
    """
    found = _search(graph, [(layer,) for layer in layers], {})
    if coupled:
        left = [layer for layer in layers if (layer,) not in found and layer.node.target not in PRODUCTS]
        found = _search(graph, _joined(graph, left, found), found)
    place = {layer: i for i, layer in enumerate(layers)}
    return dict(sorted(found.items(), key=lambda item: place[item[0][-1]]))


def closed_cones(graph: fx.Graph, read: Mapping[Readers, Indices]) -> dict[Readers, Cone]:
    """The cones that are closed where all ``readers`` read so much."""
    return {readers: cone for readers, cone in _cones(graph, read).items() if isinstance(cone, Cone)}


def _search(graph: fx.Graph, tried: Sequence[Readers], found: Mapping[Readers, Layout]) -> dict[Readers, Layout]:
    """``found`` and those of ``tried`` that are closed with one of their layouts, all of them together."""
    found = dict(found)
    options = {readers: _options(readers, graph) for readers in tried}
    for i in range(max(map(len, options.values()), default=0)):
        now = {readers: those[i] for readers, those in options.items() if readers not in found and i < len(those)}
        closed = _closed(graph, found | now)
        found |= {
            readers: it for readers, it in now.items() if readers in closed and _can_be_sorted(closed[readers], it)
        }
    while (closed := closed_cones(graph, halves(_closed(graph, found), found))).keys() != found.keys():
        found = {readers: found[readers] for readers in closed}
    return found


def halves(of: Iterable[Readers], found: Mapping[Readers, Layout]) -> dict[Readers, Indices]:
    """Every second channel ``of`` those, in the layouts ``found``."""
    return {readers: found[readers].every_second(readers[-1].width) for readers in of}


def _options(readers: Readers, graph: fx.Graph) -> Sequence[Layout]:
    """Layouts worth trying, the freest first."""
    if readers[-1].node.target in PRODUCTS:
        return [Layout(1, from_end=True)] if readers[-1].width > 1 else []
    width, own = readers[-1].width, math.lcm(*(layer.groups for layer in readers))
    free = [Layout(n) for n in sorted({math.lcm(own, n) for n in (1, *_group_counts(graph))})]
    aligned = [Layout(n, aligned=True) for n in sorted(_head_counts(graph)) if own == 1]
    return [option for option in (*free, *aligned) if width % option.n_parts == 0 and option.n_parts < width]


def _group_counts(graph: fx.Graph) -> set[int]:
    """Groups of convolutions that have several channels in each."""
    convolutions = [node for node in graph.nodes if str(node.target).startswith("aten.conv")]
    return {node.args[6] for node in convolutions if node.args[6] < shape_of(node)[1]}


def _head_counts(graph: fx.Graph) -> set[int]:
    """Sizes of the axis before the matrices of batched products."""
    shapes = [shape_of(node) for node in graph.nodes if node.target in BATCHED_PRODUCTS]
    return {shape[-3] for shape in shapes if len(shape) > 3} - {1}


def _closed(graph: fx.Graph, tried: Mapping[Readers, Layout]) -> dict[Readers, Cone]:
    """Those whose cones are closed whether all channels but one of every run are read or that one alone.

    In this order: most leaks show already in the first, and there reading less disturbs no other layer's cone.
    """
    cones: dict[Readers, Cone] = {}
    for but_one in (True, False):
        one = _but_one if but_one else _one
        cones = closed_cones(graph, {readers: one(readers, layout) for readers, layout in tried.items()})
        tried = {readers: tried[readers] for readers in cones}
    return cones


def _one(readers: Readers, layout: Layout) -> Indices:
    return layout.at(readers[-1].width, [0])


def _but_one(readers: Readers, layout: Layout) -> Indices:
    width = readers[-1].width
    return layout.at(width, range(1, width // layout.n_parts))


def _cones(graph: fx.Graph, read: Mapping[Readers, Indices]) -> dict[Readers, Cone | Leak]:
    cuts = {layer.node: kept for readers, kept in read.items() for layer in readers}
    finder = ConeFinder(analyse(graph, dict.fromkeys(range(len(outputs_of(graph)))), cuts=cuts), cuts)
    return {readers: finder.find([layer.node for layer in readers]) for readers in read}


def _can_be_sorted(cone: Cone, layout: Layout) -> bool:
    """Whether the neurons of every run can change places, which only aligned runs need."""
    return not layout.aligned or cone.makers(layout.n_parts) is not None


def _joined(graph: fx.Graph, layers: Sequence[Layer], found: Mapping[Readers, Layout]) -> list[Readers]:
    """Layers of one width that share their channels with nobody else, as far as leaks tell."""
    by_node = {layer.node: layer for layer in layers}
    tried: list[Readers] = [(layer,) for layer in layers if layer.width > 1]
    for _ in range(MAX_READERS):
        layouts = dict(found) | {readers: _options(readers, graph)[0] for readers in tried}
        cones = _cones(graph, {readers: _but_one(readers, layout) for readers, layout in layouts.items()})
        grown = [_with_readers(readers, cones[readers], by_node) for readers in tried]
        merged = [readers for readers in _merged(grown, layers) if _fit(readers)]
        if merged == tried:
            break
        tried = merged
    return [readers for readers in tried if len(readers) > 1]


def _with_readers(readers: Readers, cone: Cone | Leak, by_node: Mapping[fx.Node, Layer]) -> set[Layer]:
    """``readers`` and who else reads where they leak; nobody where that is no layer."""
    if isinstance(cone, Cone) or cone.readers is None:
        return set(readers) if len(readers) > 1 else set()
    waiting, seen, found = list(cone.readers), set(cone.readers), set(readers)
    while waiting:
        node = waiting.pop()
        if node in by_node:
            found.add(by_node[node])
        elif node.op == "output" or len(seen) > _FAR:
            return set()
        else:
            waiting += node.users.keys() - seen
            seen |= node.users.keys()
    return found


def _merged(sets: Iterable[set[Layer]], layers: Sequence[Layer]) -> list[Readers]:
    """Sets that have members in common as one, each in graph order."""
    apart: list[set[Layer]] = []
    for one in sets:
        touching = [other for other in apart if other & one]
        apart = [other for other in apart if not other & one] + [one.union(*touching)]
    return [tuple(layer for layer in layers if layer in one) for one in apart if one]


def _fit(readers: Readers) -> bool:
    return len(readers) <= MAX_READERS and len({layer.width for layer in readers}) == 1
