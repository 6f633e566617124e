"""In-place calls: when renaming them to their functional twins says the same, and the renaming.

``y = relu_(x)`` may become ``y = relu(x)``, with later readers of ``x`` reading ``y``, as long as nobody reads the
written memory under a third name afterwards: a view of ``x`` taken before, or what ``x`` itself is a view of. The
few networks that do so are left to torch.export's own functionalisation.
"""

from __future__ import annotations

from typing import Any

from torch import fx, ops
from torch._ops import OpOverload

aten = ops.aten

_MAY_ALIAS = {aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default}
"""Calls that return their input itself in eval mode, though their schema does not say so."""


def schema_of(node: fx.Node) -> Any:
    """The schema of a call, ``None`` for nodes that call no ATen operator."""
    return node.target._schema if isinstance(node.target, OpOverload) else None  # noqa: SLF001 - the only way to ask


def is_in_place(node: fx.Node) -> bool:
    """Whether the call writes to one of its arguments."""
    schema = schema_of(node)
    return schema is not None and bool(schema.is_mutable)


def functional_twin(node: fx.Node) -> OpOverload | None:
    """The functional twin of an in-place element-wise call, where there is one."""
    if not isinstance(node.target, OpOverload):
        return None
    name = node.target.overloadpacket.__name__
    packet = getattr(aten, name.removesuffix("_"), None)
    overload = node.target._overloadname  # noqa: SLF001 - the only way to ask
    return getattr(packet, overload, None) if name.endswith("_") and packet is not None else None


def writes_that_leak(graph: fx.Graph) -> bool:
    """Whether something is written that renaming to functional twins cannot express."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    return any(_leaks(node, order) for node in graph.nodes if is_in_place(node))


def _leaks(write: fx.Node, order: dict[fx.Node, int]) -> bool:
    source = write.args[0] if write.args else None
    if functional_twin(write) is None or not isinstance(source, fx.Node):
        return True
    names = _names_of_memory(source)
    if any(name.op != "call_function" for name in names):  # a parameter, a buffer or the images themselves
        return True
    others = [name for name in names if name is not source and order[name] < order[write]]
    return any(order[user] > order[write] for name in others for user in name.users)


def _names_of_memory(node: fx.Node) -> set[fx.Node]:
    """Every node that may share memory with ``node``, itself included."""
    found, waiting = {node}, [node]
    while waiting:
        at = waiting.pop()
        near = {user for user in at.users if _shares_memory(user)}
        if _shares_memory(at) and at.all_input_nodes:
            near.add(at.all_input_nodes[0])
        waiting += near - found
        found |= near
    return found


def _shares_memory(node: fx.Node) -> bool:
    """Whether the call may return the memory of its first input."""
    schema = schema_of(node)
    if schema is None:
        return node.op == "call_function"  # getitem of a split
    return node.target in _MAY_ALIAS or any(result.alias_info is not None for result in schema.returns)


def use_functional_twins(graph: fx.Graph) -> None:
    """Rename every in-place call. Requires that no write leaks."""
    for node in [n for n in graph.nodes if is_in_place(n)]:
        source, twin = node.args[0], functional_twin(node)
        if twin is None or not isinstance(source, fx.Node):
            raise TypeError(f"{node.target} writes in place")
        order = {n: i for i, n in enumerate(graph.nodes)}
        node.target = twin
        for user in [u for u in source.users if order[u] > order[node]]:
            user.replace_input_with(source, node)
