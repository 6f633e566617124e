"""The rewrite: from plans to a network in which what nobody reads does not exist.

Promises of ``slice_graph``, for every input:

1. the result equals the captured network's outputs restricted to the kept indices, joined on the last axis, to float
   rounding (the same products and sums are formed; only their order may differ);
2. it holds the parameters that are read and no others, cut to the rows that are read;
3. it contains no call whose result nobody reads.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import fx, nn, ops

from prune_tool.surgery.analysis import Analysis, analyse
from prune_tool.surgery.capture import outputs_of
from prune_tool.surgery.demand import Demand, Indices, is_range
from prune_tool.surgery.site import Plan, inputs_of, shape_of

aten = ops.aten


def slice_graph(
    captured: fx.GraphModule, kept: Mapping[int, Indices | None], *, round_to: int = 1
) -> fx.GraphModule:
    """Truncate a captured network to the kept neurons of its outputs.

    Args:
        captured: from ``capture``; not changed.
        kept: output number -> ascending indices kept on its last axis (``None``: all); at least one output.
        round_to: see ``analyse``.

    Returns:
        A module that returns one tensor: the kept parts, in output order, concatenated on the last axis. Weights are
        parameters that can be trained further; running statistics are buffers.
    """
    return _Rewriter(captured, analyse(captured.graph, kept, round_to=round_to)).run()


class _Rewriter:
    def __init__(self, captured: fx.GraphModule, analysis: Analysis) -> None:
        self.captured = captured
        self.analysis = analysis
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.new: dict[fx.Node, fx.Node] = {}
        self.gathers: dict[tuple[fx.Node, int, bytes], fx.Node] = {}

    def run(self) -> fx.GraphModule:
        for node in self.analysis.graph.nodes:
            if node.op == "placeholder":
                self.new[node] = self.graph.placeholder(node.name)
            elif node in self.analysis.plans:
                plan = self.analysis.plans[node]
                self.new[node] = self.weight(node, plan) if node.op == "get_attr" else self.call(node, plan)
        self.graph.output(self.joined())
        module = fx.GraphModule(self.root, self.graph)
        module.train(self.captured.training)
        return module

    def call(self, node: fx.Node, plan: Plan) -> fx.Node:
        args = list(plan.args)
        for slot, source in inputs_of(plan.args).items():
            value = self.part(source, plan.needs[slot])
            if len(slot) == 1:
                args[slot[0]] = value
            else:
                args[slot[0]] = [value if j == slot[1] else item for j, item in enumerate(args[slot[0]])]
        if plan.target is None:
            return args[0]  # type: ignore[no-any-return]  # slot 0 was filled with a node above
        return self.graph.call_function(plan.target, tuple(args), dict(node.kwargs))

    def part(self, source: fx.Node, need: Demand) -> fx.Node:
        """The new value of ``source`` restricted to ``need``, gathered where it carries more."""
        value = self.new[source]
        carries = self.analysis.plans[source].carries if source in self.analysis.plans else need
        for axis, positions in enumerate(need.within(carries)):
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

    def weight(self, node: fx.Node, plan: Plan) -> fx.Node:
        """The parameter, buffer or constant behind ``node``, cut to what is read of it."""
        tensor = _attribute(self.captured, str(node.target))
        cut = tensor.detach()
        for axis, kept in enumerate(plan.carries.axes):
            if kept is not None:
                cut = cut.index_select(axis, torch.from_numpy(kept).to(cut.device))
        cut = cut.clone()
        return self.store(str(node.target).replace(".", "_"), nn.Parameter(cut) if _trains(tensor) else cut)

    def store(self, name: str, tensor: torch.Tensor) -> fx.Node:
        while hasattr(self.root, name):
            name += "_"
        if isinstance(tensor, nn.Parameter):
            self.root.register_parameter(name, tensor)
        else:
            self.root.register_buffer(name, tensor)
        return self.graph.get_attr(name)

    def joined(self) -> fx.Node:
        values = outputs_of(self.analysis.graph)
        parts = []
        for i, kept in sorted(self.analysis.kept.items()):
            rank = len(shape_of(values[i]))
            whole = kept is None or len(kept) == shape_of(values[i])[-1]
            need = Demand.everything(rank) if whole else Demand.everything(rank).replace(-1, np.asarray(kept))
            parts.append(self.part(values[i], need))
        return parts[0] if len(parts) == 1 else self.graph.call_function(aten.cat.default, (parts, -1))


def _attribute(module: nn.Module, target: str) -> torch.Tensor:
    *path, name = target.split(".")
    value = getattr(module.get_submodule(".".join(path)), name)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{target} is no tensor")
    return value


def _trains(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
