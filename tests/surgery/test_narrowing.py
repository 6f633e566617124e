"""The narrowed network is the captured one, reading only what is kept."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from prune_tool.surgery.capture import capture, outputs_of
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.groups import HiddenGroup, consumer_weight, find_groups
from prune_tool.surgery.narrowing import Narrowed, Turned, cost_of_narrowed, narrow_graph
from prune_tool.surgery.site import shape_of
from prune_tool.surgery.slicing import slice_graph
from tests.surgery.narrowing import Masked, cut_all, off_by, some_of, some_of_all, unfolded

SHAPE = (3, 8, 8)


class Mixed(nn.Module):
    """One of everything: a grouped bottleneck with squeeze and excite, attention whose values are a hidden width's
    consumer too, a gated MLP. Two taps and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, 2, 1)
        self.wide, self.deep, self.thin = (
            nn.Conv2d(12, 16, 1),
            nn.Conv2d(16, 16, 3, 1, 1, groups=4),
            nn.Conv2d(16, 12, 1),
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(16)])
        self.squeeze, self.excite = nn.Linear(12, 6), nn.Linear(6, 12)
        self.before, self.qkv, self.proj = nn.Linear(12, 10), nn.Linear(10, 36), nn.Linear(12, 12)
        self.scale = nn.Parameter(torch.randn(12))
        self.make, self.read = nn.Linear(12, 20), nn.Linear(10, 12, bias=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        y = self.norms[1](self.deep(self.norms[0](self.wide(x)).relu())).relu()
        y = self.thin(y)
        x = x + y * self.excite(self.squeeze(y.mean((2, 3))).relu()).sigmoid()[:, :, None, None]
        t = x.flatten(2).transpose(1, 2)
        qkv = self.qkv(self.before(t).relu()).reshape(x.shape[0], -1, 3, 3, 4).permute(2, 0, 3, 1, 4)
        z = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).reshape(t.shape)
        t = t + self.proj(z * self.scale)
        a, b = self.make(t).chunk(2, -1)
        return x.mean((2, 3)), t[:, 0], self.head((t + self.read(a.sigmoid() * b)).mean(1))


@pytest.fixture(scope="module")
def mixed(shaken) -> fx.GraphModule:
    torch.manual_seed(0)
    return capture(shaken(Mixed()), torch.rand(2, *SHAPE))


def outputs(captured: fx.GraphModule, n: int = 3) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found: tuple[Tensor, ...] = captured(torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(n)))
    return found


def test_there_is_one_of_everything(mixed: fx.GraphModule) -> None:
    assert {group.name: (group.kind, group.n_parts, group.aligned) for group in find_groups(mixed)} == {
        "deep": ("channels", 4, False),
        "thin": ("channels", 4, False),
        "excite": ("features", 1, False),
        "qkv": ("features", 1, False),
        "qkv.scores": ("scores", 1, False),
        "proj": ("value", 3, True),
        "read": ("features", 1, False),
    }


def test_all_neurons_with_their_own_weights_change_nothing(mixed: fx.GraphModule) -> None:
    assert off_by(outputs(mixed), outputs(narrow_graph(mixed, cut_all(mixed, 1)))) < 1e-6
    assert off_by(outputs(mixed), outputs(narrow_graph(mixed, {}))) < 1e-6


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_narrowing_is_the_captured_network_reading_only_what_is_kept(
    mixed: fx.GraphModule, data: st.DataObject
) -> None:
    groups = data.draw(st.lists(st.sampled_from(find_groups(mixed)), min_size=1, unique=True), label="groups")
    kept = {group.name: data.draw(kept_of(group), label=group.name) for group in groups}
    cuts = {group.name: unfolded(mixed, group, kept[group.name]) for group in groups}
    narrow = narrow_graph(mixed, cuts)
    for n in (1, 3):
        images = torch.rand(n, *SHAPE)
        with torch.no_grad():
            assert off_by(Masked(mixed, kept).run(images), narrow(images)) < 1e-5
    assert cost_of(narrow) == cost_of_narrowed(mixed, {name: len(indices) for name, indices in kept.items()})


@st.composite
def kept_of(draw: st.DrawFn, group: HiddenGroup) -> np.ndarray:
    run = group.width // group.n_parts
    n = draw(st.integers(1, run))
    runs = [draw(st.permutations(range(run)))[:n] for _ in range(group.n_parts)]
    return np.concatenate([part * run + np.sort(np.array(places)) for part, places in enumerate(runs)])


