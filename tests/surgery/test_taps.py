"""Which modules are taps, by structure alone; the networks here are not timm's."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from prune_tool.errors import ModelError
from prune_tool.surgery.blocks import find_blocks
from prune_tool.surgery.taps import HEAD, TappedBackbone, find_taps

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def pool(x: Tensor) -> Tensor:
    return x.mean((2, 3)) if x.ndim == 4 else x.mean(1)


def conv(c_in: int, c_out: int, k: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, k, padding=k // 2), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class Res(nn.Module):
    """A residual block; its inner chain is no tap, whatever it is made of."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.stack = nn.Sequential(conv(c, c), conv(c, c))

    def forward(self, x: Tensor) -> Tensor:
        y = self.stack(x)
        y += x
        return y


class Stage(nn.Module):
    def __init__(self, c_in: int, c: int, n: int) -> None:
        super().__init__()
        self.downsample = nn.Sequential(nn.BatchNorm2d(c_in), nn.Conv2d(c_in, c, 2, 2))
        self.blocks = nn.Sequential(*(Res(c) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class Staged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.stages = nn.ModuleList([Stage(8, 8, 1), Stage(8, 12, 2)])
        self.norm = nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.norm(x + 1).mean((2, 3))


class Dense(nn.ModuleDict):
    def __init__(self, c: int) -> None:
        super().__init__({f"layer{i}": nn.Sequential(conv(c + 4 * i, 8), nn.Conv2d(8, 4, 1)) for i in range(2)})
        for name in self:
            self[name] = Wrapped(self[name])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.values():
            x = torch.cat([x, layer(x)], 1)
        return x


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * 1


class Dual(nn.Module):
    """Two paths at different resolutions in, two out, and a size that is no neuron."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.left, self.right, self.down = Res(a), Res(b), nn.Conv2d(a, b, 2, 2)

    def forward(self, x: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        left = self.left(x[0])
        return left, self.right(x[1]) + self.down(left), tuple(left.shape[2:])


class TwoPaths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 2, 2)
        self.trunk = nn.Sequential(Dual(4, 6), Dual(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.trunk((x, self.down(x)))[1].mean((2, 3))


class Shared(nn.Module):
    """One convolution that the network holds and every block uses (as in CoaT)."""

    class Block(nn.Module):
        def __init__(self, position: nn.Module) -> None:
            super().__init__()
            self.position = position
            self.stack = nn.Sequential(conv(8, 8), conv(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.stack(x + self.position(x))

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.position = nn.Conv2d(8, 8, 3, padding=1)
        self.blocks = nn.ModuleList([Shared.Block(self.position) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*conv(3, 8), *conv(8, 8), nn.MaxPool2d(2), *conv(8, 12))
        self.fc = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


NETWORKS = {
    "stages": (Staged(), ["stages.0.blocks.0", "stages.1.blocks.0", "stages.1.blocks.1"]),
    "dense block": (nn.Sequential(conv(3, 8), Dense(8), nn.Conv2d(16, 4, 1)), ["1.layer0", "1.layer1", "1"]),
    "two paths": (TwoPaths(), ["trunk.0", "trunk.1"]),
    "a shared layer": (Shared(), ["blocks.0", "blocks.1"]),
    "bare layers": (Bare(), ["features.2", "features.6", "features.9"]),
    "layers as attributes": (nn.Sequential(*conv(3, 8), *conv(8, 8)), ["2", "5"]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_are_what_a_reader_would_call_so(name: str) -> None:
    network, blocks = NETWORKS[name]
    assert list(find_blocks(network.eval(), IMAGES)) == blocks


@pytest.mark.parametrize(
    ("name", "blocks"),
    {
        "resnet18": "layer1.0 layer1.1 layer2.0 layer2.1 layer3.0 layer3.1 layer4.0 layer4.1",
        "regnety_002": "s1.b1 s2.b1 s3.b1 s3.b2 s3.b3 s3.b4 s4.b1 s4.b2 s4.b3 s4.b4 s4.b5 s4.b6 s4.b7",
        "mobilenetv3_small_050": "blocks.0.0 blocks.1.0 blocks.1.1 blocks.2.0 blocks.2.1 blocks.2.2 "
        "blocks.3.0 blocks.3.1 blocks.4.0 blocks.4.1 blocks.4.2 blocks.5.0",
        "vit_tiny_patch16_224": " ".join(f"blocks.{i}" for i in range(12)),
        "hrnet_w18_small": "layer1.0 stage2.0 stage3.0 stage4.0 incre_modules.0.0 incre_modules.1.0 incre_modules.2.0 "
        "incre_modules.3.0",
    }.items(),
)
def test_blocks_of_known_networks(name: str, blocks: str) -> None:
    arguments = {"img_size": 64} if name.startswith("vit") else {}
    network = timm.create_model(name, pretrained=False, num_classes=0, **arguments).eval()
    assert list(find_blocks(network, torch.rand(2, 3, 64, 64))) == blocks.split()


def test_the_head_comes_last_and_a_block_that_is_the_head_is_left_out() -> None:
    taps = find_taps(Staged().eval(), pool, IMAGES)
    assert [(tap.name, tap.width) for tap in taps][-2:] == [("stages.1.blocks.1", 12), (HEAD, 12)]
    ends_in_a_block = nn.Sequential(conv(3, 8), nn.Sequential(Res(8), Res(8)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert [tap.name for tap in find_taps(ends_in_a_block.eval(), pool, IMAGES)] == ["1.0", HEAD]


def test_paths_of_a_block_stand_side_by_side() -> None:
    assert find_taps(TwoPaths().eval(), pool, IMAGES)[0].width == 4 + 6


def test_any_module_can_be_tapped_by_name() -> None:
    taps = find_taps(Staged().eval(), pool, IMAGES, only=["stages.0", "stem", HEAD])
    assert [tap.name for tap in taps] == ["stem", "stages.0", HEAD]


@pytest.mark.parametrize("path", ["stages.7", "stages"])
def test_what_cannot_be_tapped_is_refused_with_what_can(path: str) -> None:
    network = Staged().eval()
    with pytest.raises(ModelError) as caught:
        find_taps(network, pool, IMAGES, only=[path])
    remedy = str(caught.value).split("Its blocks are ")[1].split(", ")
    assert [tap.name for tap in find_taps(network, pool, IMAGES, only=remedy)] == remedy


def test_the_tapped_backbone_returns_what_the_taps_say() -> None:
    network = Staged().eval()
    taps = find_taps(network, pool, IMAGES)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    tapped = TappedBackbone(network, [tap.name for tap in taps[:-1]], pool, mean, std).eval()
    with torch.no_grad():
        outputs = tapped(IMAGES)
        normalised = (IMAGES - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        torch.testing.assert_close(outputs[-1], network(normalised))
        torch.testing.assert_close(outputs[0], pool(network.stages[0](network.stem(normalised))))
    assert [output.shape[1] for output in outputs] == [tap.width for tap in taps]
