"""The property for every family of architectures, at three taps and three random subsets each.

``sliced(x) == full(x)[..., kept]``.

The default run takes small members of a dozen families. The full list (marker ``slow``) also passes each through ONNX
Runtime and, with ``PRUNE_TOOL_WRITE_SUPPORT=1``, writes what it found to ``docs/support.md``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, fx, nn

from prune_tool.deploy.onnx_file import write_onnx
from prune_tool.deploy.session import open_session
from prune_tool.surgery.analysis import analyse
from prune_tool.surgery.capture import capture, export_program
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.demand import Indices
from prune_tool.surgery.slicing import slice_graph
from prune_tool.surgery.taps import Tap, TappedBackbone, find_taps

SUPPORT = Path(__file__).parents[2] / "docs" / "support.md"

SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"layers": (1, 1, 1, 1)},
    "densenet121": {"growth_rate": 8, "block_config": (2, 2, 2, 2)},
    "mobilenetv3_large_100": {},
    "regnety_004": {},
    "dpn68": {"k_sec": (1, 2, 2, 1)},
    "convnextv2_atto": {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 40)},
    "resnetv2_50": {"layers": (1, 1, 1, 1), "channels": (32, 64, 96, 128), "stem_chs": 16},
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2, "embed_dim": 48},
    "beit_base_patch16_224": {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3},
    "eva02_tiny_patch14_224": {"img_size": 56, "depth": 2},
    "swin_tiny_patch4_window7_224": {
        "img_size": 64, "window_size": 4, "depths": (2, 2), "embed_dim": 24, "num_heads": (2, 4)
    },
    "mixer_s32_224": {"img_size": 64},
    "cait_xxs24_224": {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3},
}  # fmt: skip

NAMES = """
resnet18 resnet50 wide_resnet50_2 resnext50_32x4d vgg16_bn densenet121 mobilenetv2_100 mobilenetv3_large_100
mobilenetv4_conv_small efficientnet_b0 tf_efficientnet_lite0 tf_efficientnetv2_b0 regnety_004 convnext_atto
convnextv2_atto vit_tiny_patch16_224 deit_tiny_patch16_224 vit_small_patch14_dinov2 vit_base_patch16_clip_224
swin_tiny_patch4_window7_224 mixer_s32_224 poolformer_s12 ghostnet_100 mobileone_s0 repvgg_a0 inception_v3 xception41
dpn68 hrnet_w18_small levit_128s edgenext_xx_small mobilevit_xxs fastvit_t8 efficientformer_l1 coatnet_nano_rw_224
maxvit_pico_rw_256 eva02_tiny_patch14_224 resnetv2_50 nfnet_l0 cait_xxs24_224 beit_base_patch16_224 tiny_vit_5m_224
repvit_m0_9 starnet_s1
"""
FAMILIES: dict[str, dict[str, Any]] = {name: {} for name in NAMES.split()}
FAMILIES["vit_small_patch14_dinov2"] = {"img_size": 224}


@dataclass(frozen=True)
class Specimen:
    """One backbone, tapped and captured."""

    captured: fx.GraphModule
    taps: tuple[Tap, ...]
    size: int

    def third(self, i: int) -> int:
        """A tap about ``i`` thirds of the way; 3 is the head."""
        return min(len(self.taps) - 1, i * len(self.taps) // 3)

    def images(self, n: int) -> Tensor:
        return torch.rand(n, 3, self.size, self.size, generator=torch.Generator().manual_seed(n))

    def cut(self, tap: int, seed: int, share: float = 0.2) -> dict[int, Indices]:
        width = self.taps[tap].width
        kept = np.random.default_rng(seed).choice(width, max(1, round(share * width)), replace=False)
        return {tap: np.sort(kept)}


@dataclass
class Support:
    """One row of ``docs/support.md``."""

    n_taps: int
    worst: float = 0.0
    onnx: str = "-"
    saved: dict[str, str] = field(default_factory=dict)
    barriers: set[str] = field(default_factory=set)


def specimen(
    name: str, shaken: Callable[[nn.Module], nn.Module], size: int | None = None, **arguments: Any
) -> Specimen:
    backbone = shaken(timm.create_model(name, pretrained=False, num_classes=0, **arguments))
    size = arguments.get("img_size", size or backbone.default_cfg["input_size"][1])
    pool = pool_of(backbone)
    example = torch.rand(2, 3, size, size)
    taps = find_taps(backbone, pool, example)
    tapped = TappedBackbone(backbone, [tap.name for tap in taps[:-1]], pool, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).eval()
    return Specimen(capture(tapped, example), taps, size)


def pool_of(backbone: nn.Module) -> Callable[[Tensor], Tensor]:
    space = (1, 2) if str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC") else (2, 3)
    token_is_read = getattr(backbone, "global_pool", "avg") == "token"

    def pool(x: Tensor) -> Tensor:
        if x.ndim == 4:
            return x.mean(space)
        return x[:, 0] if token_is_read else x.mean(1)

    return pool


def check(it: Specimen) -> Support:
    """Three taps, three random subsets each, at batch 1 and 3; parameters fall."""
    found = Support(n_taps=len(it.taps))
    batches = [it.images(1), it.images(3)]
    with torch.no_grad():
        full = [it.captured(images) for images in batches]
    n_params_full = cost_of(it.captured).n_params
    for tap in sorted({it.third(1), it.third(2), it.third(3)}):
        for seed in range(3):
            kept = it.cut(tap, seed)
            sliced = slice_graph(it.captured, kept)
            for images, outputs in zip(batches, full, strict=True):
                want = outputs[tap][:, kept[tap]]
                with torch.no_grad():
                    found.worst = max(found.worst, float((sliced(images) - want).abs().max() / want.abs().max()))
            n_params = sum(p.numel() for p in sliced.parameters())
            assert n_params == cost_of(it.captured, kept).n_params
            assert n_params < n_params_full or tap == it.third(3)
            found.barriers |= analyse(it.captured.graph, kept).barriers
    assert found.worst < 1e-4
    return found


@pytest.mark.parametrize("name", SMALL)
def test_small_members_are_exact(name: str, shaken: Callable[..., Any]) -> None:
    assert check(specimen(name, shaken, size=64, **SMALL[name])).barriers == set()


@pytest.fixture(scope="module")
def support() -> Iterator[dict[str, Support | None]]:
    """Rows by family, ``None`` where its test failed; written after the last if asked to and all were tried."""
    rows: dict[str, Support | None] = {}
    yield rows
    if os.environ.get("PRUNE_TOOL_WRITE_SUPPORT") and rows.keys() == FAMILIES.keys():
        SUPPORT.write_text(_document(rows), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch.onnx, about itself
@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_exact(
    name: str,
    shaken: Callable[..., Any],
    support: dict[str, Support | None],
    tmp_path: Path,
) -> None:
    support[name] = None
    it = specimen(name, shaken, **FAMILIES[name])
    found = check(it)
    full = cost_of(it.captured).macs
    for label, tap in (("head", it.third(3)), ("two thirds", it.third(2))):
        kept = it.cut(tap, seed=0)
        found.saved[label] = f"{1 - cost_of(it.captured, kept, round_to=8).macs / full:.1%}"
    found.saved["tap"] = it.taps[it.third(2)].name
    found.onnx = f"{off_in_onnx(it, slice_graph(it.captured, it.cut(it.third(2), 0), round_to=8), tmp_path):.0e}"
    support[name] = found


def off_in_onnx(it: Specimen, network: fx.GraphModule, folder: Path) -> float:
    """Largest difference between a network and its ONNX file, at batch 1 and 3, relative to the scale of an output."""
    file = folder / "network.onnx"
    batches = [it.images(1), it.images(3)]
    with torch.no_grad():
        wanted = [found if isinstance(found := network(images), tuple) else (found,) for images in batches]
    names = [f"output{i}" for i in range(len(wanted[0]))]
    write_onnx(export_program(network, it.images(2)), file, metadata={}, output_names=names)
    session = open_session(file)
    worst = 0.0
    for images, outputs in zip(batches, wanted, strict=True):
        for got, want in zip(session.run(names, {"images": images.numpy()}), outputs, strict=True):
            worst = max(worst, float(np.abs(got - want.numpy()).max() / want.abs().max()))
    assert worst < 1e-4
    return worst


def _document(rows: dict[str, Support | None]) -> str:
    head = """# Supported backbones

