import numpy as np
import pytest
import torch
from torch import nn

from prune_tool.deploy.onnx_file import write_onnx

METADATA = {"labels": '["cat", "dög"]', "budget": "0.05", "empty": ""}


class TinyNet(nn.Module):
    """Convolution, normalisation, pooling, probe; the flattening makes the batch axis appear in an expression."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        x = torch.relu(self.norm(self.conv(images)))
        pixels = x.permute(0, 2, 3, 1).reshape(-1, 8)
        x = self.mix(pixels).reshape(images.shape[0], -1, 8)
        return self.head(torch.relu(x).mean(dim=1))


@pytest.fixture(scope="session")
def tiny():
    torch.manual_seed(0)
    model = TinyNet().eval()
    model.norm.running_mean.uniform_(-1, 1)
    model.norm.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture(scope="session")
def program(tiny):
    shapes = ({0: torch.export.Dim("batch")},)
    return torch.export.export(tiny, (torch.zeros(2, 3, 16, 16),), dynamic_shapes=shapes, strict=False)


@pytest.fixture(scope="session")
def file(program, tmp_path_factory):
    path = tmp_path_factory.mktemp("deploy") / "model.onnx"
    write_onnx(program, path, metadata=METADATA)
    return path


@pytest.fixture(scope="session")
def reference(tiny):
    @torch.inference_mode()
    def logits(images):
        return tiny(torch.from_numpy(images)).numpy()

    return logits


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(0).standard_normal((9, 3, 16, 16), dtype=np.float32)
