"""``load_structure`` against ``load_backbone``: the same network but for its numbers."""

from __future__ import annotations

import pytest
import torch

from prune_tool.errors import ModelError
from prune_tool.task.backbone import Backbone, load_backbone, load_structure


def shapes(backbone: Backbone) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in backbone.module.state_dict().items()}


@pytest.mark.parametrize("size", [None, 96])
def test_everything_but_the_numbers_agrees_with_the_embedded_default(size: int | None) -> None:
    trained, drawn = load_backbone(None, input_size=size), load_structure(None, input_size=size)
    assert shapes(drawn) == shapes(trained)
    assert drawn.preprocessing == trained.preprocessing
    assert drawn.pooling == trained.pooling
    assert (drawn.name, drawn.source) == (trained.name, trained.source)
    assert drawn.fingerprint != trained.fingerprint


def test_the_same_numbers_each_time_and_the_caller_keeps_his() -> None:
    torch.manual_seed(7)
    first, after = load_structure("test_vit"), torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), after)
    assert load_structure("test_vit").fingerprint == first.fingerprint


def test_no_normalisation_is_an_identity() -> None:
    """Else a block before one could pass for the backbone's output."""
    module = load_structure("test_resnet").module
    one_dimensional = {name: t for name, t in module.state_dict().items() if t.ndim == 1}
    assert one_dimensional
    assert all(tensor.unique().numel() > 1 for tensor in one_dimensional.values())


def test_a_name_without_pretrained_weights_will_do() -> None:
    with pytest.raises(ModelError, match="no pretrained weights"):
        load_backbone("test_vit4")
    assert load_structure("test_vit4").name == "test_vit4"


def test_what_is_unknown_or_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="no such model"):
        load_structure("test_resnett")
    with pytest.raises(ModelError, match="7 px"):
        load_structure("test_vit", input_size=7)
