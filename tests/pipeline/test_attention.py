"""Queries and keys are narrowed with everything else: weighed, calibrated, exact where they may be, and remembered."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prune_tool.pipeline.calibration import Sampling
from prune_tool.pipeline.cutter import Plan, cutter_of
from prune_tool.pipeline.importance import importance_of
from prune_tool.pipeline.lockstep import Lockstep
from prune_tool.pipeline.narrow import Narrower, rebuild
from prune_tool.pipeline.narrowed import _cuts, _flat
from prune_tool.pipeline.reader import reader_of
from prune_tool.surgery.capture import capture
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.groups import find_groups
from prune_tool.surgery.narrowing import Turned, narrow_graph

HEADS, D, SIDE = 2, 8, 8
WIDTH = HEADS * D


class Net(nn.Module):
    """Attention over places, or over the places of four windows, fused or step by step; then an MLP."""

    def __init__(self, *, is_fused=True, n_windows=1):
        super().__init__()
        self.is_fused, self.n_windows = is_fused, n_windows
        self.stem = nn.Conv2d(3, WIDTH, 2, 2)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def attend(self, q, k, v):
        if self.is_fused:
            return F.scaled_dot_product_attention(q, k, v)
        return ((q * D**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v

    def forward(self, images):
        x = self.stem(images).flatten(2).transpose(1, 2)
        tokens = x.reshape(-1, x.shape[1] // self.n_windows, WIDTH)
        qkv = self.qkv(3 * tokens).reshape(tokens.shape[0], -1, 3, HEADS, D).permute(2, 0, 3, 1, 4)
        z = self.attend(*qkv.unbind(0)).transpose(1, 2).reshape(x.shape)
        x = x + 3 * self.proj(z)
        return (x + self.fc2(F.gelu(self.fc1(x)))).mean(1)


def images(seed=0):
    rng = np.random.default_rng(seed)
    return list(rng.random((4, 8, 3, SIDE // 2, SIDE // 2), np.float32).repeat(2, axis=3).repeat(2, axis=4))


def captured_from(net):
    return capture(net.eval(), torch.rand(2, 3, SIDE, SIDE))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


KINDS = [{}, {"is_fused": False}, {"n_windows": 4}]


def made(kind):
    torch.manual_seed(0)
    return Net(**kind)


def reading(captured, kind="scores"):
    (group,) = (group for group in find_groups(captured) if group.kind == kind)
    return reader_of(captured, group)


def lost(module, captured):
    with torch.no_grad():
        want, got = (torch.cat([m(torch.from_numpy(b))[0] for b in images(seed=1)]) for m in (captured, module))
    return float((want - got).square().sum() / (want - want.mean(0)).square().sum())


def of_low_rank(net, n):
    """The net with queries that lie in ``n`` dimensions of each head, turned anyhow."""
    low = copy.deepcopy(net)
    with torch.no_grad():
        for head in range(HEADS):
            rows = slice(head * D, (head + 1) * D)
            into = torch.linalg.qr(torch.randn(D, D)).Q
            projection = into[:, :n] @ into[:, :n].mT
            low.qkv.weight[rows] = projection @ low.qkv.weight[rows]
            low.qkv.bias[rows] = projection @ low.qkv.bias[rows]
    return low


@pytest.mark.parametrize("kind", KINDS)
def test_queries_of_few_dimensions_are_found_and_cost_nothing(kind):
    captured = captured_from(of_low_rank(made(kind), 3))
    product = reading(captured)
    batches = [torch.from_numpy(batch) for batch in images()]
    walk, sampling = Lockstep(captured, batches), Sampling(n_images=32, seed=0)
    moments = sampling.moments(walk.before(product.node), product, 0)
    cutter = cutter_of(product, np.ones(HEADS), 0, 0)
    record, cut = cutter.cut(moments, Plan(share=0.5), 3)
    assert isinstance(cut, Turned)
    assert (record.kind, record.width, len(record.kept)) == ("scores", D, 3)
    assert 5 * record.error < cutter.cut(moments, Plan(share=0.5), 2)[0].error
    walk.narrow(product, cut)
    narrow = narrow_graph(captured, {product.group.name: cut})
    for batch, (twin,) in zip(batches, walk.outputs(), strict=True):
        with torch.no_grad():
            torch.testing.assert_close(twin.narrowed, narrow(batch)[0], rtol=1e-4, atol=1e-5)
    assert lost(narrow, captured) < 1e-4
    dropped = cutter.cut(moments, Plan(share=0.5, fold=False), 3)[1]
    assert lost(narrow_graph(captured, {product.group.name: dropped}), captured) > 10 * lost(narrow, captured)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_queries_and_the_keys_about_their_mean(kind):
    captured = captured_from(made(kind))
    product = reading(captured)
    batch = torch.from_numpy(images()[0])
    [values] = Lockstep(captured, [batch]).before(product.node)
    query, key = product.inputs
    q, k = values[query.input].original, values[key.input].original
    k = k if kind.get("is_fused", True) else k.mT
    k = k - k.mean(2, keepdim=True)
    n_windows = kind.get("n_windows", 1)
    for read, value in ((query, q), (key, k)):
        assert (read.width, read.n_places) == (WIDTH, SIDE * SIDE // 4)
        rows = read.rows(values[read.input].original, torch.arange(read.n_places))
        by_hand = [
            torch.cat([value[i * n_windows + w].transpose(0, 1).flatten(1) for w in range(n_windows)])
            for i in range(len(batch))
        ]
        torch.testing.assert_close(rows, torch.stack(by_hand))


@pytest.mark.parametrize("kind", KINDS[:2])
def test_importance_is_what_an_error_of_a_score_does_to_the_outputs(kind):
    """Against noise put into all scores of one head: as a mask where attention is fused."""
    captured = captured_from(made(kind))
    product = reading(captured)
    pixels = torch.cat([torch.from_numpy(batch) for batch in images()])
    (found,) = importance_of(captured, pixels, [product], seed=0)
    assert found.shape == (HEADS,)
    with torch.no_grad():
        (clean,) = captured(pixels)
    for head in range(HEADS):
        changed = with_noise(captured, product.node.name, head, 1e-2)
        with torch.no_grad():
            effects = [(changed(pixels)[0] - clean) / clean.std(0, correction=0) for _ in range(40)]
        assert found[head] == pytest.approx(float(torch.stack(effects).square().mean()) / 1e-4, rel=0.3)


def with_noise(captured, name, head, scale):
    noisy = copy.deepcopy(captured)
    node = next(n for n in noisy.graph.nodes if n.name == name)

    def noise(like):
        tokens = SIDE * SIDE // 4
        found = torch.zeros(like.shape[0], HEADS, tokens, tokens)
        found[:, head] = scale * torch.randn(like.shape[0], tokens, tokens)
        return found

    if "attention" in str(node.target):
        with noisy.graph.inserting_before(node):
            mask = noisy.graph.call_function(lambda q: noise(q) * D**-0.5, (node.args[0],))
        node.args = (*node.args[:3], mask, *node.args[4:])
    else:
        with noisy.graph.inserting_after(node):
            added = noisy.graph.call_function(lambda s: s + noise(s), (node,))
        node.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)
    noisy.recompile()
    return noisy


@pytest.mark.parametrize("allocation", ["uniform", "allocated"])
def test_attention_is_narrowed_with_everything_else_and_remembered(net, allocation):
    captured = captured_from(net)
    narrower = Narrower(captured, images())
    record, made_ = narrower.calibrate(Plan(share=0.6, allocation=allocation, round_to=2))
    assert {width.kind for width in record.widths} == {"scores", "value", "features"}
    assert record.macs <= 0.6 * record.full_macs
    narrow = rebuild(captured, _cuts(_flat(made_)))
    assert cost_of(narrow).macs == record.macs
    with torch.no_grad():
        torch.testing.assert_close(
            narrow(torch.from_numpy(images()[0])), rebuild(captured, made_)(torch.from_numpy(images()[0]))
        )
    kept = {width.kind: len(width.kept) for width in record.widths}
    if allocation == "uniform":
        assert kept["scores"] < D
    assert lost(narrow, captured) < lost(
        Narrower(captured, images()).narrow(Plan(share=0.6, fold=False, round_to=2))[1], captured
    )
