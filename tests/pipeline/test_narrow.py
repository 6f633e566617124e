"""Narrowing keeps what it can: nothing lost where nothing needs to be, less lost the better it chooses and folds."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from prune_tool import defaults
from prune_tool.errors import DataError, ModelError, UsageError, VerificationError
from prune_tool.pipeline import narrow as narrowing_module
from prune_tool.pipeline.calibration import Sampling, moments_in_one_pass
from prune_tool.pipeline.consumer import Consumer
from prune_tool.pipeline.cutter import Plan
from prune_tool.pipeline.importance import importance_of
from prune_tool.pipeline.lockstep import Lockstep, bytes_per_image
from prune_tool.pipeline.narrow import Narrower
from prune_tool.pipeline.progress import Silent
from prune_tool.redundancy.reconstruction import Reconstruction
from prune_tool.surgery.capture import capture
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.groups import find_groups
from prune_tool.surgery.narrowing import narrow_graph
from tests.support import Noted

SIDE = 10


class Net(nn.Module):
    """A residual bottleneck with a 3 x 3 and a strided consumer, a grouped one, and an MLP over places."""

    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.reduce, self.norm = nn.Conv2d(8, width, 1), nn.BatchNorm2d(width)
        self.middle = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.expand = nn.Conv2d(width, 8, 1)
        self.up, self.grouped = nn.Conv2d(8, width, 1), nn.Conv2d(width, 8, 3, padding=1, stride=2, groups=2)
        self.fc1, self.fc2 = nn.Linear(8, width), nn.Linear(width, 8)

    def forward(self, images):
        x = self.stem(images)
        x = x + 3 * self.expand(torch.relu(self.middle(torch.relu(self.norm(self.reduce(x))))))
        x = self.grouped(torch.relu(self.up(x)))
        x = x.permute(0, 2, 3, 1)
        x = x + 3 * self.fc2(nn.functional.gelu(self.fc1(x)))
        return x.mean((1, 2))


class Plain(nn.Module):
    """Nothing in it is hidden: what its one layer reads is the image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, images):
        return self.conv(images).mean((2, 3))


