"""Attention over any number of axes comes out of ONNX Runtime as it went in."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prune_tool.deploy.onnx_file import write_onnx
from prune_tool.deploy.session import open_session
from prune_tool.errors import ModelError
from prune_tool.surgery.capture import export_program

SHAPES = {"no heads": (16, 6), "heads": (2, 16, 6), "heads and windows": (2, 3, 16, 6), "and more": (2, 2, 3, 4, 6)}


class Attend(nn.Module):
    def __init__(self, shape, mask=None):
        super().__init__()
        self.shape, self.mask = shape, mask
        self.qkv = nn.Linear(24, 3 * int(np.prod(shape)))

    def forward(self, images):
        q, k, v = self.qkv(images.flatten(1)).unflatten(1, (3, *self.shape)).unbind(1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, scale=0.3).flatten(1)


def onnx_of(module, images, folder):
    file = folder / "model.onnx"
    write_onnx(export_program(module.eval(), images), file, metadata={})
    return open_session(file)


@pytest.mark.filterwarnings("ignore")  # of torch.onnx, about itself
@pytest.mark.parametrize("masked", ["no", "by place", "everywhere"])
@pytest.mark.parametrize("name", SHAPES)
def test_attention_is_the_same_in_onnx(name, masked, tmp_path):
    shape = SHAPES[name]
    places = (shape[-2], shape[-2])
    mask = {"no": None, "by place": torch.randn(places), "everywhere": torch.randn(1, *shape[:-2], *places)}[masked]
    module = Attend(shape, mask)
    session = onnx_of(module, torch.rand(2, 3, 2, 4), tmp_path)
    images = torch.rand(5, 3, 2, 4)
    (found,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(found, module(images).detach().numpy(), atol=1e-5)


class Strange(nn.Module):
    def forward(self, images):
        return torch.special.bessel_j0(images.flatten(1))


@pytest.mark.filterwarnings("ignore")
def test_what_onnx_has_no_word_for_is_named(tmp_path):
    with pytest.raises(ModelError, match="bessel_j0"):
        onnx_of(Strange(), torch.rand(2, 3, 2, 4), tmp_path)
    assert not list(tmp_path.iterdir())
