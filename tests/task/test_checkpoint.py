import pickle
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from prune_tool.errors import ModelError
from prune_tool.task.checkpoint import compare, read_checkpoint, rename_in_order

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def assert_same(found, expected=None):
    expected = WEIGHTS if expected is None else expected
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert_same(read_checkpoint(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "state_dict_ema"])
def test_what_training_scripts_wrap_around_is_taken_off(tmp_path, prefix, wrapper):
    content = OrderedDict((prefix + name, tensor) for name, tensor in WEIGHTS.items())
    torch.save({wrapper: content, "epoch": 3, "arch": "x"} if wrapper else content, tmp_path / "w.pth")
    assert_same(read_checkpoint(tmp_path / "w.pth"))


def test_averaged_weights_come_first(tmp_path):
    raw = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
    torch.save({"state_dict": raw, "state_dict_ema": WEIGHTS}, tmp_path / "w.pth.tar")
    assert_same(read_checkpoint(tmp_path / "w.pth.tar"))


@pytest.mark.parametrize("how", ["torch", "old torch", "plain pickle", "beside weights"])
def test_a_pickle_that_wants_code_runs_nothing(tmp_path, canary, how):
    bomb, trace = canary
    path = tmp_path / "w.pth"
    if how == "plain pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        content = {**WEIGHTS, "extra": bomb} if how == "beside weights" else bomb
        torch.save(content, path, _use_new_zipfile_serialization=how != "old torch")
    with pytest.raises(ModelError, match="nothing in it was run") as caught:
        read_checkpoint(path)
    assert not trace.exists()
    assert "save_file" in caught.value.remedy
    save_file(WEIGHTS, tmp_path / "weights.safetensors")  # what the remedy says
    assert_same(read_checkpoint(tmp_path / "weights.safetensors"))
    if how != "plain pickle":
        torch.load(path, weights_only=False)  # the canary does sing
        assert trace.exists()


def test_a_damaged_file_is_named(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    torch.save(WEIGHTS, tmp_path / "w.pth")
    for path in (tmp_path / "w.safetensors", tmp_path / "w.pth"):
        whole = path.read_bytes()
        for damaged in (b"", b"<html>", whole[:20], whole[:-10]):
            path.write_bytes(damaged)
            with pytest.raises(ModelError, match=path.name):
                read_checkpoint(path)


@pytest.mark.parametrize("content", [{}, [1, 2], {"a": 1}, torch.ones(2), {"state_dict": {"epoch": 1}}])
def test_a_file_without_weights_says_so(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="no tensors by name"):
        read_checkpoint(tmp_path / "w.pth")


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        read_checkpoint(tmp_path / "w.safetensors")


def test_differences_are_counted_and_the_first_few_named():
    network = {"a.weight": torch.ones(2, 3), "bn.num_batches_tracked": torch.ones(())}
    network |= {f"n{i}": torch.ones(1) for i in range(5)}
    misfit = compare({"a.weight": torch.ones(3, 2), "b": torch.ones(1)}, network)
    assert str(misfit) == "5 missing (n0, n1, n2, ...); 1 unexpected (b); 1 of another shape (a.weight)"
    assert str(compare(WEIGHTS, WEIGHTS)) == ""


def test_renaming_in_order_matches_one_to_one():
    network = {"x": torch.zeros(2, 3), "bn.num_batches_tracked": torch.zeros(()), "y": torch.zeros(2)}
    assert_same(rename_in_order(WEIGHTS, network), {"x": WEIGHTS["a.weight"], "y": WEIGHTS["a.bias"]})


@pytest.mark.parametrize("shapes", [{"x": (2, 3)}, {"y": (2,), "x": (2, 3)}, {"x": (3, 2), "y": (2,)}])
def test_renaming_what_does_not_match_is_refused(shapes):
    network = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(ModelError, match="shapes differ"):
        rename_in_order(WEIGHTS, network)