def images(n_batches=4, seed=0):
    """Smooth noise: neighbouring places agree, as they do in photographs."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((n_batches, 8, 3, SIDE // 2, SIDE // 2), np.float32)
    return list(coarse.repeat(2, axis=3).repeat(2, axis=4))


def captured_from(module):
    return capture(module.eval(), torch.rand(2, 3, SIDE, SIDE))


@pytest.fixture(scope="module")
def captured(shaken_net):
    return captured_from(shaken_net)


@pytest.fixture(scope="module")
def shaken_net():
    torch.manual_seed(0)
    net = Net()
    with torch.no_grad():
        net.norm.running_mean.uniform_(-0.5, 0.5)
        net.norm.weight.uniform_(0.5, 1.5)
    return net


def narrow(captured, batches, plan, **options):
    return Narrower(captured, batches, **options).narrow(plan)


def answers(module, seed=1):
    with torch.no_grad():
        return torch.cat([module(torch.from_numpy(batch))[0] for batch in images(seed=seed)])


def off_by(module, captured, seed=1):
    """Share of the variance of the outputs that is lost on images that had no part in it."""
    wanted, found = answers(captured, seed), answers(module, seed)
    return float((wanted - found).square().sum() / (wanted - wanted.mean(0)).square().sum())


def test_the_hidden_widths_are_those_of_the_network(captured):
    assert [group.name for group in find_groups(captured)] == ["middle", "expand", "grouped", "fc2"]


def test_everything_kept_changes_nothing(captured):
    record, module = narrow(captured, images(), Plan(share=1.0))
    assert record.macs == record.full_macs == cost_of(captured).macs
    assert [(len(width.kept), width.effect) for width in record.widths] == [(16, 0.0)] * 4
    assert off_by(module, captured) < 1e-10


@pytest.mark.parametrize("allocation", ["allocated", "uniform"])
@pytest.mark.parametrize("strategy", ["pivoted", "random"])
def test_the_share_is_met_for_real(captured, strategy, allocation):
    plan = Plan(share=0.6, strategy=strategy, allocation=allocation)
    record, module = narrow(captured, images(), plan)
    assert 0.3 * record.full_macs < record.macs <= 0.6 * record.full_macs
    assert cost_of(module).macs == record.macs
    assert sum(p.numel() for p in module.parameters()) < sum(p.numel() for p in captured.parameters())
    for width, group in zip(record.widths, find_groups(captured), strict=True):
        assert list(width.kept) == sorted(width.kept)
        assert len(width.kept) % 4 == 0
        assert len(set(np.bincount(np.array(width.kept) // group.run, minlength=group.n_parts))) == 1
    again, twin = narrow(captured, images(), plan)
    assert again == record
    torch.testing.assert_close(answers(module), answers(twin), rtol=0, atol=0)


def test_copies_cost_next_to_nothing(shaken_net):
    """Every hidden width is doubled by copies: half of each is enough, but for what regularises (1e-3 of variance)."""
    doubled = Net(32)
    with torch.no_grad():
        for name, value in doubled.state_dict().items():
            source = shaken_net.state_dict()[name]
            for axis in range(source.ndim):
                if source.shape[axis] != value.shape[axis]:
                    source = source.repeat_interleave(2, axis)  # a grouped layer's copies stay in their group
            value.copy_(source)
    captured = captured_from(doubled)
    record, module = narrow(captured, images(), Plan(share=0.4, allocation="uniform"))
    assert [len(width.kept) for width in record.widths] == [16] * 4
    assert off_by(module, captured) < 1e-3
    _, dropped = narrow(captured, images(), Plan(share=0.4, allocation="uniform", fold=False))
    assert off_by(dropped, captured) > 0.1


def test_folding_and_pivots_pay(captured):
    narrower = Narrower(captured, images())

    def lost(**options):
        return off_by(narrower.narrow(Plan(share=0.5, **options))[1], captured)

    best = lost()
    assert best < 0.7 * lost(strategy="random")
    assert best < 0.7 * lost(fold=False)


def test_the_target_is_the_original_network(captured, monkeypatch):
    """Calibrated on the narrowed network alone, errors pile up."""
    plan = Plan(share=0.4, allocation="uniform")
    best = off_by(narrow(captured, images(), plan)[1], captured)
    rows = Sampling.rows

    def narrowed_alone(*args):
        x, x_hat = rows(*args)
        return x if x_hat is None else x_hat, None

    monkeypatch.setattr(Sampling, "rows", narrowed_alone)
    assert best < 0.95 * off_by(narrow(captured, images(), plan)[1], captured)


def halved(consumer, halves):
    """The layer with every other neuron."""
    kept = np.arange(0, consumer.width, 2)
    layer = consumer.layer(np.ones(len(consumer.weight)))
    return consumer.narrowed(kept, Reconstruction(layer, halves[0].merged(halves[1]), 1e-4).fold(kept))


def walked(captured):
    consumers = [Consumer(captured, group) for group in find_groups(captured)]
    batches = [torch.from_numpy(batch) for batch in images()]
    return consumers, batches, Lockstep(captured, batches), Sampling(n_images=32, seed=0)


def test_the_walk_answers_as_both_networks_do(captured):
    consumers, batches, walk, sampling = walked(captured)
    made, parted = {}, []
    for place, consumer in enumerate(consumers):
        [halves] = sampling.moments(walk.before(consumer.node), consumer, place)
        parted.append(halves[0].hh is not halves[0].xx)
        made[consumer.group.name] = halved(consumer, halves)
        walk.narrow(consumer, made[consumer.group.name])
    assert parted == [False, True, True, True]
    module = narrow_graph(captured, made)
    for batch, (twin,) in zip(batches, walk.outputs(), strict=True):
        with torch.no_grad():
            torch.testing.assert_close(twin.original, captured(batch)[0], rtol=0, atol=0)
            torch.testing.assert_close(twin.narrowed, module(batch)[0], rtol=1e-4, atol=1e-5)
    assert off_by(module, captured) > 1e-3


def test_each_network_is_passed_once(captured, monkeypatch):
    calls = []
    call = Lockstep._call
    monkeypatch.setattr(Lockstep, "_call", lambda self, *args: calls.append(args[2]) or call(self, *args))
    consumers, batches, walk, sampling = walked(captured)
    for place, consumer in enumerate(consumers):
        walk.narrow(consumer, halved(consumer, *sampling.moments(walk.before(consumer.node), consumer, place)))
    list(walk.outputs())
    n_calls = len(batches) * sum(node.op == "call_function" for node in captured.graph.nodes)
    assert calls.count("original") == n_calls
    assert 0 < calls.count("narrowed") < n_calls  # shared until the first narrowed layer


def test_what_is_held_keeps_within_the_bound(captured):
    consumers, batches, walk, sampling = walked(captured)
    bound = sum(map(len, batches)) * bytes_per_image(captured.graph, [consumer.node for consumer in consumers])
    most = 0
    for place, consumer in enumerate(consumers):
        cut = halved(consumer, *sampling.moments(walk.before(consumer.node), consumer, place))
        both = [t for values in walk._batches for twin in values.values() for t in (twin.original, twin.narrowed)]
        most = max(most, sum(t.nbytes for t in {id(t): t for t in both if isinstance(t, torch.Tensor)}.values()))
        walk.narrow(consumer, cut)
    assert 0.4 * bound < most <= bound


def test_importance_is_what_an_error_does_to_the_outputs(captured):
    """Against noise put into one channel of one layer's output, one channel and one layer at a time."""
    consumers, batches, _, _ = walked(captured)
    pixels = torch.cat(batches)
    found = importance_of(captured, pixels, consumers, seed=0)
    with torch.no_grad():
        (clean,) = captured(pixels)
    for consumer, importance in zip(consumers, found, strict=True):
        for channel in (0, 5):
            changed = with_noise(captured, consumer, channel, 1e-2)
            with torch.no_grad():
                effects = [(changed(pixels)[0] - clean) / clean.std(0, correction=0) for _ in range(30)]
            measured = float(torch.stack(effects).square().mean()) / 1e-4
            assert importance[channel] == pytest.approx(measured, rel=0.35)


