import numpy as np
import onnx
import pytest
import torch
from torch import nn

from prune_tool.defaults import OPSET
from prune_tool.deploy import onnx_file, seal
from prune_tool.deploy.description import read_metadata
from prune_tool.deploy.onnx_file import add_probabilities, update_metadata, write_onnx
from prune_tool.deploy.seal import graph_sha256
from prune_tool.deploy.session import open_session
from prune_tool.errors import ModelError, RunError, VerificationError

METADATA = {"labels": '["cat", "dög"]', "budget": "0.05", "empty": ""}


def messages(message):
    """The message and everything below it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if hasattr(value, "__len__") else [value]:
                yield from messages(part)


def test_metadata_comes_back(file):
    assert read_metadata(file).items() >= METADATA.items()
    assert read_metadata(file)["prune_tool.opset"] == str(OPSET)


def test_size_is_the_files(program, tmp_path):
    path = tmp_path / "model.onnx"
    assert write_onnx(program, path, metadata={}) == path.stat().st_size
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_runs_at_batch_sizes_it_was_not_exported_with(file, reference, images):
    session = open_session(file)
    for n in (1, 3, 9):
        (logits,) = session.run(["logits"], {"images": images[:n]})
        np.testing.assert_allclose(logits, reference(images[:n]), atol=1e-5)


def test_the_batch_axis_is_named_and_the_exporters_symbol_is_gone(file):
    model = onnx.load(file)
    assert model.opset_import[0].version == OPSET
    for entry in (model.graph.input[0], model.graph.output[0]):
        assert entry.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [model.graph.input[0].name, model.graph.output[0].name] == ["images", "logits"]
    named = {part.dim_param for part in messages(model) if getattr(part, "dim_param", "")}
    assert "batch" in named
    assert all("batch" in name for name in named)
    assert len(named) > 1  # an expression of it, such as 64*batch


def test_the_exporters_noise_is_gone(file):
    model = onnx.load(file)
    assert not [part for part in messages(model) if getattr(part, "doc_string", "")]
    assert [part for part in messages(model) if getattr(part, "metadata_props", ())] == [model]
    assert b".py" not in file.read_bytes()


def test_noise_inside_subgraphs_is_dropped_too():
    def body(name):
        node = onnx.helper.make_node("Identity", ["x"], [name], doc_string="File secret.py")
        return onnx.helper.make_graph([node], name, [], [onnx.ValueInfoProto(name=name)])

    branch = onnx.helper.make_node("If", ["c"], ["y"], then_branch=body("a"), else_branch=body("b"))
    graph = onnx.helper.make_graph([branch], "g", [], [])
    onnx_file._tidy(graph, batch_symbol="s0")
    assert b"secret" not in graph.SerializeToString()


def test_a_program_of_one_batch_size_is_refused_and_nothing_is_written(tiny, tmp_path):
    fixed = torch.export.export(tiny, (torch.zeros(2, 3, 16, 16),), strict=False)
    with pytest.raises(VerificationError, match="batches of 2"):
        write_onnx(fixed, tmp_path / "model.onnx", metadata={})
    assert not list(tmp_path.iterdir())


def test_weights_beyond_one_file_are_refused(program, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 100)
    with pytest.raises(ModelError, match="at most 100"):
        write_onnx(program, tmp_path / "model.onnx", metadata={})


def test_several_outputs_are_named_in_order(tmp_path):
    class Two(nn.Module):
        def forward(self, x):
            return x.mean(dim=(2, 3)), x.amax(dim=(2, 3))

    two = torch.export.export(
        Two(), (torch.zeros(2, 3, 4, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
    )
    write_onnx(two, tmp_path / "two.onnx", metadata={}, input_name="x", output_names=("mean", "peak"))
    session = open_session(tmp_path / "two.onnx")
    x = np.random.default_rng(0).standard_normal((3, 3, 4, 4), dtype=np.float32)
    mean, peak = session.run(["mean", "peak"], {"x": x})
    np.testing.assert_allclose(mean, x.mean((2, 3)), atol=1e-6)
    np.testing.assert_array_equal(peak, x.max((2, 3)))


@pytest.mark.parametrize("content", [None, b"", b"not an ONNX file, but text long enough to be read as one"])
def test_what_is_no_onnx_file_is_an_error(content, tmp_path):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"model\.onnx of a run"):
        read_metadata(path)


def test_metadata_are_added_and_the_graph_stays(file, tmp_path, images):
    path = tmp_path / "model.onnx"
    path.write_bytes(file.read_bytes())
    update_metadata(path, {"budget": "0.1", "new": "ü"})
    assert read_metadata(path).items() >= (METADATA | {"budget": "0.1", "new": "ü"}).items()
    assert graph_sha256(onnx.load(path)) == graph_sha256(onnx.load(file)) == read_metadata(path)[seal.GRAPH_SHA256]
    before, after = (open_session(each).run(None, {"images": images})[0] for each in (file, path))
    np.testing.assert_array_equal(before, after)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_probabilities_are_the_softmax_of_the_logits(file, tmp_path, images):
    path = tmp_path / "model.onnx"
    path.write_bytes(file.read_bytes())
    add_probabilities(path)
    session = open_session(path)
    assert [output.name for output in session.get_outputs()] == ["logits", "probabilities"]
    assert session.get_outputs()[1].shape == ["batch", 5]
    logits, probabilities = session.run(None, {"images": images})
    np.testing.assert_array_equal(logits, open_session(file).run(None, {"images": images})[0])
    expected = torch.from_numpy(logits).softmax(dim=1)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert read_metadata(path).items() >= METADATA.items()
    with pytest.raises(RunError, match="logits, probabilities"):
        add_probabilities(path, of="features")
