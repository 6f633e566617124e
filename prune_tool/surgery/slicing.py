"""The rewrite: from plans to a network in which what nobody reads does not exist.

Promises of ``slice_graph``, for every input:

1. the result equals the captured network's outputs restricted to the kept indices, joined on the last axis, to float
   rounding (the same products and sums are formed; only their order may differ);
2. it holds the parameters that are read and no others, cut to the rows that are read;
3. it contains no call whose result nobody reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn, ops

from prune_tool.surgery.analysis import Analysis, Part, analyse
from prune_tool.surgery.capture import image_input
from prune_tool.surgery.demand import Demand, Indices, is_range
from prune_tool.surgery.site import attribute

aten = ops.aten


def slice_graph(captured: fx.GraphModule, kept: Mapping[int, Indices | None], *, round_to: int = 1) -> fx.GraphModule:
    """Truncate a captured network to the kept neurons of its outputs.

    Args:
        captured: from ``capture``; not changed.
        kept: output number -> ascending indices kept on its last axis (``None``: all); at least one output.
        round_to: see ``analyse``.

    Returns:
        A module that returns one tensor: the kept parts, in output order, concatenated on the last axis. Weights are
        parameters that can be trained further; running statistics are buffers, and frozen.

    Raises:
        ValueError: kept indices are not ascending, out of range or none at all.
    """
    rewriter = Rewriter(captured, analyse(captured.graph, kept, round_to=round_to))
    values = rewriter.run()
    joined = values[0] if len(values) == 1 else rewriter.graph.call_function(aten.cat.default, (values, -1))
    return rewriter.module(joined)


class Rewriter:
    """Builds the network that an analysis describes.

    Attributes:
        graph: the new graph; complete but for its output after ``run``.
    """

    def __init__(self, captured: fx.GraphModule, analysis: Analysis) -> None:
        self.captured = captured
        self.analysis = analysis
        self.graph = fx.Graph()
        self.tensors: dict[str, torch.Tensor] = {}
        self.new: dict[Part, fx.Node] = {}
        self.gathers: dict[tuple[fx.Node, int, bytes], fx.Node] = {}

    def run(self) -> list[fx.Node]:
        """Build everything; the values of the outputs that are kept, in order."""
        images = self.graph.placeholder(image_input(self.captured.graph).name)
        for part in self.analysis.parts:
            if part.node.op == "placeholder":
                self.new[part] = images
            else:
                self.new[part] = self.weight(part) if part.node.op == "get_attr" else self.call(part)
        return [self.read(part, need) for part, need in self.analysis.outputs.values()]

    def module(self, output: fx.Node | tuple[fx.Node, ...]) -> fx.GraphModule:
        """The network that returns ``output``, in eval mode."""
        self.graph.output(output)
        return fx.GraphModule(self.tensors, self.graph).eval()

    def call(self, part: Part) -> fx.Node:
        """The call of ``part`` on what it reads."""
        plan = part.plan
        args = self.arguments(part)
        if plan.target is not None:
            kwargs = dict(part.node.kwargs)
            return self.graph.create_node("call_function", plan.target, tuple(args), kwargs, self.name(part))
        return self.read(part.sources[0,], plan.needs[0,])

    def arguments(self, part: Part) -> list[Any]:
        """Positional arguments of the new call, what ``part`` reads in its slots."""
        plan = part.plan
        args = [list(arg) if isinstance(arg, list | tuple) else arg for arg in plan.args]
        for slot, source in part.sources.items():
            value = self.read(source, plan.needs[slot])
            if len(slot) == 1:
                args[slot[0]] = value
            else:
                args[slot[0]][slot[1]] = value
        return args

    def read(self, source: Part, need: Demand) -> fx.Node:
        """The new value of ``source`` restricted to ``need``, gathered where it carries more."""
        value = self.new[source]
        for axis, positions in enumerate(need.within(source.plan.carries)):
            if positions is not None:
                value = self.gather(value, axis, positions)
        return value

    def gather(self, value: fx.Node, axis: int, positions: Indices) -> fx.Node:
        """``value`` at ``positions`` of ``axis``; the same gather is made once."""
        key = (value, axis, positions.tobytes())
        if key not in self.gathers:
            if is_range(positions):
                args = (value, axis, int(positions[0]), int(positions[-1]) + 1, 1)
                self.gathers[key] = self.graph.call_function(aten.slice.Tensor, args)
            else:
                index = self.store(f"kept_{len(self.gathers)}", torch.from_numpy(positions.copy()))
                self.gathers[key] = self.graph.call_function(aten.index_select.default, (value, axis, index))
        return self.gathers[key]

    def weight(self, part: Part) -> fx.Node:
        """The parameter, buffer or constant of ``part``, cut to what is read of it."""
        tensor = attribute(self.captured, str(part.node.target))
        cut = self.arranged(part.node, tensor.detach())
        for axis, kept in enumerate(part.plan.carries.axes):
            if kept is not None:
                cut = cut.index_select(axis, torch.from_numpy(kept).to(cut.device))
        if part.plan.carries.is_everything:  # nothing was selected, so this is still the captured network's memory
            cut = cut.clone(memory_format=torch.contiguous_format)
        return self.store(self.path(str(part.node.target)), nn.Parameter(cut) if _trains(tensor) else cut)

    def arranged(self, _node: fx.Node, tensor: torch.Tensor) -> torch.Tensor:
        """What is cut from, instead of the ``tensor`` that the captured network holds for a ``get_attr`` node."""
        return tensor

    def name(self, _part: Part) -> str | None:
        """What the new call is named; ``None`` leaves it to the graph."""
        return None

    def path(self, name: str) -> str:
        """Where the new network holds what the captured one holds under ``name``."""
        return name.replace(".", "_")

    def store(self, name: str, tensor: torch.Tensor) -> fx.Node:
        """Hold ``tensor`` under ``name``, or a like name that is free."""
        while name in self.tensors:
            name += "_"
        self.tensors[name] = tensor
        return self.graph.get_attr(name)


def _trains(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