def with_noise(captured, consumer, channel, scale):
    noisy = copy.deepcopy(captured)
    node = next(n for n in noisy.graph.nodes if n.name == consumer.node.name)

    def add(values):
        noise = torch.zeros_like(values)
        at = noise.movedim(consumer.output_axis, 0)[channel]
        at += scale * torch.randn(at.shape)
        return values + noise

    with noisy.graph.inserting_after(node):
        added = noisy.graph.call_function(add, (node,))
    node.replace_all_uses_with(added, delete_user_cb=lambda user: user is not added)
    noisy.recompile()
    return noisy


def test_images_beyond_the_bound_are_left_out_aloud(captured, monkeypatch):
    consumers = [Consumer(captured, group) for group in find_groups(captured)]
    needed = bytes_per_image(captured.graph, [consumer.node for consumer in consumers])
    monkeypatch.setattr(defaults, "CALIBRATION_BYTES", 13 * needed)
    watching = Noted()
    record, _ = narrow(captured, images(), Plan(share=0.6), progress=watching)
    assert record.n_images == 13
    assert watching.notes[0].startswith("calibrating on 13 images")
    monkeypatch.setattr(defaults, "CALIBRATION_BYTES", 32 * needed)
    watching = Noted()
    assert narrow(captured, images(), Plan(share=0.6), progress=watching)[0].n_images == 32
    assert not watching.notes


def test_moments_are_of_the_places_that_are_read(captured):
    """With all places taken, the one pass finds the covariance of a layer's inputs."""
    consumers, batches, walk, sampling = walked(captured)
    found = moments_in_one_pass(captured, batches, consumers, sampling, Silent())
    for consumer, (halves,) in zip(consumers, found, strict=True):
        moments = halves[0].merged(halves[1])
        values = torch.cat([values[consumer.input].original for values in walk.before(consumer.node)])
        rows = (values if consumer.group.kind == "features" else values.movedim(1, -1)).flatten(0, -2).numpy()
        assert moments.n_rows == len(rows)
        np.testing.assert_allclose(moments.hh, np.cov(rows, rowvar=False, bias=True), rtol=1e-4, atol=1e-7)


def test_what_cannot_be_narrowed_is_refused(captured):
    with pytest.raises(ModelError, match="no width"):
        narrow(captured_from(Plain()), images(), Plan(share=0.5))
    for given, n_found in [([], "no images"), ([images()[0][:1]], "1 image")]:
        with pytest.raises(DataError, match=f"{n_found}. Give at least two"):
            narrow(captured, given, Plan(share=0.5))
    narrow(captured, [images()[0][:2]], Plan(share=0.9))
    with pytest.raises(DataError, match="not finite"):
        narrow(captured, [np.full((2, 3, SIDE, SIDE), np.nan, np.float32)], Plan(share=0.5))


def test_the_least_share_is_named_and_works(captured):
    with pytest.raises(UsageError, match=r"Ask for ([\d.]+) or more") as caught:
        narrow(captured, images(), Plan(share=0.01))
    share = float(caught.value.remedy.split()[2])
    record, _ = narrow(captured, images(), Plan(share=share))
    assert record.macs <= share * record.full_macs


def test_a_share_is_of_the_network_as_it_is():
    """What no output reads costs nothing in the narrowed network, so that the widths may keep the more."""
    import timm

    torch.manual_seed(0)
    captured = capture(timm.create_model("test_vit", num_classes=0, img_size=64).eval(), torch.rand(2, 3, 64, 64))
    read = cost_of(narrow_graph(captured, {})).macs
    pictures = list(np.random.default_rng(0).random((2, 8, 3, 64, 64), np.float32))
    for share in (0.5 * (1 + read / cost_of(captured).macs), 0.8):
        record, module = narrow(captured, pictures, Plan(share=share, round_to=1))
        assert record.full_macs == cost_of(captured).macs
        assert cost_of(module).macs == record.macs == pytest.approx(min(read, share * record.full_macs), rel=0.02)


def test_another_network_than_the_calibrated_one_is_refused(captured, monkeypatch):
    monkeypatch.setattr(narrowing_module, "narrow_graph", lambda captured, _cuts: captured)
    with pytest.raises(VerificationError, match="differ by"):
        narrow(captured, images(), Plan(share=0.5))


@pytest.mark.parametrize("family", ["test_vit", "test_efficientnet", "test_mambaout", "test_byobnet"])
def test_families_are_narrowed_for_real(family):
    """Attention, depthwise and gated layers: the rewritten network answers what was calibrated (or this raises)."""
    import timm

    torch.manual_seed(0)
    size = {"img_size": 64} if "vit" in family else {}
    captured = capture(timm.create_model(family, num_classes=0, **size).eval(), torch.rand(2, 3, 64, 64))
    pictures = np.random.default_rng(0).random((2, 8, 3, 64, 64), np.float32)
    record, module = narrow(captured, list(pictures), Plan(share=0.75))
    assert record.macs < 0.78 * record.full_macs
    assert record.macs == cost_of(module).macs
    assert any(len(width.kept) < width.width for width in record.widths)
