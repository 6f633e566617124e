"""Which widths are hidden: networks of a few lines, each with one thing that makes them so or not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prune_tool.surgery.capture import capture
from prune_tool.surgery.groups import HiddenGroup, consumer_bias, consumer_weight, find_groups, node_of

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """A stem, then ``hidden`` from 8 channels to ``wide``, then a consumer."""

    def __init__(self, wide: int = 12, groups: int = 1, n_out: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.make = nn.Conv2d(8, wide, 1)
        self.norm = nn.BatchNorm2d(wide)
        self.read = nn.Conv2d(wide, n_out, 3, padding=1, groups=groups)

    def start(self, x: Tensor) -> Tensor:
        return self.stem(x).relu()

    def hidden(self, x: Tensor) -> Tensor:
        return self.norm(self.make(x)).relu()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.start(x)
        return ((x + self.read(self.hidden(x))).mean((2, 3)),)


def groups_of(net: nn.Module, shaken: Callable[[nn.Module], nn.Module]) -> dict[str, HiddenGroup]:
    return {group.name: group for group in find_groups(capture(shaken(net), torch.rand(2, *SHAPE)))}


def test_a_width_that_one_layer_makes_and_one_reads_is_hidden(shaken) -> None:
    found = groups_of(Net(), shaken)
    assert list(found) == ["read"]
    group = found["read"]
    assert (group.kind, group.width, group.n_parts, group.aligned) == ("channels", 12, 1, False)
    places = 4 * 4
    assert group.macs_per_neuron == places * (8 + 9 * 8)
    assert group.params_per_neuron == 8 + 1 + 2 + 9 * 8  # a row, its bias, its norm, a column


class Residual(Net):
    def forward(self, x):
        x = self.start(x)
        y = self.hidden(x)
        return ((self.read(y).mean((2, 3)) + y[:, :8].mean((2, 3))),)


class TwoReaders(Net):
    def forward(self, x):
        y = self.hidden(self.start(x))
        return (self.read(y).mean((2, 3)) + F.conv2d(y, self.read.weight * 2).mean((2, 3)),)


class Tap(Net):
    def forward(self, x):
        y = self.hidden(self.start(x))
        return y.mean((2, 3)), self.read(y).mean((2, 3))


class LayerNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.over = nn.LayerNorm(12)

    def hidden(self, x):
        return self.over(super().hidden(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class OneGroupNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 12)


class Softmax(Net):
    def hidden(self, x):
        return super().hidden(x).softmax(1)


class GlobalResponse(Net):
    """As in ConvNeXt V2: every channel is divided by what the others respond."""

    def hidden(self, x):
        x = super().hidden(x)
        norm = x.norm(dim=(2, 3), keepdim=True)
        return x + x * norm / (norm.mean(1, keepdim=True) + 1e-6)


class Excited(Net):
    """Squeeze and excite: a second reader of the hidden width, with a hidden width of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(12, 4), nn.Linear(4, 12)

    def hidden(self, x):
        x = super().hidden(x)
        return x * self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]


class JoinedWithTheResidual(Net):
    """Half of what the consumer reads is its own."""

    def __init__(self) -> None:
        super().__init__(wide=12)
        self.read = nn.Conv2d(20, 8, 1)

    def forward(self, x):
        x = self.start(x)
        return ((x + self.read(torch.cat([self.hidden(x), x], 1))).mean((2, 3)),)


class PartlyConvolved(Net):
    """Some channels of the residual are convolved, the others are read as they are (as in FasterNet)."""

    def __init__(self) -> None:
        super().__init__(wide=8)
        self.make = nn.Conv2d(2, 2, 3, padding=1)

    def hidden(self, x):
        return torch.cat([self.make(x[:, :2]), x[:, 2:]], 1)


class Rolled(Net):
    """What is kept of a rolled axis reads all of it."""

    def hidden(self, x):
        return super().hidden(x).roll(1, 1)


