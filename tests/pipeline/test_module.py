"""``from_module``: any module in place of a name, and what it cannot be."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import prune_tool
from prune_tool.errors import ModelError, RunError, UsageError
from prune_tool.pipeline.analyze import Analyzed, analyze
from prune_tool.pipeline.export import export
from prune_tool.pipeline.module import from_module
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget, Request
from prune_tool.task.backbone import load_backbone
from prune_tool.task.pooling import Pooling
from prune_tool.task.preprocessing import Preprocessing
from tests.support import ask

OWN = Preprocessing(input_size=64, interpolation="bilinear", crop_pct=1.0, mean=(0.5,) * 3, std=(0.25,) * 3)


class Net(nn.Module):
    """Two convolutions by hand, nothing of timm's."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = scale
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images)).relu().mean((2, 3)) * self.scale


def timm_model(name: str) -> nn.Module:
    model = timm.create_model(name, pretrained=True)
    model.reset_classifier(0)
    return model


@pytest.fixture(scope="session")
def by_module(convnet: str, images: Path, home: Path, request_: Request) -> tuple[Workspace, Analyzed]:
    """The shared analysis again, of the same network as a module."""
    module = timm_model(convnet)
    workspace = Workspace(replace(request_, model=None), backbone=from_module(module, name="mine"))
    return workspace, analyze(workspace, runs=home / "runs-module")


def test_a_module_gives_what_the_same_network_gives_by_its_name(
    by_module: tuple[Workspace, Analyzed], analyzed: Analyzed
) -> None:
    _, found = by_module
    assert replace(found.analysis, timed=None) == replace(analyzed.analysis, timed=None)
    untimed = [[replace(c, latency_ms=None) for c in each.candidates] for each in (found, analyzed)]
    assert untimed[0] == untimed[1]  # a clock never says the same twice
    assert (found.record.model, found.record.request.model) == ("mine", "module:mine")
    assert found.record.preprocessing == analyzed.record.preprocessing


def test_it_exports_where_the_module_is_given_again_and_says_so_where_it_is_not(
    by_module: tuple[Workspace, Analyzed], convnet: str
) -> None:
    workspace, found = by_module
    answer = ask("export", found.run.path, "-q")
    assert answer.status == 2
    assert "module:mine" in answer.err
    remedy = re.search(r"backbone=(prune_tool\.from_module)\(module", answer.err)
    assert remedy is not None
    again = timm_model(convnet)
    request = replace(workspace.request, model=None)
    given = Workspace(request, backbone=eval(remedy[1], {"prune_tool": prune_tool})(again, name="mine"))
    assert export(given, found.run, budget=Budget.parse("0.3")).built.stages[0].max_rel_diff < 1e-4
    with torch.no_grad():
        again.layer1[0].conv1.weight[0] += 1
    with pytest.raises(RunError, match="the weights have changed"):
        export(Workspace(request, backbone=from_module(again, name="mine")), found.run, budget=Budget.parse("0.3"))


def test_a_network_of_ones_own_ships(images: Path, home: Path) -> None:
    workspace = Workspace(
        Request(data=str(images), n_draws=2, input_sizes=(32,)), backbone=from_module(Net(), preprocessing=OWN)
    )
    found = analyze(workspace, runs=home / "runs-own")
    assert found.record.model == "Net"
    assert [trunk.input_size for trunk in found.record.trunks] == [64, 32]
    assert {tap for m in found.analysis.measured for tap in m.reading.taps} >= {"first.1", "second.2"}
    shipped = export(workspace, found.run, budget=Budget.parse("0.6"))
    assert all(stage.n_top1_agree == stage.n_images for stage in shipped.built.stages)
    loaded = prune_tool.load(found.run.path)
    size = shipped.built.reading.trunk.input_size
    assert loaded(torch.rand(3, 3, size, size)).shape == (3, 3)


def test_the_module_stays_the_callers() -> None:
    module = Net().train()
    backbone = from_module(module, preprocessing=OWN)
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert not backbone.module.training
    with torch.no_grad():
        module.first[0].weight.zero_()
    assert backbone.module.first[0].weight.any()


class Twisted(Net):
    """Of the same layers and weights, with another forward pass."""

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images)).relu().amax((2, 3)) * self.scale


def test_the_fingerprint_changes_with_whatever_the_features_depend_on() -> None:
    def mark(module: nn.Module, **options: object) -> str:
        return from_module(module, preprocessing=OWN, **options).fingerprint  # type: ignore[arg-type]

    Twisted.__name__ = "Net"
    moved = Net()
    with torch.no_grad():
        moved.second[1].running_mean[0] = 1e-6
    strided = Net()
    strided.second[0].stride = (2, 2)
    others = [
        mark(Twisted()), mark(Net(2.0)), mark(moved), mark(strided),
        mark(Net(), taps=["first"]), mark(Net(), pooling=Pooling(channels_last=True)),
    ]  # fmt: skip
    assert len({mark(Net()), *others}) == 7
    assert mark(Net()) == mark(Net(), name="another")


