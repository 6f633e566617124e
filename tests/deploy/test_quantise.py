from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from prune_tool.deploy.description import read_metadata
from prune_tool.deploy.quantise import Quantiser, probe_nodes, write_half
from prune_tool.deploy.session import open_session
from prune_tool.deploy.verify import LOSSY_TOLERANCE, check_alone
from tests.deploy.conftest import METADATA


@pytest.fixture(scope="module")
def quantiser(file: Path, images: np.ndarray) -> Quantiser:
    return Quantiser(file, [images[:4], images[4:]])


def weights(path: Path) -> dict[str, int]:
    """Data types of what products multiply by, by node."""
    model = onnx.load(path)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in model.graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]
    return {node.name: kinds[sources.get(node.input[1], node.input[1])] for node in products}


def test_products_are_int8_the_probe_is_float_and_metadata_stay(quantiser: Quantiser, file: Path) -> None:
    path = file.with_name("int8.onnx")
    assert quantiser.write(path) == path.stat().st_size
    probe = probe_nodes(onnx.load(file))
    kinds = weights(path)
    assert len(probe & kinds.keys()) == 1
    assert all(
        kind == (onnx.TensorProto.FLOAT if name in probe else onnx.TensorProto.INT8) for name, kind in kinds.items()
    )
    assert METADATA.items() <= read_metadata(path).items()
    assert [(entry.domain, entry.version) for entry in onnx.load(path).opset_import] == [("", 20)]


def test_it_computes_nearly_the_same_and_the_same_at_every_batch_size(
    quantiser: Quantiser, file: Path, images: np.ndarray
) -> None:
    path = file.with_name("int8.onnx")
    quantiser.write(path)
    before, after = (open_session(p).run(None, {"images": images})[0] for p in (file, path))
    difference = np.abs(after - before).max() / np.abs(before).max()
    assert 0 < difference < 0.1
    check_alone(path, images, tolerance=LOSSY_TOLERANCE, stage="quantise")


def test_nodes_stay_in_float_as_asked_and_one_alone_can_be_quantised(quantiser: Quantiser, file: Path) -> None:
    path = file.with_name("mixed.onnx")
    first = next(name for name in quantiser.nodes if name in weights(file))
    quantiser.write(path, in_float=[first])
    assert weights(path)[first] == onnx.TensorProto.FLOAT
    quantiser.write(path, only=[first])
    kinds = weights(path)
    assert [name for name, kind in kinds.items() if kind == onnx.TensorProto.INT8] == [first]
    quantiser.write(path, in_float=quantiser.nodes)
    assert set(weights(path).values()) == {onnx.TensorProto.FLOAT}


def test_half_precision_computes_nearly_the_same_behind_a_float32_door(file: Path, images: np.ndarray) -> None:
    path = file.with_name("half.onnx")
    write_half(file, path)
    session = open_session(path)
    assert session.get_inputs()[0].type == session.get_outputs()[0].type == "tensor(float)"
    before, after = (open_session(p).run(None, {"images": images})[0] for p in (file, path))
    difference = np.abs(after - before).max() / np.abs(before).max()
    assert 1e-6 < difference < 5e-3
    assert set(weights(path).values()) == {onnx.TensorProto.FLOAT16}
    assert METADATA.items() <= read_metadata(path).items()
