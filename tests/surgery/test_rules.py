"""One tiny network per rule, one property for all, and how much each rule saves.

Every network begins with ``make``, a linear layer to 8 channels at each of 6 x 6 places, and ends in neurons (b, n)
of which three are kept. ``share`` is how much of what ``make`` computes is still computed: a rule that asks for more
than it must is as red as one that asks for less.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn, ops
from torch.nn import functional as F

from prune_tool.surgery.analysis import analyse
from prune_tool.surgery.capture import capture
from prune_tool.surgery.rules import RULES, contraction
from prune_tool.surgery.site import shape_of

SHAPE = (4, 6, 6)
KEPT = np.array([1, 4, 5])


@dataclass
class Case:
    """``op`` gets the network (for its layers) and the value; its result is averaged over places unless (b, n)."""

    op: Callable[[nn.Module, Tensor], Tensor]
    share: Fraction | float = Fraction(3, 8)
    layers: dict[str, nn.Module] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


class Tiny(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.make = nn.Linear(4, 8)
        self.op = case.op
        for name, layer in case.layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        y = self.op(self, self.make(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return y if y.ndim == 2 else y.mean((2, 3)) if y.ndim == 4 else y.mean(1)


class Weight(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(*shape))


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def heads(x: Tensor) -> Tensor:
    """(b, 36, 8) -> (b, 2, 36, 4)."""
    return x.reshape(x.shape[0], 36, 2, 4).transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(x.shape[0], 36, 8)


def shuffled(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], 2, 4, 6, 6).transpose(1, 2).reshape(x.shape[0], 8, 6, 6)


def gated(a: Tensor, b: Tensor) -> Tensor:
    """Neurons 1, 4, 5 read neuron 1 of ``a`` and neurons 0, 1 of ``b``."""
    return torch.cat([a * b, b], 1)


def windows(x: Tensor) -> Tensor:
    """Cut 6 x 6 into four windows, do something inside, put them back."""
    b = x.shape[0]
    y = x.permute(0, 2, 3, 1).reshape(b, 2, 3, 2, 3, 8).permute(0, 1, 3, 2, 4, 5).reshape(b * 4, 9, 8)
    y = y.relu().reshape(b, 2, 2, 3, 3, 8).permute(0, 1, 3, 2, 4, 5).reshape(b, 6, 6, 8)
    return y.permute(0, 3, 1, 2)


def scaled(x: Tensor, weight: Tensor) -> Tensor:
    """Weight standardisation, as networks without batch norm do it."""
    flat = F.batch_norm(weight.reshape(1, weight.shape[0], -1), None, None, training=True, momentum=0.0)
    return F.conv2d(x, flat.reshape_as(weight))


ALL = Fraction(1)
CASES = {
    # pointwise
    "relu": Case(lambda m, x: F.relu(x)),
    "relu in place": Case(lambda m, x: F.relu(x, inplace=True)),
    "gelu": Case(lambda m, x: F.gelu(x)),
    "hardswish": Case(lambda m, x: F.hardswish(x)),
    "layer scale": Case(lambda m, x: x * m.s.w, layers={"s": Weight(8, 1, 1)}, shapes={"s_w": (3, 1, 1)}),
    "scalar broadcast": Case(lambda m, x: x * m.s.w + 2, layers={"s": Weight(1)}, shapes={"s_w": (1,)}),
    "residual": Case(lambda m, x: x + torch.tanh(x)),
    "place mask": Case(lambda m, x: x * x.mean(1, keepdim=True).sigmoid(), ALL),
    "where": Case(lambda m, x: torch.where(x > 0, x, 2 * x)),
    "type as": Case(lambda m, x: x.double().type_as(x)),
    # contraction
    "conv": Case(
        lambda m, x: m.op2(x), ALL, {"op2": nn.Conv2d(8, 8, 3)}, {"op2_weight": (3, 8, 3, 3), "op2_bias": (3,)}
    ),
    "conv same": Case(
        lambda m, x: m.op2(x), ALL, {"op2": nn.Conv2d(8, 8, 3, padding="same")}, {"op2_weight": (3, 8, 3, 3)}
    ),
    "depthwise": Case(
        lambda m, x: m.op2(x), layers={"op2": nn.Conv2d(8, 8, 3, groups=8)}, shapes={"op2_weight": (3, 1, 3, 3)}
    ),
    "grouped": Case(  # 1, 4, 5 lie in groups 0 and 2, which keep 1 and 2 of their channels: both are kept whole
        lambda m, x: m.op2(x), Fraction(4, 8), {"op2": nn.Conv2d(8, 8, 3, groups=4)}, {"op2_weight": (4, 2, 3, 3)}
    ),
    "widening groups": Case(
        lambda m, x: m.op2(x), Fraction(2, 8), {"op2": nn.Conv2d(8, 24, 3, groups=8)}, {"op2_weight": (6, 1, 3, 3)}
    ),
    "conv1d": Case(
        lambda m, x: m.op2(x.flatten(2)).mean(2), ALL, {"op2": nn.Conv1d(8, 8, 3)}, {"op2_weight": (3, 8, 3)}
    ),
    "standardised weight": Case(lambda m, x: scaled(x, m.s.w), ALL, {"s": Weight(8, 8, 1, 1)}, {"s_w": (3, 8, 1, 1)}),
    "linear": Case(
        lambda m, x: m.op2(tokens(x)), ALL, {"op2": nn.Linear(8, 8)}, {"op2_weight": (3, 8), "op2_bias": (3,)}
    ),
    "linear of one token": Case(
        lambda m, x: m.op2(tokens(x))[:, 7], Fraction(1, 36), {"op2": nn.Linear(8, 8)}, {"op2_weight": (3, 8)}
    ),
    "matmul": Case(lambda m, x: torch.softmax(tokens(x) @ tokens(x).mT, -1)[:, 0, 0:1] * x.mean((2, 3)), ALL),
    "product with the right": Case(
        lambda m, x: m.s.w @ tokens(x), layers={"s": Weight(36, 36)}, shapes={"s_w": (36, 36)}
    ),
    "mixing of places": Case(lambda m, x: m.op2(x.flatten(2)).mean(2), layers={"op2": nn.Linear(36, 36)}),
    "attention to values": Case(
        lambda m, x: merged(
            F.scaled_dot_product_attention(heads(tokens(x)).detach() * 0 + 1, heads(tokens(x)) * 0, heads(tokens(x)))
        ),
        ALL,
    ),
    # normalisation
    "batch norm": Case(
        lambda m, x: m.op2(x), layers={"op2": nn.BatchNorm2d(8)}, shapes={"op2_weight": (3,), "op2_running_var": (3,)}
    ),
    "group norm": Case(lambda m, x: m.op2(x), Fraction(4, 8), {"op2": nn.GroupNorm(4, 8)}, {"op2_weight": (4,)}),
    "layer norm": Case(lambda m, x: m.op2(tokens(x)), ALL, {"op2": nn.LayerNorm(8)}),
    "softmax over channels": Case(lambda m, x: x.softmax(1), ALL),
    "softmax over places": Case(lambda m, x: x.flatten(2).softmax(2)[:, :, 3]),
    "normalise": Case(lambda m, x: F.normalize(x.flatten(2), dim=2)[:, :, 1]),
    # layout
    "channel shuffle": Case(lambda m, x: shuffled(x), Fraction(4, 8)),
    "windows": Case(lambda m, x: windows(x)),
    "transpose and back": Case(lambda m, x: x.movedim(1, -1).swapaxes(1, 2).movedim(-1, 1)),
    "one place": Case(lambda m, x: x[:, :, 2, 3], Fraction(3, 8 * 36)),
    "a corner": Case(lambda m, x: x[:, :, :2, -3:], Fraction(3 * 6, 8 * 36)),
    "every other place": Case(lambda m, x: x[:, :, ::2, ::2], Fraction(3 * 9, 8 * 36)),
    "narrow": Case(lambda m, x: x.narrow(2, 1, 2), Fraction(3 * 12, 8 * 36)),
    "split": Case(lambda m, x: torch.cat(x.split([3, 5], 1)[::-1], 1)),
    "chunk": Case(lambda m, x: gated(*x.chunk(2, 1))),
    "unbind": Case(lambda m, x: x.unbind(2)[4].mean(2), Fraction(3, 8 * 6)),
    "stack": Case(lambda m, x: torch.stack([x, x.relu(), x.exp()], 1)[:, 1]),
    "concatenate": Case(lambda m, x: torch.cat([x[:, :2], x.relu(), x.exp()], 1)),
    "roll": Case(lambda m, x: x.roll((1, 2), (2, 3))),
    "roll of channels": Case(lambda m, x: x.roll(1, 1), ALL),
    "flip": Case(lambda m, x: x.flip(2)),
    "pad": Case(lambda m, x: F.pad(x, (1, 1, 0, 2))),
    "pad of channels": Case(lambda m, x: F.pad(x, (0, 0, 0, 0, 1, 1)), ALL),
    "expand": Case(lambda m, x: x.mean((2, 3), keepdim=True).expand(-1, -1, 6, 6) + 1),
    "expand as": Case(lambda m, x: x.mean((2, 3), keepdim=True).expand_as(x)),
    "expand of the batch": Case(
        lambda m, x: torch.cat([m.s.w.expand(x.shape[0], -1, -1), tokens(x)], 1),
        layers={"s": Weight(1, 1, 8)},
        shapes={"s_w": (1, 1, 3)},
    ),
    "class token only": Case(
        lambda m, x: torch.cat([m.s.w.expand(x.shape[0], -1, -1), tokens(x)], 1)[:, 1],
        Fraction(3, 8 * 36),
        {"s": Weight(1, 1, 8)},
    ),
    "index": Case(lambda m, x: x[:, :, torch.tensor([1, 1, 4])]),
    "table by index": Case(
        lambda m, x: x + m.s.w[torch.tensor([[0, 1], [4, 2]]).flatten()].mean(0)[:, None, None],
        layers={"s": Weight(5, 8)},
        shapes={"s_w": (5, 3)},
    ),
    "index of places": Case(lambda m, x: x[:, :, torch.tensor([1, 5]), torch.tensor([0, 3])].mean(2)),
    "running sum": Case(lambda m, x: x.cumsum(2)),
    # what mixes places reads them all, even for one
    "running sum to one row": Case(lambda m, x: x.cumsum(2)[:, :, 3].mean(2)),
    "one place of a roll": Case(lambda m, x: x.roll((1, 2), (2, 3))[:, :, 0, 0]),
    "one place of a flip": Case(lambda m, x: x.flip((2, 3))[:, :, 0, 1]),
    "one row of a flip of columns": Case(lambda m, x: x.flip(3)[:, :, 0].mean(2), Fraction(3 * 6, 8 * 36)),
    "one place of a pad": Case(lambda m, x: F.pad(x, (1, 1, 1, 1))[:, :, 1, 1]),
    "one place of a pool": Case(lambda m, x: F.max_pool2d(x, 2)[:, :, 1, 1]),
    "one token of a layer norm": Case(
        lambda m, x: m.op2(tokens(x))[:, 5], Fraction(1, 36), {"op2": nn.LayerNorm(8)}, {"op2_weight": (8,)}
    ),
    "one row of a mean": Case(lambda m, x: x.mean(3)[:, :, 2], Fraction(3 * 6, 8 * 36)),
    "one place by index": Case(lambda m, x: x[:, :, torch.tensor([2, 4])][:, :, 1, 3], Fraction(3 * 6, 8 * 36)),
    # over space, reduction
    "average pool": Case(lambda m, x: F.avg_pool2d(x, 2)),
    "max pool": Case(lambda m, x: F.max_pool2d(x, 2)),
    "adaptive pool": Case(lambda m, x: F.adaptive_avg_pool2d(x, 1).flatten(1)),
    "resize": Case(lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "max over places": Case(lambda m, x: x.amax((2, 3))),
    "squeeze and excite": Case(
        lambda m, x: x * m.op2(x.mean((2, 3), keepdim=True)).sigmoid(),
        ALL,
        {"op2": nn.Conv2d(8, 8, 1)},
        {"op2_weight": (3, 8, 1, 1)},
    ),
    # no rule, or none that applies
    "places of one image": Case(lambda m, x: F.avg_pool2d(x[:, 1], 2).flatten(1), Fraction(1, 8)),
    "barrier": Case(lambda m, x: x.sort(1).values, ALL),
}


def n_neurons(module: nn.Module) -> int:
    with torch.no_grad():
        return int(module(torch.rand(2, *SHAPE)).shape[1])


@pytest.mark.parametrize("name", CASES)
def test_a_rule_is_exact_and_tight(name: str, shaken, cut) -> None:
    case = CASES[name]
    captured = capture(shaken(Tiny(case)), torch.rand(2, *SHAPE))
    sliced = cut(captured, {0: KEPT}, SHAPE)
    weights = {**dict(sliced.named_parameters()), **dict(sliced.named_buffers())}
    assert {name: tuple(weights[name].shape) for name in case.shapes} == case.shapes
    assert share_of_make(captured) == case.share


def share_of_make(captured) -> Fraction:
    """How much of what ``make`` computes is still computed when ``KEPT`` neurons are read."""
    make = next(node for node in captured.graph.nodes if node.target is ops.aten.linear.default)
    parts = [part for part in analyse(captured.graph, {0: KEPT}).parts if part.node is make]
    per_image = shape_of(make, batch=1)
    return Fraction(sum(part.plan.carries.volume(per_image) for part in parts), math.prod(per_image))


def test_every_operator_of_the_table_is_an_aten_call() -> None:
    assert all(isinstance(target, torch._ops.OpOverload) and callable(rule) for target, rule in RULES.items())


def test_only_operators_without_a_rule_are_named_as_barriers(shaken) -> None:
    captured = capture(shaken(Tiny(CASES["barrier"])), torch.rand(2, *SHAPE))
    assert analyse(captured.graph, {0: KEPT}).barriers == {"aten.sort.default"}
    assert analyse(captured.graph, {0: None}).barriers == set()


def test_a_wrong_group_mapping_goes_red(monkeypatch: pytest.MonkeyPatch, shaken, cut) -> None:
    monkeypatch.setattr(
        contraction,
        "_touched_groups",
        lambda rows, n_rows, groups: None if rows is None or groups == 1 else np.arange(len(rows)) % groups,
    )
    captured = capture(shaken(Tiny(CASES["depthwise"])), torch.rand(2, *SHAPE))
    with pytest.raises(AssertionError):
        cut(captured, {0: KEPT}, SHAPE)


def test_a_rule_that_forgets_an_input_goes_red(monkeypatch: pytest.MonkeyPatch, shaken, cut) -> None:
    add = ops.aten.add.Tensor

    def forgets_the_order(site):
        plan = RULES[ops.aten.mul.Tensor](site)
        wrong = {
            slot: need.replace(1, None if need.axes[1] is None else np.arange(len(need.axes[1])))
            for slot, need in plan.needs.items()
        }
        return site.plan_call(plan.carries, wrong, plan.args, plan.target)

    monkeypatch.setitem(RULES, add, forgets_the_order)
    captured = capture(shaken(Tiny(CASES["residual"])), torch.rand(2, *SHAPE))
    with pytest.raises(AssertionError):
        cut(captured, {0: KEPT}, SHAPE)
