from __future__ import annotations

import socket
from pathlib import Path

import pytest

from prune_tool.errors import ModelError
from prune_tool.pipeline.inspect import KEPT_PERCENT, Inspection, TapCost, inspect
from prune_tool.pipeline.workspace import Workspace
from prune_tool.surgery.cost import cost_of
from prune_tool.surgery.groups import find_groups
from prune_tool.surgery.narrowing import cost_of_narrowed
from prune_tool.surgery.slicing import slice_graph


@pytest.fixture(scope="module")
def inspection(convnet: str) -> Inspection:
    return inspect(convnet)


def test_taps_and_costs_are_those_of_the_trained_backbone(inspection: Inspection, workspace: Workspace) -> None:
    subject = workspace.native
    assert [(tap.name, tap.width) for tap in inspection.taps] == [(tap.name, tap.width) for tap in subject.taps]
    assert inspection.full == cost_of(subject.captured)
    assert inspection.taps[-1].whole == inspection.full


def test_parameters_are_those_of_the_network_cut_there(inspection: Inspection, workspace: Workspace) -> None:
    for number, tap in enumerate(inspection.taps):
        cut = slice_graph(workspace.native.captured, {number: None})
        assert tap.whole.n_params == sum(parameter.numel() for parameter in cut.parameters())


def test_hidden_widths_are_those_that_can_be_narrowed(inspection: Inspection, workspace: Workspace) -> None:
    captured = workspace.native.captured
    assert [group.name for group in inspection.groups] == [group.name for group in find_groups(captured)]
    halves = {group.name: group.width // 2 for group in inspection.groups}
    narrowed = cost_of_narrowed(captured, halves)
    assert inspection.full.macs - inspection.saved.macs == narrowed.macs
    assert inspection.full.n_params - inspection.saved.n_params == narrowed.n_params
    for group in inspection.groups:
        alone = cost_of_narrowed(captured, {group.name: halves[group.name]})
        assert inspection.full.macs - group.saved.macs == alone.macs


def test_tokens_that_nobody_reads_are_not_saved_by_narrowing() -> None:
    inspection = inspect("test_vit")
    groups = sum(group.saved.macs for group in inspection.groups)
    assert 0 < groups == inspection.saved.macs < inspection.full.macs / 2  # widths of a transformer do not interact


def test_cutting_earlier_or_to_fewer_neurons_costs_less(inspection: Inspection) -> None:
    costs = [tap.whole.macs for tap in inspection.taps]
    assert costs == sorted(set(costs))
    for tap in inspection.taps:
        assert 100 * (tap.n_kept - 1) < KEPT_PERCENT * tap.width <= 100 * tap.n_kept
        assert tap.kept.macs < tap.whole.macs
        assert tap.kept.n_params < tap.whole.n_params
    assert not any(tap.barriers for tap in inspection.taps)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert inspect("test_vit").taps[-1].name == "head"
    assert inspect(None, input_size=64).input_size == 64


def test_a_token_backbone_saves_at_its_head_what_only_the_class_token_needs() -> None:
    inspection = inspect("test_vit")
    assert inspection.taps[-1].whole.macs < inspection.full.macs


def test_barriers_are_named(monkeypatch: pytest.MonkeyPatch, convnet: str, inspection: Inspection) -> None:
    from torch.ops import aten

    from prune_tool.surgery.rules import RULES

    monkeypatch.delitem(RULES, aten.relu.default)  # type: ignore[arg-type]
    blocked = inspect(convnet)
    assert {operator for tap in blocked.taps for operator in tap.barriers} == {"aten.relu.default"}
    first, head = blocked.taps[0], blocked.taps[-1]
    assert isinstance(head, TapCost)
    assert first.kept.n_params > inspection.taps[0].kept.n_params


def test_weights_are_read_only_where_they_are_named(convnet: str, tmp_path: Path) -> None:
    import shutil

    folder = Path(convnet.removeprefix("local-dir:"))
    shutil.copy(folder / "config.json", tmp_path)
    assert inspect(f"local-dir:{tmp_path}").model == "test_resnet"
    assert inspect("test_resnet", checkpoint=folder / "model.safetensors").model == "test_resnet"
    with pytest.raises(ModelError, match="do not fit"):
        inspect("test_vit", checkpoint=folder / "model.safetensors")