LEAKING = [
    Residual,
    Tap,
    LayerNorm,
    OneGroupNorm,
    Softmax,
    GlobalResponse,
    JoinedWithTheResidual,
    PartlyConvolved,
    Rolled,
]


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("net", LEAKING)
def test_no_width_is_hidden_whose_values_leak(net: type[nn.Module], coupled: bool, shaken) -> None:
    captured = capture(shaken(net()), torch.rand(2, *SHAPE))
    assert "read" not in {group.name for group in find_groups(captured, coupled=coupled)}


def test_a_second_reader_is_a_leak_unless_both_may_be_cut(shaken) -> None:
    captured = capture(shaken(TwoReaders()), torch.rand(2, *SHAPE))
    assert [group.name for group in find_groups(captured)] == ["make"]
    _, group = find_groups(captured, coupled=True)
    assert (group.width, len(group.others)) == (12, 1)
    row, columns = 4 * 4 * 8 / 2, (4 * 4 + 2 * 2) * 9 * 8
    assert group.macs_per_neuron == row + columns


def test_of_squeeze_and_excite_the_squeezed_width_is_hidden(shaken) -> None:
    captured = capture(shaken(Excited()), torch.rand(2, *SHAPE))
    assert [group.name for group in find_groups(captured)] == ["excite"]
    both = find_groups(captured, coupled=True)
    assert [group.name for group in both] == ["excite", "read"]
    assert [node_of(captured, other).args[1].target for other in both[1].others] == ["squeeze.weight"]
    assert both[1].macs_per_neuron == 4 * 4 * (8 + 9 * 8) + 2 + 2  # of the gate half of four channels, twice


class Bottleneck(Net):
    def __init__(self) -> None:
        super().__init__(n_out=12)
        self.more = nn.Conv2d(12, 8, 1)

    def forward(self, x):
        x = self.start(x)
        return ((x + self.more(self.read(self.hidden(x)).relu())).mean((2, 3)),)


def test_both_widths_of_a_bottleneck_are_hidden(shaken) -> None:
    found = groups_of(Bottleneck(), shaken)
    assert list(found) == ["read", "more"]
    places = 4 * 4
    assert found["read"].macs_per_neuron == places * (8 + 9 * 12 / 2)  # the other width is half of what it was


class Depthwise(Bottleneck):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Conv2d(12, 12, 3, padding=1, groups=12)


def test_a_depthwise_convolution_is_part_of_what_makes_a_width(shaken) -> None:
    found = groups_of(Depthwise(), shaken)
    assert list(found) == ["more"]
    assert found["more"].macs_per_neuron == 4 * 4 * (8 + 9 + 8)


class Grouped(Bottleneck):
    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Conv2d(12, 12, 3, padding=1, groups=3)


def test_grouped_convolutions_keep_as_many_channels_in_each_group(shaken) -> None:
    found = groups_of(Grouped(), shaken)
    assert {name: (group.n_parts, group.aligned) for name, group in found.items()} == {
        "read": (3, False),
        "more": (3, False),
    }


class Joined(Net):
    """The consumer reads two branches side by side, of different cost."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(8, 4, 3, padding=1)
        self.read = nn.Conv2d(16, 8, 1)

    def hidden(self, x):
        return torch.cat([super().hidden(x), self.other(x).relu()], 1)


def test_branches_that_one_layer_reads_are_one_width(shaken) -> None:
    assert groups_of(Joined(), shaken)["read"].width == 16


class Gated(nn.Module):
    """A gated MLP over tokens: two halves of one projection make each neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.make, self.read = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 20), nn.Linear(10, 8)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        t = self.patch(x).flatten(2).transpose(1, 2)
        a, b = self.make(t).chunk(2, -1)
        return ((t + self.read(a.sigmoid() * b)).mean(1),)


def test_a_gated_width_goes_with_both_its_halves(shaken) -> None:
    group = groups_of(Gated(), shaken)["read"]
    assert (group.kind, group.width) == ("features", 10)
    assert group.macs_per_neuron == 16 * (2 * 8 + 8)


