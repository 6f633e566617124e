from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationMethod
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from torch import nn

from prune_tool.deploy.onnx_file import write_onnx
from prune_tool.deploy.quantise import Quantiser
from prune_tool.deploy.ranges import saturate
from prune_tool.deploy.session import open_session

FOUND = (-20.0, 30.0)


def node(kind: str, *inputs: str) -> onnx.NodeProto:
    return onnx.helper.make_node(kind, ["value", *inputs], ["kept"])


def graph(*nodes: onnx.NodeProto, **constants: float) -> onnx.ModelProto:
    values = [onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [value]) for name, value in constants.items()]
    output = onnx.helper.make_tensor_value_info("kept", onnx.TensorProto.FLOAT, None)
    return onnx.helper.make_model(onnx.helper.make_graph(list(nodes), "g", [], [output], values))


def found() -> TensorsData:
    low, high = map(np.float32, FOUND)
    return TensorsData(CalibrationMethod.MinMax, {"value": TensorData(lowest=low, highest=high)})


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (graph(node("Relu")), (0, 30)),
        (graph(node("Clip", "low", "high"), low=0, high=6), (0, 6)),
        (graph(node("Clip", "", "high"), high=6), (-20, 6)),
        (graph(node("Clip", "low"), low=-3), (-3, 30)),
        (graph(node("Clip")), FOUND),
        (graph(node("Clip", "low", "high"), low=0), FOUND),  # the upper bound is computed
        (graph(node("Clip", "low", "high"), low=40, high=50), FOUND),  # nothing is left to scale
        (graph(node("Sigmoid")), FOUND),
        (graph(node("Relu"), onnx.helper.make_node("Neg", ["value"], ["other"])), FOUND),
    ],
)
def test_a_range_is_cut_to_what_its_only_reader_lets_through(model: onnx.ModelProto, expected: tuple) -> None:
    ranges = found()
    saturate(ranges, model)
    assert ranges["value"].range_value == expected
    assert ranges["value"].lowest.dtype == np.float32


def test_a_value_that_leaves_the_graph_keeps_its_range() -> None:
    model = graph(node("Relu"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("value", onnx.TensorProto.FLOAT, None))
    ranges = found()
    saturate(ranges, model)
    assert ranges["value"].range_value == FOUND


def test_a_network_of_relu6_keeps_its_eight_bits_for_what_passes(tmp_path: Path) -> None:
    """Channels far below and far above what ReLU6 lets through would take all but a few of 256 levels."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(), nn.Conv2d(8, 8, 1), nn.ReLU6(), nn.Flatten(), nn.Linear(2048, 5)
    ).eval()
    network[0].bias.data[:2] = torch.tensor([-90.0, 90.0])
    images = torch.rand(8, 3, 16, 16)
    program = torch.export.export(
        network, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
    )
    write_onnx(program, tmp_path / "float.onnx", metadata={})
    Quantiser(tmp_path / "float.onnx", [images.numpy()]).write(tmp_path / "int8.onnx")
    before, after = (
        open_session(tmp_path / f"{name}.onnx").run(None, {"images": images.numpy()})[0] for name in ("float", "int8")
    )
    assert np.abs(after - before).max() < 0.05 * np.abs(before).max()