def test_taps_are_taken_unless_the_request_names_others(images: Path) -> None:
    backbone = from_module(Net(), preprocessing=OWN, taps=["first.1"])
    own = Workspace(Request(data=str(images)), backbone=backbone).native
    assert [tap.name for tap in own.taps] == ["first.1", "head"]
    asked = Workspace(Request(data=str(images), taps=("second.0",)), backbone=backbone).native
    assert [tap.name for tap in asked.taps] == ["second.0", "head"]


class Fixed(nn.Module):
    """Runs at one input size only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 8, stride=8)
        self.fc = nn.Linear(4 * 8 * 8, 6)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.stem(images).relu().flatten(1))


def test_other_sizes_are_tried_with_the_same_module(images: Path) -> None:
    sizes = {}
    for module in (Net(), Fixed()):
        workspace = Workspace(Request(data=str(images)), backbone=from_module(module, preprocessing=OWN))
        sizes[type(module)] = [subject.input_size for subject in workspace.subjects]
    assert sizes == {Net: [64, 32], Fixed: [64]}
    asked = Workspace(Request(data=str(images), input_sizes=(40,)), backbone=from_module(Fixed(), preprocessing=OWN))
    with pytest.raises(ModelError, match="run module:Fixed at 40 px"):
        asked.subjects  # noqa: B018


def test_preprocessing_is_timms_where_the_module_is_and_can_be_resized(convnet: str) -> None:
    module = timm_model(convnet)
    by_name = load_backbone(convnet)
    assert from_module(module).preprocessing == by_name.preprocessing
    assert from_module(module, input_size=96).preprocessing == by_name.preprocessing.at(96)
    assert from_module(module, preprocessing=OWN).preprocessing == OWN


class Chooser(Net):
    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = super().forward(images)
        return features if float(features.sum()) > 0 else -features


class Wrapped(nn.Module):
    def __init__(self, convert: object) -> None:
        super().__init__()
        self.net, self.convert = Net(), convert

    def forward(self, images: Tensor) -> object:
        return self.convert(self.net(images))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: from_module(Net()), "does not say how its input is made"),
        (lambda: from_module(Wrapped(lambda f: {"features": f}), preprocessing=OWN), "two images is dict"),
        (lambda: from_module(Wrapped(lambda f: f[..., None]), preprocessing=OWN), r"two images is \(2, 12, 1\)"),
        (lambda: from_module(Wrapped(lambda f: f[:1]), preprocessing=OWN), r"two images is \(1, 12\)"),
        (lambda: from_module(Wrapped(lambda f: f.argmax(1, keepdim=True)), preprocessing=OWN), "not one row of"),
        (lambda: from_module(Fixed(), preprocessing=OWN, input_size=32), "run module:Fixed at 32 px"),
        (lambda: from_module(Chooser(), preprocessing=OWN), "capture module:Chooser"),
    ],
)  # fmt: skip
def test_what_is_no_backbone_says_why(make: object, found: str) -> None:
    with pytest.raises(ModelError, match=found):
        make()  # type: ignore[operator]


def test_senseless_preprocessing_is_refused_and_the_remedy_is_not() -> None:
    with pytest.raises(UsageError, match="pixels from 0 to 1"):
        from_module(Net(), preprocessing=replace(OWN, mean=(123.675, 116.28, 103.53)))
    from_module(Net(), preprocessing=Preprocessing(input_size=64))


@pytest.mark.parametrize("named", [{"model": "test_resnet"}, {"checkpoint": "x.safetensors"}])
def test_a_request_that_names_a_model_too_is_refused(named: dict[str, str], images: Path) -> None:
    with pytest.raises(UsageError, match="as well"):
        Workspace(Request(data=str(images), **named), backbone=from_module(Net(), preprocessing=OWN))


@pytest.mark.assets
def test_the_resnet_whose_strides_change_after_loading(assets: Path) -> None:
    """Its captured graph, with every tap, computes what the module does; and it is not timm's network."""
    name = f"local-dir:{assets / 'backbones' / 'resnet50_v1'}"
    model = timm_model(name).eval()
    for layer in (model.layer2, model.layer3, model.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    backbone = from_module(model, name="resnet50_v1")
    subject = Workspace(Request(), backbone=backbone).native
    with torch.no_grad():
        images = torch.rand(2, 3, 224, 224)
        mean, std = (
            torch.tensor(values).view(-1, 1, 1) for values in (backbone.preprocessing.mean, backbone.preprocessing.std)
        )
        expected = model((images - mean) / std)
        torch.testing.assert_close(subject.captured(images)[-1], expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(load_backbone(name).module((images - mean) / std), expected, rtol=0.1)
    assert len(subject.taps) == 16