class Attention(nn.Module):
    def __init__(self, n_heads: int = 3, fused: bool = True) -> None:
        super().__init__()
        self.patch, self.qkv, self.proj = nn.Conv2d(3, 12, 2, 2), nn.Linear(12, 36), nn.Linear(12, 12)
        self.n_heads, self.fused = n_heads, fused

    def forward(self, x: Tensor) -> tuple[Tensor]:
        t = self.patch(x).flatten(2).transpose(1, 2)
        qkv = self.qkv(t).reshape(x.shape[0], -1, 3, self.n_heads, 12 // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return ((t + self.proj(y.transpose(1, 2).reshape(t.shape))).mean(1),)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("n_heads", "aligned"), [(1, False), (3, True)])
def test_values_of_attention_are_hidden_head_by_head(n_heads: int, aligned: bool, fused: bool, shaken) -> None:
    group = groups_of(Attention(n_heads, fused), shaken)["proj"]
    assert (group.kind, group.width, group.n_parts, group.aligned) == ("value", 12, n_heads, aligned)
    assert group.macs_per_neuron == 16 * (12 + 16 + 12)  # a row, its products with 16 keys, a column


class NoLayer(nn.Module):
    """Sums over single images, over weights that the images make, and over numbers that no image has a part in."""

    def __init__(self) -> None:
        super().__init__()
        self.make, self.table = nn.Linear(64, 6), nn.Parameter(torch.rand(5, 7))
        self.first, self.second = nn.Linear(7, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = x.flatten(2)
        dynamic = F.linear(self.make(x), x.mean(0)[:, :6])
        return ((dynamic + self.second(self.first(self.table).relu()).mean(0)).mean(1),)


def test_only_layers_that_contract_images_with_weights_are_tried(shaken) -> None:
    assert groups_of(NoLayer(), shaken) == {}


class Standardised(Net):
    """As in NFNets: weights are standardised as they are used."""

    def forward(self, x):
        x = self.start(x)
        weight, flat = self.read.weight, self.read.weight.flatten(1)
        weight = (flat - flat.mean(1, keepdim=True)).reshape(weight.shape)
        return ((x + F.conv2d(self.hidden(x), weight, None, 1, 1)).mean((2, 3)),)


def test_a_weight_is_what_the_network_computes_with(shaken) -> None:
    net = shaken(Standardised())
    captured = capture(net, torch.rand(2, *SHAPE))
    (group,) = find_groups(captured)
    flat = net.read.weight.detach().flatten(1)
    assert torch.allclose(consumer_weight(captured, group).flatten(1), flat - flat.mean(1, keepdim=True), atol=1e-6)
    assert consumer_bias(captured, group) is None
    assert node_of(captured, group.consumer).name == group.consumer
    assert group.name == "read"


def test_a_layer_that_runs_twice_has_two_names(shaken) -> None:
    class Twice(Net):
        def forward(self, x):
            x = self.start(x)
            return ((self.read(self.hidden(x)) + self.read(F.gelu(self.make(x)))).mean((2, 3)),)

    captured = capture(shaken(Twice()), torch.rand(2, *SHAPE))
    names = [group.name for group in find_groups(captured)]
    assert len(set(names)) == len(names)
    assert all(name.startswith("read@") for name in names)


def test_widths_of_one_are_none(shaken) -> None:
    assert groups_of(Net(wide=1), shaken) == {}
    assert groups_of(Net(wide=2), shaken)["read"].width == 2


def test_nothing_of_the_captured_network_changes(shaken) -> None:
    captured = capture(shaken(Grouped()), torch.rand(2, *SHAPE))
    code, values = captured.code, [value.clone() for value in captured.state_dict().values()]
    assert find_groups(captured) is find_groups(captured)
    assert captured.code == code
    assert all(torch.equal(a, b) for a, b in zip(values, captured.state_dict().values(), strict=True))
    assert np.all([group.width == 12 for group in find_groups(captured)])
