"""Products of queries and keys: which can be turned, and that what is turned computes with the maps given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from prune_tool.surgery.capture import capture
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.groups import find_groups
from prune_tool.surgery.narrowing import Turned, cost_of_narrowed, narrow_graph
from prune_tool.surgery.scores import scores_of
from prune_tool.surgery.slicing import slice_graph

SHAPE = (3, 8, 8)
HEADS, D, WIDTH = 2, 4, 8
TOKENS = 16


class Fused(nn.Module):
    """One layer makes queries, keys and values; attention is fused."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 2, 2)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.q, self.kv = nn.Linear(WIDTH, WIDTH, bias=False), nn.Conv2d(WIDTH, 2 * WIDTH, 1)
        self.extra = nn.Parameter(torch.randn(WIDTH))

    def heads(self, t: Tensor) -> Tensor:
        return t.reshape(t.shape[0], -1, HEADS, D).transpose(1, 2)

    def made(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(t).chunk(3, -1)
        return self.heads(q), self.heads(k), self.heads(v)

    def turned(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """What a test puts in place of narrowing."""
        return q, k

    def product(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=D**-0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        t = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = self.made(t)
        z = self.product(*self.turned(q, k), v)
        return ((t + self.proj(z.transpose(1, 2).flatten(2))).mean(1),)


class Apart(Fused):
    """Queries of a layer without bias, keys and values of a convolution."""

    def made(self, t):
        k, v = self.kv(t.transpose(1, 2).unflatten(2, (4, 4))).flatten(2).transpose(1, 2).chunk(2, -1)
        return self.heads(self.q(t)), self.heads(k), self.heads(v)


class Explicit(Fused):
    """Scaled queries, transposed keys, softmax, a product."""

    def product(self, q, k, v):
        return ((q * D**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v


class Masked(Fused):
    def product(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=D**-0.5)


@pytest.mark.parametrize("net", [Fused, Apart, Explicit, Masked])
def test_turned_products_compute_with_the_maps_given(net: type[Fused], shaken) -> None:
    module = shaken(net())
    captured = capture(module, torch.rand(2, *SHAPE))
    (scores,) = scores_of(captured)
    group = next(group for group in find_groups(captured) if group.kind == "scores")
    assert (group.name, group.width, group.n_parts) == (scores.name, D, 1)
    assert group.name == ("q.scores" if net is Apart else "qkv.scores")
    for n in (1, 3, D):
        cut = Turned(query=torch.randn(HEADS, n, D), key=torch.randn(HEADS, n, D))
        module.turned = lambda q, k, cut=cut: (q @ cut.query.mT, k @ cut.key.mT)
        narrow = narrow_graph(captured, {group.name: cut})
        for images in (torch.rand(1, *SHAPE), torch.rand(3, *SHAPE)):
            with torch.no_grad():
                torch.testing.assert_close(narrow(images), module(images), rtol=1e-4, atol=1e-5)
        assert cost_of(narrow) == cost_of_narrowed(captured, {group.name: n})
        saved = cost_of(captured).macs - cost_of(narrow).macs
        assert saved == (D - n) * HEADS * (2 * TOKENS * WIDTH + TOKENS * TOKENS)


def test_a_turned_network_can_be_turned_and_cut_again(shaken) -> None:
    captured = capture(shaken(Fused()), torch.rand(2, *SHAPE))
    first = Turned(query=torch.randn(HEADS, 3, D), key=torch.randn(HEADS, 3, D))
    then = Turned(query=torch.randn(HEADS, 2, 3), key=torch.randn(HEADS, 2, 3))
    both = Turned(query=then.query @ first.query, key=then.key @ first.key)
    twice = narrow_graph(narrow_graph(captured, {"qkv.scores": first}), {"qkv.scores": then})
    images = torch.rand(3, *SHAPE)
    with torch.no_grad():
        (want,) = narrow_graph(captured, {"qkv.scores": both})(images)
        torch.testing.assert_close(twice(images)[0], want, rtol=1e-4, atol=1e-5)
        kept = np.array([1, 6])
        torch.testing.assert_close(slice_graph(twice, {0: kept})(images), want[:, kept], rtol=1e-4, atol=1e-5)


class Rotary(Fused):
    """Every dimension of a query by another number."""

    def turned(self, q, k):
        return q * self.extra[:D], k


class Normed(Fused):
    def turned(self, q, k):
        return F.normalize(q, dim=-1), k


class Shifted(Fused):
    def turned(self, q, k):
        return q + self.extra[:D], k


class Asked(Fused):
    """Queries that are parameters."""

    def turned(self, q, k):
        return self.extra.reshape(1, HEADS, 1, D).expand(q.shape[0], -1, -1, -1), k


class Tied(Fused):
    """Queries are keys."""

    def turned(self, q, _):
        return q, q


class Grouped(Apart):
    """Keys from a grouped convolution, whose rows read different channels."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = nn.Conv2d(WIDTH, 2 * WIDTH, 1, groups=2)


class Computed(Fused):
    """The weight is computed anew, as with standardised ones."""

    def made(self, t):
        q, k, v = F.linear(t, self.qkv.weight * 2, self.qkv.bias).chunk(3, -1)
        return self.heads(q), self.heads(k), self.heads(v)


class Channels(Fused):
    """Cross-covariance: what is summed over are the tokens."""

    def product(self, q, k, v):
        scores = q.transpose(-2, -1) @ k
        return (scores.softmax(-1) @ v.transpose(-2, -1)).transpose(-2, -1)


@pytest.mark.parametrize("net", [Rotary, Normed, Shifted, Asked, Tied, Grouped, Computed, Channels])
def test_what_cannot_be_turned_is_left_out(net: type[Fused], shaken) -> None:
    captured = capture(shaken(net()), torch.rand(2, *SHAPE))
    assert not scores_of(captured)
    assert "scores" not in {group.kind for group in find_groups(captured)}


class Told(Fused):
    """The queries are an output, too."""

    def forward(self, x):
        t = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = self.made(t)
        return q.mean((1, 2)), self.product(q, k, v).mean((1, 2))


def test_what_somebody_else_reads_is_not_hidden(shaken) -> None:
    captured = capture(shaken(Told()), torch.rand(2, *SHAPE))
    assert len(scores_of(captured)) == 1
    assert "scores" not in {group.kind for group in find_groups(captured)}


def test_maps_that_do_not_fit_are_refused(shaken) -> None:
    captured: fx.GraphModule = capture(shaken(Fused()), torch.rand(2, *SHAPE))
    for heads, n, d in ((HEADS, 2, D + 1), (HEADS, D + 1, D), (HEADS + 1, 2, D), (HEADS, 0, D)):
        cut = Turned(query=torch.rand(heads, n, d), key=torch.rand(heads, n, d))
        with pytest.raises(ValueError, match="map"):
            narrow_graph(captured, {"qkv.scores": cut})
    with pytest.raises(ValueError, match="proj is of the kind value"):
        narrow_graph(captured, {"proj": Turned(query=torch.rand(2, 2, 4), key=torch.rand(2, 2, 4))})
