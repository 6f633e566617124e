"""Costs against published numbers, and against counting the sliced network again."""

from __future__ import annotations

import time

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from prune_tool.surgery.capture import capture
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.slicing import slice_graph

PUBLISHED = {
    "resnet18": ("ResNet18", 1.814, 11_689_512),
    "mobilenetv2_100": ("MobileNet_V2", 0.301, 3_504_872),
    "efficientnet_b0": ("EfficientNet_B0", 0.386, 5_288_548),
    "swin_tiny_patch4_window7_224": ("Swin_T", 4.491, 28_288_354),
    "resnet50": ("ResNet50", 4.089, 25_557_032),
    "wide_resnet50_2": ("Wide_ResNet50_2", 11.398, 68_883_240),
    "resnext50_32x4d": ("ResNeXt50_32X4D", 4.230, 25_028_904),
    "vgg16_bn": ("VGG16_BN", 15.470, 138_365_992),
    "densenet121": ("DenseNet121", 2.834, 7_978_856),
    "mobilenetv3_large_100": ("MobileNet_V3_Large", 0.217, 5_483_032),
    "vit_base_patch16_224": ("ViT_B_16", 17.564, 86_567_656),
    "convnext_tiny": ("ConvNeXt_Tiny", 4.456, 28_589_128),
}
"""timm name -> torchvision's name of the same architecture, its GMACs (``_ops``) and its parameters, with classifier.

Source: torchvision's published tables, ``torchvision.models.<name>_Weights.IMAGENET1K_V1.meta``.
"""
QUICK = ("resnet18", "mobilenetv2_100")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED]
)
def test_costs_are_the_published_ones(name: str) -> None:
    _, gmacs, n_params = PUBLISHED[name]
    network = timm.create_model(name, pretrained=False).eval()
    cost = cost_of(capture(network, torch.rand(2, 3, 224, 224)))
    assert cost.macs / 1e9 == pytest.approx(gmacs, rel=0.01)
    assert cost.n_params == pytest.approx(n_params, rel=0.01)
    assert cost.n_params == sum(parameter.numel() for parameter in network.parameters())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.wide, self.deep, self.thin = (
            nn.Conv2d(16, 64, 1),
            nn.Conv2d(64, 64, 3, 1, 1, groups=64),
            nn.Conv2d(64, 16, 1),
        )
        self.norm, self.qkv = nn.LayerNorm(16), nn.Linear(16, 48)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        x = x + self.thin(torch.relu(self.deep(torch.relu(self.wide(x)))))
        t = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(t).reshape(t.shape[0], -1, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        a = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.thin(torch.relu(self.deep(self.wide(x)))).mean((2, 3)), a.transpose(1, 2).flatten(2)[:, 0]


@pytest.mark.parametrize("round_to", [1, 8])
@pytest.mark.parametrize("kept", [{0: np.array([1, 9])}, {1: np.array([0, 3, 8])}, {0: None, 1: np.array([15])}])
def test_the_cost_of_a_cut_is_the_cost_of_what_slicing_builds(kept, round_to: int, shaken) -> None:
    example = torch.rand(2, 3, 16, 16)
    captured = capture(shaken(Block()), example)
    sliced = slice_graph(captured, kept, round_to=round_to)
    planned, counted = cost_of(captured, kept, round_to=round_to), cost_of(capture(sliced, example))
    assert planned == counted
    assert 0.7 * counted.n_calls <= planned.n_calls <= counted.n_calls, "gathers are left out"


def test_a_grouped_convolution_and_attention_are_counted_by_hand(shaken) -> None:
    captured = capture(shaken(Block()), torch.rand(2, 3, 16, 16))
    places = 4 * 4
    stem, once = places * 16 * 48, places * (16 * 64 + 64 * 9 + 64 * 16)
    attention = places * 16 * 48 + 2 * 2 * places * places * 8
    assert cost_of(captured).macs == stem + 2 * once + attention


def test_the_search_can_ask_often() -> None:
    """A cost takes milliseconds (6 ms for a ViT on a laptop core); the bound is for crowded machines."""
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0).eval()
    captured = capture(network, torch.rand(2, 3, 224, 224))
    kept = {0: np.arange(0, 192, 3)}
    cost_of(captured, kept)
    start = time.perf_counter()
    for _ in range(5):
        cost_of(captured, kept)
    assert (time.perf_counter() - start) / 5 < 0.2
