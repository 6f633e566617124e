"""The transform inside the file against timm's, which Pillow carries out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from prune_tool.defaults import OPSET
from prune_tool.deploy.description import read_metadata, read_model
from prune_tool.deploy.onnx_file import write_onnx
from prune_tool.deploy.preprocess import preprocessing_model, with_preprocessing, without_normalisation
from prune_tool.deploy.seal import require_sound
from prune_tool.deploy.session import open_session
from prune_tool.errors import UsageError, VerificationError
from prune_tool.task.backbone import Preprocessing, pixel_transform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPES = ((64, 64), (65, 64), (30, 47), (47, 31), (100, 301), (301, 100), (201, 300), (73, 74))
"""Heights and widths: as large as the input, up, down, wide, tall, odd differences."""


def preprocessing(**changes: object) -> Preprocessing:
    known = {"input_size": 64, "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center"}
    return Preprocessing(**(known | {"mean": MEAN, "std": STD} | changes))  # type: ignore[arg-type]


def noise(height: int, width: int) -> np.ndarray:
    """What resizes worst."""
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def levels(session: object, image: np.ndarray) -> np.ndarray:
    (planes,) = session.run(None, {"images": image[None]})  # type: ignore[attr-defined]
    return 255 * planes[0].transpose(1, 2, 0)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0, 1.05])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_those_of_timms_transform(interpolation: str, crop_pct: float, crop_mode: str) -> None:
    for input_size in (64, 65):
        wanted = preprocessing(
            input_size=input_size, interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode
        )
        graph = preprocessing_model(wanted).graph
        read = {name for node in graph.node for name in node.input}
        assert {tensor.name for tensor in graph.initializer} <= read, "ONNX Runtime warns of others"
        model = preprocessing_model(wanted).SerializeToString()
        by_pillow = pixel_transform(wanted)
        for shape in SHAPES:
            image = noise(*shape)
            expected = by_pillow(Image.fromarray(image)).astype(float)
            for optimise in (True, False):
                difference = np.abs(levels(open_session(model, optimise=optimise), image) - expected)
                assert difference.mean() < 0.3
                # Pillow 13 resizes the columns of some tall images first, which rounds other numbers
                assert difference.max() < (2.01 if shape[0] < 2 * shape[1] else 12)
            shifted = np.abs(np.roll(expected, 1, axis=1) - expected)
            assert shifted.mean() > 3, "a crop that is one pixel off would be seen"


def test_a_batch_is_its_images_one_by_one_and_all_operators_are_standard() -> None:
    model = preprocessing_model(preprocessing())
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    onnx.checker.check_model(model, full_check=True)
    session = open_session(model.SerializeToString())
    images = np.stack([noise(50, 80), noise(50, 80)[::-1], noise(50, 80)[:, ::-1]])
    (together,) = session.run(None, {"images": images})
    alone = [session.run(None, {"images": image[None]})[0] for image in images]
    np.testing.assert_array_equal(together, np.concatenate(alone))
    assert together.shape == (3, 3, 64, 64)
    assert 0 <= together.min() < together.max() <= 1


@pytest.mark.parametrize("interpolation", ["lanczos", "nearest", "box"])
def test_what_onnx_cannot_express_is_refused_with_what_works(interpolation: str) -> None:
    with pytest.raises(UsageError, match=interpolation) as caught:
        preprocessing_model(preprocessing(interpolation=interpolation))
    assert "--preprocess normalize" in caught.value.remedy


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(-1, 1, 1))
        self.conv = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv((images - self.mean) / self.std)).mean((2, 3))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(
        Normalised().eval(), (torch.zeros(2, 3, 64, 64),), dynamic_shapes=shapes, strict=False
    )
    path = tmp_path_factory.mktemp("network") / "network.onnx"
    write_onnx(program, path, metadata={"says": "something"})
    return path


def test_the_transform_in_front_of_a_network_is_the_network_on_transformed_images(network: Path) -> None:
    joined = network.with_name("joined.onnx")
    assert with_preprocessing(network, joined, preprocessing()) == joined.stat().st_size
    assert read_metadata(joined)["says"] == "something"
    assert require_sound(read_model(joined), "joined")
    session = open_session(joined)
    (entry,) = session.get_inputs()
    assert (entry.name, entry.type, entry.shape) == ("images", "tensor(uint8)", ["batch", "height", "width", 3])
    assert [(output.name, output.shape) for output in session.get_outputs()] == [("logits", ["batch", 4])]
    for shape in ((90, 70), (64, 120)):
        image = noise(*shape)
        (pixels,) = open_session(preprocessing_model(preprocessing()).SerializeToString()).run(
            None, {"images": image[None]}
        )
        np.testing.assert_allclose(
            session.run(None, {"images": image[None]})[0],
            open_session(network).run(None, {"images": pixels})[0],
            rtol=1e-5,
            atol=1e-6,
        )


def test_normalisation_comes_out_where_it_is_and_nowhere_else(network: Path) -> None:
    bare = network.with_name("bare.onnx")
    without_normalisation(network, bare, preprocessing())
    images = np.random.default_rng(0).random((2, 3, 64, 64), dtype=np.float32)
    normalised = (images - np.float32(MEAN)[:, None, None]) / np.float32(STD)[:, None, None]  # type: ignore[index]
    np.testing.assert_allclose(
        open_session(bare).run(None, {"images": normalised})[0],
        open_session(network).run(None, {"images": images})[0],
        rtol=1e-5,
        atol=1e-6,
    )
    assert not {"mean", "std"} & {tensor.name for tensor in onnx.load(bare).graph.initializer}
    with pytest.raises(VerificationError, match=r"preprocess: .*Conv"):
        without_normalisation(bare, bare, preprocessing())
    with pytest.raises(VerificationError, match="preprocess"):
        without_normalisation(network, bare, preprocessing(mean=(0.5, 0.5, 0.5)))
