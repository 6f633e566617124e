"""From an ``nn.Module`` to the one graph form that every later step reads.

``torch.export`` flattens any architecture to ATen calls. This file asks it for a graph with a dynamic batch, and
brings that graph to a canonical form with these promises:

1. every call lists all its positional arguments, defaults filled in;
2. nothing writes in place (``relu_(x)`` is ``relu(x)``, and later readers of ``x`` read the result);
3. no value is a tuple of tensors: pieces of a split, chunk or unbind are slices and selects of their source;
4. the batch size is read off the input alone;
5. every tensor node has its shape in ``meta["val"]``, with the batch as the only symbol.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn, ops
from torch._ops import OpOverload

from prune_tool.surgery.site import is_tensor

aten = ops.aten


def export_program(module: nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    """Export ``module`` with axis 0 of its one input ``example`` (b, ...) dynamic.

    The batch of ``example`` must be at least 2: torch.export takes a size of one for a constant.
    """
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes=({0: batch},), strict=False)


def capture(module: nn.Module, example: torch.Tensor) -> fx.GraphModule:
    """The canonical graph of ``module`` in the mode it is in (call ``eval()`` first).

    Args:
        module: takes one tensor, returns a tensor or a tuple of tensors.
        example: (b, ...) float32 with b >= 2; only its shape and dtype matter.

    Returns:
        A runnable ``GraphModule`` that returns a tuple; parameters and buffers are its own ``get_attr`` nodes.
    """
    program = export_program(module, example)
    if _writes_in_place(program.graph):
        program = program.run_decompositions({})
    graph_module = program.module(check_guards=False)
    for step in (_flatten_output, _drop_dead_checks, _fill_defaults, _functional_twins, _pieces, _one_batch_size):
        step(graph_module.graph)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def _calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _schema(node: fx.Node) -> Any:
    return node.target._schema if isinstance(node.target, OpOverload) else None  # noqa: SLF001 - the only way to ask


def _twin(node: fx.Node) -> OpOverload | None:
    """The functional twin of an in-place element-wise call, where there is one."""
    if not isinstance(node.target, OpOverload):
        return None
    name = node.target.overloadpacket.__name__
    packet = getattr(aten, name.removesuffix("_"), None)
    overload = node.target._overloadname  # noqa: SLF001
    return getattr(packet, overload, None) if name.endswith("_") and packet is not None else None


def _writes_in_place(graph: fx.Graph) -> bool:
    """Whether something is written that renaming to functional twins cannot express (a write through a view)."""
    for node in _calls(graph):
        schema = _schema(node)
        if schema is None or not schema.is_mutable:
            continue
        source = node.args[0] if node.args else None
        if _twin(node) is None or not isinstance(source, fx.Node) or _is_view(source):
            return True
    return False


def _is_view(node: fx.Node) -> bool:
    """Whether writing to this value could reach another one (or it is no computed value at all)."""
    schema = _schema(node)
    return schema is None or any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)


def _flatten_output(graph: fx.Graph) -> None:
    """Return a flat tuple, whatever nesting the module had, in plain Python without pytree calls."""
    output = next(node for node in graph.nodes if node.op == "output")
    flat: list[fx.Node] = []
    fx.map_arg(output.args, lambda node: flat.append(node) or node)
    output.args = (tuple(flat),)
    graph.set_codegen(fx.graph.CodeGen())


def _drop_dead_checks(graph: fx.Graph) -> None:
    """Remove assertions about shapes and dtypes that capture recorded: they were true, and sizes will change."""
    for node in reversed(list(graph.nodes)):
        is_check = node.op == "call_function" and "assert" in str(node.target)
        is_guard = node.op == "call_module" and "guards" in str(node.target)
        if (is_check or is_guard) and not node.users:
            graph.erase_node(node)


def _fill_defaults(graph: fx.Graph) -> None:
    for node in _calls(graph):
        schema = _schema(node)
        if schema is None:
            continue
        kwargs = dict(node.kwargs)
        args = list(node.args)
        for argument in [a for a in schema.arguments if not a.kwarg_only][len(args) :]:
            args.append(kwargs.pop(argument.name, argument.default_value))
        node.args, node.kwargs = tuple(args), kwargs


def _functional_twins(graph: fx.Graph) -> None:
    for node in _calls(graph):
        schema = _schema(node)
        if schema is None or not schema.is_mutable:
            continue
        source, twin = node.args[0], _twin(node)
        if twin is None or not isinstance(source, fx.Node):  # ruled out by _writes_in_place
            raise TypeError(f"{node.target} writes in place")
        node.target = twin
        source.replace_all_uses_with(node, delete_user_cb=_reads_after(node))
    _fill_defaults(graph)


def _reads_after(node: fx.Node) -> Any:
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    return lambda user: order[user] > order[node]


def _pieces(graph: fx.Graph) -> None:
    """Turn ``getitem`` of a split, chunk or unbind into a slice or select of the source."""
    for node in _calls(graph):
        if node.target is not operator.getitem:
            continue
        source, index = node.args
        name = str(getattr(source, "target", ""))
        if not isinstance(source, fx.Node) or not isinstance(index, int):
            continue
        if name.startswith("aten.unbind"):
            _become(node, aten.select.int, (source.args[0], source.args[1], index))
        elif name.startswith(("aten.split", "aten.chunk", "aten.tensor_split")):
            whole, axis = source.args[0], source.args[2]
            sizes = [piece.shape[axis] for piece in source.meta["val"]]
            if all(isinstance(size, int) for size in sizes):
                start = sum(sizes[:index])
                _become(node, aten.slice.Tensor, (whole, axis, start, start + sizes[index], 1))


def _become(node: fx.Node, target: OpOverload, args: tuple[Any, ...]) -> None:
    node.target, node.args, node.kwargs = target, args, {}


def _one_batch_size(graph: fx.Graph) -> None:
    """Ask the input for the batch size, so that no other value has to live for it."""
    images = next(node for node in graph.nodes if node.op == "placeholder")
    batch = images.meta["val"].shape[0]
    with graph.inserting_after(images):
        size = graph.call_function(aten.sym_size.int, (images, 0))
    size.meta["val"] = batch
    for node in _calls(graph):
        if node is not size and node.target is aten.sym_size.int and node.args[0] is not images:
            value = node.meta.get("val")
            if isinstance(value, torch.SymInt) and value.node.expr == batch.node.expr:
                node.replace_all_uses_with(size)


def image_input(graph: fx.Graph) -> fx.Node:
    """The one placeholder of a captured graph."""
    return next(node for node in graph.nodes if node.op == "placeholder")


def outputs_of(graph: fx.Graph) -> tuple[fx.Node, ...]:
    """The values a captured graph returns, in order."""
    output = next(node for node in graph.nodes if node.op == "output")
    values = output.args[0]
    if not isinstance(values, tuple) or not all(isinstance(v, fx.Node) and is_tensor(v) for v in values):
        raise TypeError("a captured graph returns a tuple of tensors")
    return values  # type: ignore[return-value]  # checked on the line above
