"""The rewrite: from plans to a network in which what nobody reads does not exist.

Promises of ``slice_graph``, for every input:

1. the result equals the captured network's outputs restricted to the kept indices, joined on the last axis, to float
   rounding (the same products and sums are formed; only their order may differ);
2. it holds the parameters that are read and no others, cut to the rows that are read;
3. it contains no call whose result nobody reads.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx, nn, ops

from prune_tool.surgery.analysis import Analysis, Part, analyse
from prune_tool.surgery.capture import image_input
from prune_tool.surgery.demand import Demand, Indices, is_range

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
    return _Rewriter(captured, analyse(captured.graph, kept, round_to=round_to)).run()


class _Rewriter:
    def __init__(self, captured: fx.GraphModule, analysis: Analysis) -> None:
        self.captured = captured
        self.analysis = analysis
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.new: dict[Part, fx.Node] = {}
        self.gathers: dict[tuple[fx.Node, int, bytes], fx.Node] = {}

    def run(self) -> fx.GraphModule:
        images = self.graph.placeholder(image_input(self.captured.graph).name)
        for part in self.analysis.parts:
            if part.node.op == "placeholder":
                self.new[part] = images
            else:
                self.new[part] = self.weight(part) if part.node.op == "get_attr" else self.call(part)
        values = [self.read(part, need) for part, need in self.analysis.outputs.values()]
        joined = values[0] if len(values) == 1 else self.graph.call_function(aten.cat.default, (values, -1))
        self.graph.output(joined)
        return fx.GraphModule(self.root, self.graph).eval()

    def call(self, part: Part) -> fx.Node:
        plan = part.plan
        args = [list(arg) if isinstance(arg, list | tuple) else arg for arg in plan.args]
        for slot, source in part.sources.items():
            value = self.read(source, plan.needs[slot])
            if len(slot) == 1:
                args[slot[0]] = value
            else:
                args[slot[0]][slot[1]] = value
        if plan.target is not None:
            return self.graph.call_function(plan.target, tuple(args), dict(part.node.kwargs))
        return self.read(part.sources[0,], plan.needs[0,])

    def read(self, source: Part, need: Demand) -> fx.Node:
        """The new value of ``source`` restricted to ``need``, gathered where it carries more."""
        value = self.new[source]
        for axis, positions in enumerate(need.within(source.plan.carries)):
            if positions is not None:
                value = self.gather(value, axis, positions)
        return value

    def gather(self, value: fx.Node, axis: int, positions: Indices) -> fx.Node:
        key = (value, axis, positions.tobytes())
        if key not in self.gathers:
            if is_range(positions):
                args = (value, axis, int(positions[0]), int(positions[-1]) + 1)
                self.gathers[key] = self.graph.call_function(aten.slice.Tensor, args)
            else:
                index = self.store(f"kept_{len(self.gathers)}", torch.from_numpy(positions.copy()))
                self.gathers[key] = self.graph.call_function(aten.index_select.default, (value, axis, index))
        return self.gathers[key]

    def weight(self, part: Part) -> fx.Node:
        """The parameter, buffer or constant of ``part``, cut to what is read of it."""
        name = str(part.node.target)
        tensor = _attribute(self.captured, name)
        cut = tensor.detach()
        for axis, kept in enumerate(part.plan.carries.axes):
            if kept is not None:
                cut = cut.index_select(axis, torch.from_numpy(kept).to(cut.device))
        if part.plan.carries.is_everything:  # nothing was selected, so this is still the captured network's memory
            cut = cut.clone(memory_format=torch.contiguous_format)
        return self.store(name.replace(".", "_"), nn.Parameter(cut) if _trains(tensor) else cut)

    def store(self, name: str, tensor: torch.Tensor) -> fx.Node:
        while hasattr(self.root, name):
            name += "_"
        if isinstance(tensor, nn.Parameter):
            self.root.register_parameter(name, tensor)
        else:
            self.root.register_buffer(name, tensor)
        return self.graph.get_attr(name)


def _attribute(module: nn.Module, target: str) -> torch.Tensor:
    *path, name = target.split(".")
    value = getattr(module.get_submodule(".".join(path)), name)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{target} is no tensor")
    return value


def _trains(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
