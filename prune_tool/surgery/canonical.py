"""One spelling for every network: passes over a ``torch.export`` graph, in place, in the order of ``PASSES``.

Ensures, together:

1. the graph returns a flat tuple and asserts nothing;
2. nothing writes in place (``relu_(x)`` is ``relu(x)``, and later readers of ``x`` read the result);
3. every call lists all its positional arguments, defaults filled in;
4. no value is a tuple of tensors where that can be avoided: pieces of a split, chunk or unbind are slices and selects
   of their source;
5. ``type_as``, ``narrow``, ``movedim`` and the like are written as the calls they abbreviate;
6. the batch size is read off the input alone;
7. a tensor that modules share under several names is read under the first of them, once.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, ops
from torch._ops import OpOverload

from prune_tool.surgery.in_place import schema_of, use_functional_twins
from prune_tool.surgery.site import attribute

aten = ops.aten


def flatten_output(graph: fx.Graph) -> None:
    """Return a flat tuple, whatever nesting the module had, in plain Python without pytree calls."""
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    flat: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        flat.append(node)
        return node

    fx.map_arg(output.args, note)
    output.args = (tuple(flat),)
    graph.set_codegen(fx.graph.CodeGen())


def drop_checks(graph: fx.Graph) -> None:
    """Remove assertions about shapes and dtypes that capture recorded: they were true, and sizes will change."""
    for node in reversed(list(graph.nodes)):
        is_check = node.op == "call_function" and "assert" in str(node.target)
        is_guard = node.op == "call_module" and "guards" in str(node.target)
        if (is_check or is_guard) and not node.users:
            graph.erase_node(node)


def fill_defaults(graph: fx.Graph) -> None:
    """List every positional argument of every call."""
    for node in _calls(graph):
        schema = schema_of(node)
        if schema is None:
            continue
        kwargs = dict(node.kwargs)
        missing = [a for a in schema.arguments if not a.kwarg_only][len(node.args) :]
        node.args = (*node.args, *(kwargs.pop(a.name, a.default_value) for a in missing))
        node.kwargs = kwargs


def take_pieces(graph: fx.Graph) -> None:
    """Turn ``getitem`` of a split, chunk or unbind into a slice or select of the source."""
    for node in _calls(graph):
        if node.target is not operator.getitem:
            continue
        source, index = node.args
        if not isinstance(source, fx.Node) or not isinstance(index, int):
            continue
        name = str(source.target)
        if name.startswith("aten.unbind"):
            _become(node, aten.select.int, (source.args[0], source.args[1], index))
        elif name.startswith(("aten.split", "aten.chunk", "aten.tensor_split")):
            whole, axis = source.args[0], source.args[2]
            sizes = [piece.shape[axis] for piece in source.meta["val"]]
            if all(isinstance(size, int) for size in sizes):
                start = sum(sizes[:index])
                _become(node, aten.slice.Tensor, (whole, axis, start, start + sizes[index], 1))
        elif name == "aten._native_batch_norm_legit_no_training.default" and index == 0:
            x, weight, bias, mean, variance, momentum, eps = source.args
            _become(node, aten.batch_norm.default, (x, weight, bias, mean, variance, False, momentum, eps, False))


def spell_out(graph: fx.Graph) -> None:
    """Write calls that have a plainer equivalent as that."""
    for node in _calls(graph):
        spelling = _SPELLINGS.get(node.target)
        if spelling is not None:
            spelling(node)


def _type_as(node: fx.Node) -> None:
    _become(node, aten.to.dtype, (node.args[0], node.meta["val"].dtype, False, False, None))


def _narrow(node: fx.Node) -> None:
    x, axis, start, length = node.args
    if isinstance(start, int) and isinstance(length, int):
        _become(node, aten.slice.Tensor, (x, axis, start, start + length, 1))


def _movedim(node: fx.Node) -> None:
    x, source, to = node.args
    rank = node.meta["val"].ndim
    order = [axis for axis in range(rank) if axis != source % rank]
    order.insert(to % rank, source % rank)
    _become(node, aten.permute.default, (x, order))


def _attention(node: fx.Node) -> None:
    """The scale is named, so that it stays when there are fewer dimensions."""
    if node.kwargs.get("scale") is None:
        node.kwargs = {**node.kwargs, "scale": float(node.args[0].meta["val"].shape[-1]) ** -0.5}  # type: ignore[union-attr]


_SPELLINGS: dict[Any, Callable[[fx.Node], None]] = {
    aten.scaled_dot_product_attention.default: _attention,
    aten.type_as.default: _type_as,
    aten.narrow.default: _narrow,
    aten.movedim.int: _movedim,
    aten.swapaxes.default: lambda node: _become(node, aten.transpose.int, node.args),
    aten.swapdims.default: lambda node: _become(node, aten.transpose.int, node.args),
    aten.mT.default: lambda node: _become(node, aten.transpose.int, (node.args[0], -2, -1)),
    aten.t.default: lambda node: _become(node, aten.transpose.int, (node.args[0], 0, -1)),
}


def read_batch_off_images(graph: fx.Graph) -> None:
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


def hold_once(graph: fx.Graph) -> None:
    """Read a parameter or buffer that modules share, under a name each, under its first name and by one node."""
    module = graph.owning_module
    assert module is not None
    names = {id(tensor): name for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    first: dict[int, fx.Node] = {}
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        tensor = attribute(module, str(node.target))
        known = first.setdefault(id(tensor), node)
        if known is node:
            node.target = names.get(id(tensor), node.target)
        else:
            node.replace_all_uses_with(known)
            graph.erase_node(node)


def _calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function"]


def _become(node: fx.Node, target: OpOverload, args: tuple[Any, ...]) -> None:
    node.target, node.args, node.kwargs = target, args, {}


PASSES: tuple[Callable[[fx.Graph], None], ...] = (
    flatten_output,
    drop_checks,
    fill_defaults,
    use_functional_twins,
    fill_defaults,
    take_pieces,
    spell_out,
    read_batch_off_images,
    hold_once,
)
