"""Random small networks, random demands: the property holds for all of them."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from prune_tool.surgery.capture import capture
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.slicing import slice_graph

SIZE = 4


class Apply(nn.Module):
    """A step without weights."""

    def __init__(self, step) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module, scale: bool) -> None:
        super().__init__()
        self.inner = inner
        self.gamma = nn.Parameter(torch.rand(1)) if scale else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        y = y if self.gamma is None else y * self.gamma
        y += x
        return y


class Dense(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], 1)


class Gate(nn.Module):
    """Squeeze and excite, over half of the channels."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.fc = nn.Linear(c // 2, c - c // 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.split([x.shape[1] // 2, x.shape[1] - x.shape[1] // 2], 1)
        return torch.cat([a, b * self.fc(a.mean((2, 3)))[:, :, None, None].sigmoid()], 1)


class Attention(nn.Module):
    def __init__(self, c: int, n_heads: int, fused: bool) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.n_heads, self.fused = n_heads, fused

    def forward(self, x: Tensor) -> Tensor:
        b, c = x.shape[:2]
        t = x.flatten(2).transpose(1, 2)
        qkv = self.qkv(t).reshape(b, -1, 3, self.n_heads, c // self.n_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, -1, c)).transpose(1, 2).reshape(x.shape)


class Mlp(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.Linear(2 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)


def norm(c: int, groups: int) -> nn.Module:
    if groups:
        return nn.GroupNorm(groups, c)
    layer = nn.BatchNorm2d(c)
    layer.running_mean, layer.running_var = torch.randn(c), torch.rand(c) + 0.5
    layer.weight, layer.bias = nn.Parameter(torch.randn(c)), nn.Parameter(torch.randn(c))
    return layer


def shuffle(groups: int) -> nn.Module:
    return Apply(lambda x: x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2))


def rolled(x: Tensor) -> Tensor:
    return x.roll((1, 2), (2, 3))


def flipped(x: Tensor) -> Tensor:
    return x.flip(1)


def reversed_pieces(x: Tensor) -> Tensor:
    return torch.stack(x.unbind(1)[::-1], 1)


@st.composite
def layers(draw: st.DrawFn, c: int, depth: int = 0) -> tuple[nn.Module, int]:
    """One step from ``c`` channels, and the channels after it."""
    divisor = draw(st.sampled_from([d for d in (1, 2, 3, 4, 6, 8) if c % d == 0]))
    kinds = [
        "conv",
        "grouped",
        "depthwise",
        "norm",
        "act",
        "shuffle",
        "gate",
        "attention",
        "mlp",
        "pool",
        "move",
        "part",
    ]
    kind = draw(st.sampled_from(kinds + (["residual", "dense"] if depth < 2 else [])))
    if kind in ("residual", "dense"):
        inner, made = draw(layers(c, depth + 1))
        if kind == "dense" and c + made <= 24:
            return Dense(inner), c + made
        return (Residual(inner, draw(st.booleans())), c) if made == c else (inner, made)
    wide = draw(st.sampled_from([4, 6, 8]))
    steps = {
        "conv": lambda: (nn.Conv2d(c, wide, 3, padding=1, bias=draw(st.booleans())), wide),
        "grouped": lambda: (nn.Conv2d(c, c * (1 + (c <= 8)), 1, groups=divisor), c * (1 + (c <= 8))),
        "depthwise": lambda: (nn.Conv2d(c, c, 3, padding=1, groups=c), c),
        "norm": lambda: (norm(c, draw(st.sampled_from([0, divisor]))), c),
        "act": lambda: (draw(st.sampled_from([nn.ReLU(inplace=True), nn.GELU(), nn.Hardswish(inplace=True)])), c),
        "shuffle": lambda: (shuffle(divisor), c),
        "gate": lambda: (Gate(c), c),
        "attention": lambda: (Attention(c, divisor, draw(st.booleans())), c),
        "mlp": lambda: (Mlp(c), c),
        "pool": lambda: (draw(st.sampled_from([nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1)])), c),
        "move": lambda: (Apply(draw(st.sampled_from([rolled, flipped, reversed_pieces]))), c),
        "part": lambda: (Apply(lambda x: x[:, 1 : c - 1]), c - 2) if c > 4 else (Apply(rolled), c),
    }  # fmt: skip
    return steps[kind]()


class Net(nn.Module):
    """A chain of steps; the neurons of two places in it are returned, the second perhaps of one place only."""

    def __init__(self, steps: list[nn.Module], first: int, one_place: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.steps, self.first, self.one_place = nn.ModuleList(steps), first, one_place

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        for i, step in enumerate(self.steps):
            x = step(x)
            if i == self.first:
                early = x.mean((2, 3))
        return early, x[:, :, 1, 2] if self.one_place else x.amax((2, 3))


@st.composite
def nets(draw: st.DrawFn) -> tuple[Net, tuple[int, int]]:
    torch.manual_seed(draw(st.integers(0, 99)))
    steps, widths = [], [8]
    for _ in range(draw(st.integers(1, 5))):
        step, width = draw(layers(widths[-1]))
        steps.append(step)
        widths.append(width)
    first = draw(st.integers(0, len(steps) - 1))
    return Net(steps, first, draw(st.booleans())).eval(), (widths[first + 1], widths[-1])


@settings(max_examples=30, derandomize=True, suppress_health_check=list(HealthCheck))
@given(nets(), st.data())
def test_slicing_is_exact_for_any_network_and_any_demand(net, data: st.DataObject) -> None:
    module, widths = net
    captured = capture(module, torch.rand(2, 3, SIZE, SIZE))
    outputs = data.draw(st.sets(st.sampled_from([0, 1]), min_size=1), label="outputs")
    kept = {
        i: np.array(sorted(data.draw(st.sets(st.integers(0, widths[i] - 1), min_size=1), label=f"kept {i}")))
        for i in outputs
    }
    round_to = data.draw(st.sampled_from([1, 4]), label="round_to")
    sliced = slice_graph(captured, kept, round_to=round_to)
    cost = cost_of(captured, kept, round_to=round_to)
    assert cost.n_params == sum(p.numel() for p in sliced.parameters())
    assert cost.macs <= cost_of(captured).macs
    for n_images in (1, 3):
        x = torch.randn(n_images, 3, SIZE, SIZE)
        with torch.no_grad():
            want = torch.cat([module(x)[i][:, indices] for i, indices in sorted(kept.items())], 1)
            torch.testing.assert_close(sliced(x), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
