"""The polynomial says what the narrowed network costs."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from prune_tool.redundancy.allocation import SharedCost
from prune_tool.surgery.capture import capture
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.groups import find_groups
from prune_tool.surgery.narrowing import cost_of_narrowed
from prune_tool.surgery.shared_cost import macs_terms


@pytest.mark.parametrize("family", ["test_resnet", "test_efficientnet", "test_vit"])
def test_terms_add_up_to_the_cost(family):
    model = timm.create_model(family, num_classes=0).eval()
    captured = capture(model, torch.rand(2, 3, 64, 64) if "vit" not in family else torch.rand(2, 3, 160, 160))
    groups = find_groups(captured)
    assert groups
    cost = SharedCost(terms=macs_terms(captured, groups), whole=cost_of(captured).macs)
    assert round(cost.of(np.ones(len(groups)))) == cost_of_narrowed(captured, {}).macs
    rng = np.random.default_rng(0)
    for _ in range(3):
        widths = {g.name: g.n_parts * int(rng.integers(1, g.width // g.n_parts + 1)) for g in groups}
        shares = np.array([widths[g.name] / g.width for g in groups])
        assert cost.of(shares) == pytest.approx(cost_of_narrowed(captured, widths).macs, rel=1e-9)
    assert cost_of_narrowed(captured, {}).macs <= cost_of(captured).macs


def test_a_layer_between_two_groups_names_both():
    captured = capture(timm.create_model("test_resnet", num_classes=0).eval(), torch.rand(2, 3, 64, 64))
    assert any(len(places) == 2 for _, places in macs_terms(captured, find_groups(captured)))