def test_weight_and_bias_given_are_those_that_compute(mixed: fx.GraphModule, shaken) -> None:
    """With any weights: the columns of kept neurons in the order of ``kept``, the bias added where there was none."""
    group = next(group for group in find_groups(mixed) if group.name == "read")
    kept, weight, bias = np.array([1, 4, 9]), torch.randn(12, 3), torch.randn(12)
    narrow = narrow_graph(mixed, {"read": Narrowed(kept=kept, weight=weight, bias=bias)})
    whole = torch.zeros(12, 10)
    whole[:, kept] = weight
    net = shaken(Mixed())
    net.load_state_dict(mixed.state_dict(), strict=False)
    net.read = nn.Linear(10, 12)
    with torch.no_grad():
        net.read.weight.copy_(whole)
        net.read.bias.copy_(bias)
    assert group.width == 10
    assert off_by(outputs(capture(net, torch.rand(2, *SHAPE))), outputs(narrow)) < 1e-5


def test_what_made_the_other_neurons_is_gone(mixed: fx.GraphModule) -> None:
    narrow = narrow_graph(mixed, cut_all(mixed, 0.5))
    shapes = {name: tuple(value.shape) for name, value in narrow.named_parameters()}
    assert shapes["wide.weight"] == (8, 12, 1, 1)
    assert shapes["deep.weight"] == (8, 2, 3, 3)
    assert shapes["thin.weight"] == (12, 8, 1, 1)
    assert shapes["norms.0.weight"] == shapes["norms.1.bias"] == (8,)
    assert shapes["squeeze.weight"] == (3, 12)
    assert shapes["qkv.weight"] == (12 + 6, 5)  # two dimensions of three heads for queries and keys, of values two
    assert shapes["scale"] == (6,)
    assert shapes["make.weight"] == (10, 12)
    assert shapes["read.bias"] == (12,)


def test_it_is_a_captured_network(mixed: fx.GraphModule) -> None:
    """Shapes as they are, taps that can be cut, groups that can be narrowed again under the same names."""
    narrow = narrow_graph(mixed, cut_all(mixed, 0.75))
    assert [shape_of(value)[-1] for value in outputs_of(narrow.graph)] == [12, 12, 5]
    shapes = _Shapes(narrow)
    shapes.run(torch.rand(7, *SHAPE))
    assert shapes.found == {node: shape_of(node, batch=7) for node in shapes.found}
    kept = {0: np.array([2, 5]), 2: None}
    want = torch.cat([outputs(narrow)[0][:, [2, 5]], outputs(narrow)[2]], 1)
    with torch.no_grad():
        images = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(3))
        assert torch.allclose(slice_graph(narrow, kept)(images), want, atol=1e-5)
    assert [group.name for group in find_groups(narrow)] == [group.name for group in find_groups(mixed)]
    assert [group.consumer for group in find_groups(narrow)] == [group.consumer for group in find_groups(mixed)]
    cuts = cut_all(narrow, 0.5, seed=1)
    narrower = narrow_graph(narrow, cuts)
    images = torch.rand(3, *SHAPE)
    with torch.no_grad():
        masked = Masked(narrow, some_of_all(narrow, 0.5, seed=1)).run(images)
        assert off_by(masked, narrower(images)) < 1e-5


