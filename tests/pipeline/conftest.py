"""A real timm backbone a few channels wide, and images whose classes it can tell apart without training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from prune_tool.pipeline.analyze import Analyzed, analyze
from prune_tool.pipeline.export import Exported, export
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import Budget, Request

CLASSES = ("checks", "rows", "stripes")
N_PER_CLASS = 70


def texture(name: str, rng: np.random.Generator) -> np.ndarray:
    """A noisy 64 x 64 pattern of random period, phase and colour."""
    y, x = np.mgrid[0:64, 0:64]
    period, phase = rng.uniform(6, 12), rng.uniform(0, 6)
    wave_x, wave_y = np.sin(2 * np.pi * (x + phase) / period), np.sin(2 * np.pi * (y + phase) / period)
    pattern = {"checks": wave_x * wave_y, "rows": wave_y, "stripes": wave_x}[name]
    colour = rng.uniform(0.3, 1, 3)
    noisy = 0.5 + 0.3 * pattern[..., None] * colour + rng.normal(0, 0.25, (64, 64, 3))
    return (255 * noisy.clip(0, 1)).astype(np.uint8)


def write_images(root: Path, n_per_class: int = N_PER_CLASS, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for i in range(n_per_class):
            Image.fromarray(texture(name, rng)).save(root / name / f"{i:03}.png")
    return root


def write_backbone(folder: Path, architecture: str, input_size: int = 64) -> str:
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=5)
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": architecture,
        "num_classes": 5,
        "pretrained_cfg": {
            "input_size": [3, input_size, input_size],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": 5,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session", autouse=True)
def own_cache(home: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNE_TOOL_CACHE", str(home / "cache"))
        yield


@pytest.fixture(scope="session")
def images(home: Path) -> Path:
    return write_images(home / "textures")


@pytest.fixture(scope="session")
def convnet(home: Path) -> str:
    return write_backbone(home / "convnet", "test_resnet")


@pytest.fixture(scope="session")
def request_(images: Path, convnet: str) -> Request:
    return Request(model=convnet, data=str(images), input_sizes=(), n_draws=10)


@pytest.fixture(scope="session")
def workspace(request_: Request) -> Workspace:
    return Workspace(request_)


@pytest.fixture(scope="session")
def analyzed(workspace: Workspace, home: Path) -> Analyzed:
    return analyze(workspace, runs=home / "runs")


@pytest.fixture(scope="session")
def exported(workspace: Workspace, analyzed: Analyzed) -> Exported:
    return export(workspace, analyzed.run, budget=Budget.parse("0.2"))
