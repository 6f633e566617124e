"""One operator in a captured graph as a rule sees it, and the plan a rule answers with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn

from prune_tool.surgery.demand import Demand, Kept, round_up

SYMBOLIC = 1_000_003
"""Stand-in for the batch size in concrete shapes: a prime no real axis has, so that no product hides it."""

Slot = tuple[int, ...]
"""Where an input stands in ``node.args``: ``(i,)``, or ``(i, j)`` for element ``j`` of a list."""


def inputs_of(args: Sequence[Any]) -> dict[Slot, fx.Node]:
    """Every input node among a call's positional arguments, by slot."""
    found: dict[Slot, fx.Node] = {}
    for i, arg in enumerate(args):
        if isinstance(arg, fx.Node):
            found[i,] = arg
        elif isinstance(arg, list | tuple):
            found |= {(i, j): item for j, item in enumerate(arg) if isinstance(item, fx.Node)}
    return found


def is_tensor(node: fx.Node) -> bool:
    """Whether the node's value is a single tensor (not a number, not a tuple)."""
    return isinstance(node.meta.get("val"), torch.Tensor)


def shape_of(node: fx.Node, batch: int = SYMBOLIC) -> tuple[int, ...]:
    """Shape of a tensor node with every symbol replaced by ``batch``; ``()`` for numbers."""
    known: dict[int, tuple[int, ...]] = node.meta.setdefault("shapes", {})  # sympy is slow, and shapes are asked often
    if batch not in known:
        value = node.meta.get("val")
        sizes = value.shape if isinstance(value, torch.Tensor) else ()
        known[batch] = tuple(concrete(size, batch) for size in sizes)
    return known[batch]


def attribute(module: nn.Module, target: str) -> torch.Tensor:
    """The tensor that ``module`` holds at the dotted path ``target``."""
    *path, name = target.split(".")
    value = getattr(module.get_submodule(".".join(path)), name)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{target} is no tensor")
    return value


def symbolic_axes(node: fx.Node) -> frozenset[int]:
    """Axes whose size depends on the batch."""
    value = node.meta.get("val")
    sizes: Sequence[object] = value.shape if isinstance(value, torch.Tensor) else ()
    return frozenset(i for i, size in enumerate(sizes) if not isinstance(size, int))


def concrete(size: int | torch.SymInt, batch: int) -> int:
    """A size with every symbol replaced by ``batch``."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, batch)))


@dataclass(frozen=True, slots=True)
class Plan:
    """How one operator is to be sliced.

    Attributes:
        carries: what its result will hold: what was demanded, or more where the operator cannot stop there.
        needs: what it reads of each tensor input. The rewriter hands it exactly that.
        args: positional arguments of the new call, input nodes still in their slots.
        target: the operator to call; ``None`` passes the first input on as the result.
        is_barrier: whether everything is read because no rule says what could be left out.
    """

    carries: Demand
    needs: dict[Slot, Demand]
    args: tuple[Any, ...]
    target: Callable[..., Any] | None
    is_barrier: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """One operator and the demand on its result."""

    node: fx.Node
    out: Demand
    round_to: int = 1
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", shape_of(self.node))

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments, complete: capture has filled in the defaults."""
        return self.node.args

    def input(self, slot: int) -> fx.Node:
        """The input node at ``slot``."""
        node = self.node.args[slot]
        if not isinstance(node, fx.Node):
            raise TypeError(f"argument {slot} of {self.node.target} is no tensor")
        return node

    def input_shape(self, slot: int) -> tuple[int, ...]:
        """Shape of the tensor at ``slot``, symbols replaced."""
        return shape_of(self.input(slot))

    def axis(self, axis: int) -> int:
        """``axis`` counted from the front of the result."""
        return axis % len(self.shape)

    def rounded(self, axis: int) -> Kept:
        """What the result keeps on ``axis``, widened to the multiple that hardware likes."""
        return round_up(self.out.axes[axis], self.shape[axis], self.round_to)

    def plan(
        self,
        carries: Demand,
        needs: dict[int, Demand],
        constants: dict[int, Any] | None = None,
        target: Callable[..., Any] | None = None,
    ) -> Plan:
        """A plan that calls the same operator (or ``target``) with some ``constants`` replaced.

        Inputs not named in ``needs`` are read whole.
        """
        args = tuple((constants or {}).get(i, arg) for i, arg in enumerate(self.args))
        return self.plan_call(carries, {(i,): demand for i, demand in needs.items()}, args, target or self.target)

    def plan_call(
        self, carries: Demand, needs: dict[Slot, Demand], args: tuple[Any, ...], target: Callable[..., Any] | None
    ) -> Plan:
        """A plan with ``args`` as given; inputs in ``args`` that ``needs`` leaves out are read whole."""
        whole = {slot: Demand.everything(len(shape_of(node))) for slot, node in inputs_of(args).items()}
        return Plan(carries=carries, needs=whole | needs, args=args, target=target)

    @property
    def target(self) -> Callable[..., Any]:
        """The operator called here."""
        target = self.node.target
        if isinstance(target, str):
            raise TypeError(f"{self.node.op} {target} is no operator")
        return target


Rule = Callable[[Site], Plan]
"""What an operator needs of its inputs, given the demand on its result."""


def barrier(site: Site) -> Plan:
    """The rule of an operator without a rule: it needs everything and gives everything. Always right, saves nothing."""
    return replace(site.plan(Demand.everything(len(site.shape)), {}), is_barrier=True)
