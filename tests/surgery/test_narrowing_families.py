"""Hidden widths of real architectures: how many there are, and that what is narrowed still does everything.

The default run takes small members of some families. The full list (marker ``slow``) also passes each, three
quarters as wide, through ONNX Runtime.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

from prune_tool.surgery.capture import capture
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.groups import find_groups
from prune_tool.surgery.narrowing import cost_of_narrowed, narrow_graph
from tests.surgery.narrowing import Masked, cut_all, off_by, some_of_all
from tests.surgery.test_families import FAMILIES, SMALL, Specimen, off_in_onnx, specimen

SMALL_GROUPS = {
    "resnet18": 4,
    "resnetv2_50": 8,
    "convnextv2_atto": 0,
    "vit_tiny_patch16_224": 6,
    "swin_tiny_patch4_window7_224": 12,
    "cait_xxs24_224": 16,
}
"""Hidden groups of the small members: one or two in a residual block of two or three convolutions, in a transformer's
the scores and the values of attention and the hidden layer of the MLP. ConvNeXt V2 normalises over its own, and CaiT's
attention has two more, the heads before and after softmax."""

GROUPS = {
    "resnet18": {"channels": 8},  # one in each of 8 basic blocks
    "resnet50": {"channels": 32},  # two in each of 16 bottlenecks
    "resnext50_32x4d": {"channels": 32},
    "mobilenetv2_100": {"channels": 17},  # an expansion in each of 16, and the stem before the first block
    "tf_efficientnet_lite0": {"channels": 16},
    "vit_tiny_patch16_224": {"scores": 12, "value": 12, "features": 12},
    "convnext_atto": {"channels": 12},  # one in each of 12 blocks
    "mixer_s32_224": {"features": 16},  # tokens and channels in each of 8 blocks
    "mobilevit_xxs": {"channels": 10, "scores": 9, "value": 9, "features": 9},  # transformers of 2, 4 and 3 blocks
    "edgenext_xx_small": {"features": 12, "value": 3},  # in cross-covariance attention the queries of each head
    "regnety_004": {"channels": 32},  # before the grouped convolution and in squeeze-and-excite, 16 blocks
}


def check(it: Specimen, share: float, *, coupled: bool = False) -> fx.GraphModule:
    """Narrow everything; the result is the masked network, at the cost that was predicted, before and after capture."""
    cuts = cut_all(it.captured, share, coupled=coupled)
    narrow = narrow_graph(it.captured, cuts)
    masked = Masked(it.captured, some_of_all(it.captured, share, coupled=coupled))
    for n in (1, 3):
        with torch.no_grad():
            assert off_by(masked.run(it.images(n)), narrow(it.images(n))) < 1e-4
    cost = cost_of_narrowed(it.captured, {name: cut.n_kept for name, cut in cuts.items()})
    assert cost_of(narrow) == cost
    assert cost_of(capture(narrow, it.images(2))) == cost
    assert [group.name for group in find_groups(narrow)] == [g.name for g in find_groups(it.captured) if g.width > 1]
    return narrow


@pytest.mark.parametrize("name", SMALL_GROUPS)
def test_small_members_are_narrowed_exactly(name: str, shaken: Callable[..., Any]) -> None:
    it = specimen(name, shaken, size=64, **SMALL[name])
    assert len(find_groups(it.captured)) == SMALL_GROUPS[name]
    check(it, 0.75)


COUPLED = {
    "efficientnet_b0": 16,
    "mobilenetv3_large_100": 8,
    "regnety_004": 17,  # the stem besides, which the first block and its shortcut read
}
"""Expansions that the projection and squeeze-and-excite read, one in each block that has it."""


@pytest.mark.slow
@pytest.mark.parametrize("name", COUPLED)
def test_expansions_under_squeeze_and_excite_are_narrowed_exactly(name: str, shaken: Callable[..., Any]) -> None:
    it = specimen(name, shaken)
    assert sum(len(group.others) == 1 for group in find_groups(it.captured, coupled=True)) == COUPLED[name]
    check(it, 0.75, coupled=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch.onnx, about itself
@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_narrowed_exactly(name: str, shaken: Callable[..., Any], tmp_path: Path) -> None:
    it = specimen(name, shaken, **FAMILIES[name])
    kinds = Counter(group.kind for group in find_groups(it.captured))
    assert kinds == GROUPS.get(name, kinds)
    assert all(group.n_parts == 1 or group.kind != "features" for group in find_groups(it.captured))
    narrow = check(it, 0.75)
    off_in_onnx(it, narrow, tmp_path)
