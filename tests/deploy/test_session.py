import numpy as np
import onnx
import onnxruntime as ort
import pytest

from prune_tool.deploy.session import open_session
from prune_tool.deploy.verify import predict
from prune_tool.errors import ProviderError, RunError


def test_threads_and_optimisation_are_what_was_asked_for(file):
    options = open_session(file, n_threads=2, optimise=False).get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == 1
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert (
        open_session(file).get_session_options().graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    )


def test_bytes_do_as_well_as_a_path(file, images):
    from_path, from_bytes = open_session(file), open_session(file.read_bytes())
    np.testing.assert_array_equal(predict(from_path, [images]), predict(from_bytes, [images]))


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "CPU", ""])
def test_an_absent_provider_is_an_error_whose_remedy_works(provider, file):
    if provider in {"cuda", "tensorrt"} and len(ort.get_available_providers()) > 2:
        pytest.skip("this machine may have it")
    with pytest.raises(ProviderError) as caught:
        open_session(file, provider=provider)
    assert "Use one of: cpu" in caught.value.remedy
    assert open_session(file, provider="cpu").get_providers() == ["CPUExecutionProvider"]


def test_falling_back_is_an_error(file, monkeypatch):
    """A provider that is installed but whose libraries do not load: ONNX Runtime goes on with the CPU."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(ProviderError, match="fell back to CPU"),
    ):
        open_session(file, provider="cuda")


@pytest.mark.parametrize("content", [None, b"", b"GIF89a" + bytes(100)])
def test_a_missing_or_foreign_file_is_an_error(content, tmp_path):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=r"model\.onnx"):
        open_session(path)


def test_a_flipped_byte_is_reported_and_never_crashes(file, images):
    """Wherever it is: the file opens and runs (parity then judges its logits), or the error is ours."""
    whole = file.read_bytes()
    outcomes = {"ran": 0, "reported": 0}
    for position in range(0, len(whole), 17):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        try:
            predict(open_session(bytes(damaged), n_threads=1), [images])
        except RunError:
            outcomes["reported"] += 1
        else:
            outcomes["ran"] += 1
    assert min(outcomes.values()) > 10


def test_a_truncated_file_is_reported(file):
    whole = file.read_bytes()
    with pytest.raises(RunError, match="ONNX Runtime says"):
        open_session(whole[: len(whole) // 2])


def test_nothing_is_printed(file, images, capfd):
    """Neither ONNX Runtime's warning about weights that nothing reads, nor its report of an error raised anyway."""
    model = onnx.load(file)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "unread"))
    session = open_session(model.SerializeToString())
    with pytest.raises(RunError):
        predict(session, [images[:, :2]])
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
