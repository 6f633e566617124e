from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from prune_tool.defaults import OPSET
from prune_tool.deploy.description import Port, describe_file
from prune_tool.deploy.seal import METADATA_SHA256
from prune_tool.errors import RunError


def write_foreign(path, *, opset=OPSET, body=True):
    """A small file that another program might have written: a subgraph, an open axis, no metadata."""

    def branch(operator):
        node = helper.make_node(operator, ["x"], ["y"])
        return helper.make_graph([node], operator, [], [helper.make_tensor_value_info("y", 1, [None])])

    choose = helper.make_node("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg"))
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 3, None]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", 3, None])]
    graph = helper.make_graph([choose] if body else [], "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="someone")
    path.write_bytes(model.SerializeToString())
    return path


def test_a_file_of_ours_is_described(file, tiny):
    found = describe_file(file)
    assert found.sealed
    assert found.metadata["opset"] == str(OPSET)
    assert found.other_metadata["budget"] == "0.05"
    assert found.inputs == (Port(name="images", type="float", shape=("batch", 3, 16, 16)),)
    assert found.outputs == (Port(name="logits", type="float", shape=("batch", 5)),)
    assert found.opsets[""] == OPSET
    assert found.operators["Conv"] == 1
    assert found.n_operators == sum(found.operators.values()) == len(onnx.load(file).graph.node)
    assert found.n_weights > tiny.conv.weight.numel()
    assert found.n_bytes == file.stat().st_size


def test_a_foreign_file_is_described_and_not_sealed(tmp_path):
    found = describe_file(write_foreign(tmp_path / "foreign.onnx"))
    assert not found.sealed
    assert (found.metadata, found.producer) == ({}, "someone")
    assert found.operators == {"If": 1, "Relu": 1, "Neg": 1}
    assert found.inputs[0] == Port(name="x", type="float16", shape=("n", 3, None))
    assert found.inputs[1].shape == ()


def test_every_flipped_bit_is_reported(file, tmp_path):
    """Wherever it is: in weights, names, shapes, metadata or the checksums themselves."""
    whole = file.read_bytes()
    path = tmp_path / "flipped.onnx"
    entry = whole.index(b"prune_tool.opset")
    flips = [(position, position % 8) for position in range(0, len(whole), max(1, len(whole) // 250))]
    for position, bit in [*flips, *((entry + i, 7) for i in range(-4, 18))]:  # the last ones make no UTF-8
        damaged = bytearray(whole)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=r"flipped\.onnx"):
            describe_file(path)
    path.write_bytes(whole)
    assert describe_file(path).sealed


def test_every_truncated_file_is_reported(file, tmp_path):
    whole = file.read_bytes()
    path = tmp_path / "short.onnx"
    for length in range(0, len(whole), max(1, len(whole) // 120)):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match=r"short\.onnx"):
            describe_file(path)


def test_a_file_without_its_checksums_is_reported(file, tmp_path):
    model = onnx.load(file)
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != METADATA_SHA256}
    helper.set_model_props(model, kept)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(RunError, match="checksums are missing"):
        describe_file(tmp_path / "model.onnx")


def test_an_opset_from_the_future_is_reported(tmp_path):
    path = write_foreign(tmp_path / "new.onnx", opset=99)
    with pytest.raises(RunError, match="opset is 99") as caught:
        describe_file(path)
    assert "older opset" in caught.value.remedy
    assert describe_file(write_foreign(path)).opsets == {"": OPSET}


def test_an_opset_in_which_the_graph_is_not_valid_is_reported(tmp_path):
    model = onnx.load(write_foreign(tmp_path / "old.onnx"))
    model.graph.node.append(helper.make_node("GroupNormalization", ["x", "x", "x"], ["z"], num_groups=1))
    model.opset_import[0].version = 9
    onnx.save(model, tmp_path / "old.onnx")
    with pytest.raises(RunError, match="not valid ONNX"):
        describe_file(tmp_path / "old.onnx")


def test_a_missing_file_and_a_folder_are_reported(tmp_path):
    for path in (tmp_path / "absent.onnx", tmp_path):
        with pytest.raises(RunError, match="read "):
            describe_file(path)