Written by `PRUNE_TOOL_WRITE_SUPPORT=1 python -m pytest -m slow tests/surgery/test_families.py`. Random weights. For
each backbone, at three taps and three random subsets of a fifth of the neurons each, the sliced network is compared
with the full one at batch 1 and 3.

- *Taps*: blocks that can be cut after, and the head.
- *Exact*: the largest difference seen, as a fraction of the output's scale (float32; below 1e-4 is asserted).
- *ONNX*: the same between the sliced network and its ONNX file in ONNX Runtime.
- *Saved*: share of the full backbone's multiply-accumulates that keeping a random fifth of the neurons saves, at the
  head and at the tap two thirds of the way (widths rounded up to multiples of 8).
- *Barriers*: operators without a rule that less than everything was asked of. They cost savings, never exactness.

| Backbone | Captured | Taps | Exact | ONNX | Saved at head | Saved at two thirds | Barriers |
| --- | --- | --: | --: | --: | --: | --: | --- |
"""
    return head + "".join(f"| {name} | {_cells(row)} |\n" for name, row in rows.items())


def _cells(row: Support | None) -> str:
    if row is None:
        return "failed | | | | | |"
    barriers = ", ".join(sorted(row.barriers)) or "none"
    two_thirds = f"{row.saved['two thirds']} (`{row.saved['tap']}`)"
    return f"yes | {row.n_taps} | {row.worst:.0e} | {row.onnx} | {row.saved['head']} | {two_thirds} | {barriers}"
