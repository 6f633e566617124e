"""The canonical form: what holds of every captured graph, and that capturing changes no number."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn, ops
from torch.nn import functional as F

from prune_tool.surgery.canonical import PASSES
from prune_tool.surgery.capture import capture, outputs_of
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.in_place import is_in_place, writes_that_leak
from prune_tool.surgery.slicing import slice_graph

SHAPE = (4, 6, 6)


class Do(nn.Module):
    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.step = nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self.norm(self.conv(x))).mean((2, 3))


def write_through_a_view(x: Tensor) -> Tensor:
    half = x[:, :4]
    half += 1
    return x


def write_seen_by_an_earlier_view(x: Tensor) -> Tensor:
    half = x[:, :4]
    x.relu_()
    return half


def write_to_a_view_of_nothing_else(x: Tensor) -> Tensor:
    half = torch.cat([x, x], 1)[:, :8]
    half += x
    return half.relu_()


def write_after_dropout(x: Tensor) -> Tensor:
    half = x[:, :4]
    y = F.dropout(x, training=False)  # in eval mode this is x itself
    y += 1
    return torch.cat([half, y], 1)


def without_autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return (x.float() @ x.float().mT).relu()


STEPS = {
    "a region of its own": without_autocast,
    "in place": lambda x: F.relu_(x).mul_(2) + 1,
    "residual in place": lambda x: F.silu(x).add_(x).clamp_(-1, 1),
    "write through a view": write_through_a_view,
    "write seen by an earlier view": write_seen_by_an_earlier_view,
    "write to a view of nothing else": write_to_a_view_of_nothing_else,
    "write after dropout": write_after_dropout,
    "pieces": lambda x: torch.cat([*x.split(3, 1), *x.chunk(3, 1), *(u[:, None] for u in x.unbind(1))], 1),
    "spellings": lambda x: x.movedim(1, 3).swapaxes(1, 2).mT.movedim(-1, 1).narrow(1, 1, 4).type_as(x.double()).float(),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_canonical_form_holds_and_changes_nothing(name: str, shaken) -> None:
    module = shaken(Do(STEPS[name]))
    captured = capture(module, torch.rand(2, *SHAPE))
    calls = [node for node in captured.graph.nodes if node.op == "call_function"]
    assert not any(is_in_place(node) for node in calls)
    assert not any(node.target is operator.getitem for node in calls)
    for node in calls:
        if isinstance(node.target, torch._ops.OpOverload):
            assert len(node.args) == sum(not a.kwarg_only for a in node.target._schema.arguments)
    for n_images in (1, 3):
        x = torch.randn(n_images, *SHAPE)
        torch.testing.assert_close(captured(x)[0], module(x))


@pytest.mark.parametrize(
    ("name", "leaks"),
    {
        "in place": False,
        "residual in place": False,
        "write to a view of nothing else": False,
        "write through a view": True,
        "write seen by an earlier view": True,
        "write after dropout": True,
    }.items(),
)
def test_only_memory_read_under_another_name_leaks(name: str, leaks: bool) -> None:
    batch = torch.export.Dim("batch")
    module = Do(STEPS[name]).eval()
    program = torch.export.export(module, (torch.rand(2, *SHAPE),), dynamic_shapes=({0: batch},), strict=False)
    assert writes_that_leak(program.graph) is leaks


def test_the_batch_size_is_read_off_the_images_alone(shaken) -> None:
    module = shaken(Do(lambda x: x.reshape(x.shape[0] * 2, 4, 6, 6).relu().reshape(-1, 8, 6, 6)[: x.shape[0]]))
    captured = capture(module, torch.rand(2, *SHAPE))
    sizes = [node for node in captured.graph.nodes if node.target is ops.aten.sym_size.int]
    assert all(node.args[0].op == "placeholder" for node in sizes)


class Shared(nn.Module):
    """Two modules with one layer between them, which the network does not call by its own name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 3, padding=1)
        self.first = nn.Sequential(self.layer, nn.BatchNorm2d(4))
        self.second = nn.Sequential(self.layer, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)).mean((2, 3))


def test_a_layer_that_modules_share_is_held_once(shaken) -> None:
    module = shaken(Shared())
    captured = capture(module, torch.rand(2, *SHAPE))
    read = [node.target for node in captured.graph.nodes if node.op == "get_attr"]
    assert len(read) == len(set(read)) == 6
    n_params = sum(parameter.numel() for parameter in module.parameters())
    assert cost_of(captured).n_params == cost_of(captured, {0: None}).n_params == n_params
    sliced = slice_graph(captured, {0: np.array([1, 3])})
    x = torch.rand(3, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(sliced(x), module(x)[:, [1, 3]])


def test_a_graph_that_returns_no_tensors_is_refused() -> None:
    graph = fx.Graph()
    graph.output((graph.placeholder("x"),))
    with pytest.raises(TypeError, match="tuple of tensors"):
        outputs_of(graph)


def test_every_pass_says_what_it_does() -> None:
    assert all(step.__doc__ for step in PASSES)