class Expanded(nn.Module):
    """An inverted residual of grouped convolutions with squeeze and excite, whose expansion two layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.deep = (
            nn.Conv2d(3, 6, 2, 2),
            nn.Conv2d(6, 12, 1),
            nn.Conv2d(12, 12, 3, 1, 1, groups=3),
        )
        self.squeeze, self.excite, self.thin = nn.Linear(12, 4), nn.Linear(4, 12), nn.Conv2d(12, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = self.stem(x)
        y = self.deep(self.wide(x).relu()).relu()
        gate = self.excite(self.squeeze(y.mean((2, 3))).relu()).sigmoid()
        return ((x + self.thin(y * gate[:, :, None, None])).mean((2, 3)),)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_coupled_consumers_read_the_same_neurons(expanded: fx.GraphModule, data: st.DataObject) -> None:
    groups = find_groups(expanded, coupled=True)
    assert [(group.name, group.n_parts, len(group.others)) for group in groups] == [
        ("deep", 3, 0),
        ("excite", 1, 0),
        ("thin", 3, 1),
    ]
    kept = {group.name: data.draw(kept_of(group), label=group.name) for group in groups}
    narrow = narrow_graph(expanded, {group.name: unfolded(expanded, group, kept[group.name]) for group in groups})
    images = torch.rand(2, *SHAPE)
    with torch.no_grad():
        assert off_by(Masked(expanded, kept).run(images), narrow(images)) < 1e-5
    assert cost_of(narrow) == cost_of_narrowed(expanded, {name: len(indices) for name, indices in kept.items()})
    shapes = {name: tuple(value.shape) for name, value in narrow.named_parameters()}
    n_excited, n_thin = len(kept["excite"]), len(kept["thin"])
    assert shapes["excite.weight"] == (n_thin, n_excited)
    assert shapes["squeeze.weight"] == (n_excited, n_thin)


@pytest.fixture(scope="module")
def expanded(shaken) -> fx.GraphModule:
    torch.manual_seed(0)
    return capture(shaken(Expanded()), torch.rand(2, *SHAPE))


def test_every_consumer_must_be_given_weights(expanded: fx.GraphModule) -> None:
    group = find_groups(expanded, coupled=True)[-1]
    cut = unfolded(expanded, group, np.array([0, 4, 8]))
    lonely = Narrowed(kept=cut.kept, weight=cut.weight, bias=cut.bias)
    with pytest.raises(ValueError, match=f"thin is read besides by {group.others[0]}; got weights of none"):
        narrow_graph(expanded, {"thin": lonely})


class _Shapes(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.found[n] = tuple(value.shape)
        return value


def test_the_captured_network_is_left_as_it_was(mixed: fx.GraphModule) -> None:
    code, before = mixed.code, {name: value.clone() for name, value in mixed.state_dict().items()}
    cuts = cut_all(mixed, 0.5)
    given = copy.deepcopy(cuts)
    narrow = narrow_graph(mixed, cuts)
    for parameter in narrow.parameters():
        assert parameter.requires_grad
        parameter.data.zero_()
    assert mixed.code == code
    assert all(torch.equal(value, mixed.state_dict()[name]) for name, value in before.items())
    for name, cut in cuts.items():
        tensors = ("query", "key") if isinstance(cut, Turned) else ("weight", "bias")
        assert all(torch.equal(getattr(cut, tensor), getattr(given[name], tensor)) for tensor in tensors)


def test_macs_fall_by_what_a_neuron_costs_among_halves(mixed: fx.GraphModule) -> None:
    groups = find_groups(mixed)
    half = {group.name: group.width // 2 // group.n_parts * group.n_parts for group in groups}
    there = cost_of_narrowed(mixed, half)
    for group in groups:
        narrower = cost_of_narrowed(mixed, half | {group.name: half[group.name] - group.n_parts})
        assert there.macs - narrower.macs == pytest.approx(group.macs_per_neuron * group.n_parts)
        assert there.n_params - narrower.n_params == pytest.approx(group.params_per_neuron * group.n_parts)


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ([], "ascending indices below 12"),
        ([3, 1, 5], "ascending"),
        ([0, 0, 4], "ascending"),
        ([0, 4, 12], "below 12"),
        ([-1, 4, 8], "below 12"),
        ([0, 1, 4], r"as many neurons in each of 3 runs; got \[2, 1, 0\]"),
        ([0, 4, 8, 9], "as many neurons in each of 3 runs"),
    ],
)
def test_kept_neurons_that_do_not_fit_are_refused(kept: list[int], said: str, mixed: fx.GraphModule) -> None:
    cut = Narrowed(kept=np.array(kept, dtype=np.int64), weight=torch.zeros(12, len(kept)), bias=torch.zeros(12))
    with pytest.raises(ValueError, match=said):
        narrow_graph(mixed, {"proj": cut})


def test_weights_that_do_not_fit_are_refused(mixed: fx.GraphModule) -> None:
    kept, group = np.array([0, 4, 8]), next(group for group in find_groups(mixed) if group.name == "deep")
    with pytest.raises(ValueError, match=r"takes a weight \(12, 3\) and a bias \(12,\); got \(12, 4\) and \(12,\)"):
        narrow_graph(mixed, {"proj": Narrowed(kept=kept, weight=torch.zeros(12, 4), bias=torch.zeros(12))})
    whole = Narrowed(kept=some_of(group, 1), weight=torch.zeros(16, 4, 3, 3), bias=torch.zeros(16))
    with pytest.raises(ValueError, match=r"takes a weight \(16, 1, 3, 3\)"):
        narrow_graph(mixed, {"deep": whole})
    assert consumer_weight(mixed, group).shape == (16, 4, 3, 3)


def test_groups_that_are_none_are_refused(mixed: fx.GraphModule) -> None:
    cut = Narrowed(kept=np.array([0]), weight=torch.zeros(12, 1), bias=torch.zeros(12))
    with pytest.raises(ValueError, match=r"no hidden group head; there are deep, thin, excite, qkv, qkv\.scores, proj"):
        narrow_graph(mixed, {"head": cut})
    with pytest.raises(ValueError, match="13 cannot be kept"):
        cost_of_narrowed(mixed, {"proj": 13})
