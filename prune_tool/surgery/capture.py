"""From an ``nn.Module`` to the one graph form that every later step reads.

``torch.export`` flattens any architecture to ATen calls. This file asks it for a graph with a dynamic batch, has
``canonical`` spell it in one way, and answers the two questions every reader of such a graph has: where the images
come in and what goes out.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from prune_tool.surgery.canonical import PASSES
from prune_tool.surgery.in_place import writes_that_leak
from prune_tool.surgery.site import is_tensor


def export_program(module: nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    """Export ``module`` with axis 0 of its one input ``example`` (b, ...) dynamic.

    The batch of ``example`` must be at least 2: torch.export takes a size of one for a constant.
    """
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},), strict=False)
    _pin_layouts(program)
    return program


def _pin_layouts(program: torch.export.ExportedProgram) -> None:
    """Copy what attention returns into the plain layout.

    Which layout it has depends on the kernel that ran. A later reshape that was traced as a view of one kernel's
    layout fails where another one is put in its place, as torch.onnx does.
    """
    graph = program.graph
    for node in [n for n in graph.nodes if n.target is torch.ops.aten.scaled_dot_product_attention.default]:
        with graph.inserting_after(node):
            copy = graph.call_function(
                torch.ops.aten.clone.default, (node,), {"memory_format": torch.contiguous_format}
            )
        copy.meta = {**node.meta, "val": node.meta["val"].clone(memory_format=torch.contiguous_format)}
        for user in [u for u in node.users if u is not copy and u.op != "output"]:
            user.replace_input_with(node, copy)
    program.graph_module.recompile()


def capture(module: nn.Module, example: torch.Tensor) -> fx.GraphModule:
    """The canonical graph of ``module`` in the mode it is in (call ``eval()`` first).

    Args:
        module: takes one tensor, returns a tensor or a tuple of tensors.
        example: (b, ...) float32 with b >= 2; only its shape and dtype matter.

    Returns:
        A runnable ``GraphModule`` that returns a tuple and keeps the promises of ``canonical``; parameters and
        buffers are its own ``get_attr`` nodes.
    """
    program = export_program(module, example)
    if writes_that_leak(program.graph) or _has_regions(program.graph):
        program = program.run_decompositions({})
    graph_module = program.module(check_guards=False)
    for step in PASSES:
        step(graph_module.graph)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def _has_regions(graph: fx.Graph) -> bool:
    """Whether parts of the network run as graphs of their own (under autocast, say); decomposing inlines them."""
    return any(node.op == "get_attr" for node in graph.nodes)


def image_input(graph: fx.Graph) -> fx.Node:
    """The one placeholder of a captured graph."""
    images: fx.Node = next(node for node in graph.nodes if node.op == "placeholder")
    return images


def outputs_of(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """The values a captured graph returns, in order.

    Raises:
        TypeError: the graph returns something that is no tensor.
    """
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    values = output.args[0]
    if not isinstance(values, tuple):
        raise TypeError("a captured graph returns a tuple of tensors")
    found = tuple(value for value in values if isinstance(value, fx.Node) and is_tensor(value))
    if len(found) != len(values):
        raise TypeError("a captured graph returns a tuple of tensors")
    return found
