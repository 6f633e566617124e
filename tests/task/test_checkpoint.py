import argparse
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.utils import CheckpointSaver

from prune_tool.errors import ModelError
from prune_tool.task import checkpoint
from prune_tool.task.checkpoint import compare, part_that_fits, read_checkpoint, rename_in_order

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def assert_same(found, expected=None):
    expected = WEIGHTS if expected is None else expected
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert_same(read_checkpoint(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module."]
)
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "state_dict_ema", "model_state_dict", "ema"])
def test_what_training_scripts_wrap_around_is_taken_off(tmp_path, prefix, wrapper):
    content = OrderedDict((prefix + name, tensor) for name, tensor in WEIGHTS.items())
    torch.save({wrapper: content, "epoch": 3, "arch": "x"} if wrapper else content, tmp_path / "w.pth")
    assert_same(read_checkpoint(tmp_path / "w.pth"))


def test_timms_own_checkpoints_with_options_and_metrics_beside_the_weights(tmp_path):
    model = torch.nn.Linear(3, 2)
    args = argparse.Namespace(model="x", lr=[0.1], output=Path("runs"))
    saver = CheckpointSaver(
        model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), args=args, checkpoint_dir=str(tmp_path)
    )
    saver.save_checkpoint(epoch=3, metric=np.float64(71.5))
    found = list(tmp_path.rglob("*.tar"))
    assert found
    for path in found:
        with pytest.raises(pickle.UnpicklingError, match="Namespace"):
            torch.load(path, weights_only=True)  # so it is no plain file
        assert_same(read_checkpoint(path), dict(model.state_dict()))


def test_what_is_forgotten_is_not_even_made(tmp_path):
    beside = [argparse.Namespace(a=1), Path("x"), np.float64(1), np.arange(3), np.array(["a", None], dtype=object)]
    torch.save({"state_dict": WEIGHTS, "beside": beside}, tmp_path / "w.pth")
    kept = checkpoint._load_plain(tmp_path / "w.pth")["beside"]
    assert {type(each) for each in kept} == {checkpoint._Forgotten}
    assert not any(vars(each) for each in kept)
    assert_same(read_checkpoint(tmp_path / "w.pth"))


def test_pytorchs_own_averaging(tmp_path):
    model = torch.nn.Linear(3, 2)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    torch.save({"ema": {"decay": 0.9}, "model": averaged.state_dict()}, tmp_path / "w.pth")
    assert_same(read_checkpoint(tmp_path / "w.pth"), dict(model.state_dict()))


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "encoder.net."])
def test_a_network_that_is_part_of_a_larger_one_is_found(prefix):
    larger = {prefix + name: tensor for name, tensor in WEIGHTS.items()} | {"loss.weight": torch.ones(1)}
    assert_same(part_that_fits(larger, WEIGHTS))
    assert_same(part_that_fits(WEIGHTS, WEIGHTS))


def test_two_parts_that_fit_or_none_leave_the_weights_as_they_are():
    two = {prefix + name: tensor for name, tensor in WEIGHTS.items() for prefix in ("student.", "teacher.")}
    assert_same(part_that_fits(two, WEIGHTS), two)
    other = {"model.a.weight": torch.ones(5, 5), "model.a.bias": torch.ones(2)}
    assert_same(part_that_fits(other, WEIGHTS), other)


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
    assert (
        str(misfit) == "5 missing (n0, n1, n2, ...); 1 unexpected (b); 1 of another shape (a.weight 3x2 instead of 2x3)"
    )
    assert str(compare(WEIGHTS, WEIGHTS)) == ""


def test_renaming_in_order_matches_one_to_one():
    network = {"x": torch.zeros(2, 3), "bn.num_batches_tracked": torch.zeros(()), "y": torch.zeros(2)}
    assert_same(rename_in_order(WEIGHTS, network), {"x": WEIGHTS["a.weight"], "y": WEIGHTS["a.bias"]})


@pytest.mark.parametrize("shapes", [{"x": (2, 3)}, {"y": (2,), "x": (2, 3)}, {"x": (3, 2), "y": (2,)}])
def test_renaming_what_does_not_match_is_refused(shapes):
    network = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(ModelError, match="shapes differ"):
        rename_in_order(WEIGHTS, network)
