"""What tests of several rooms need.

A real timm backbone a few channels wide, images whose classes it can tell apart without training, and the command line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from PIL import Image

from prune_tool.pipeline.progress import Silent

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
    import timm  # here, so that tests without a backbone start at once
    import torch
    from safetensors.torch import save_file

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


def write_colour_classifier(path: Path, said: dict[str, str], *, kind: int, shape: list[str | int]) -> Path:
    """An ONNX file whose logits are the means of the colours of images (batch, h, w, 3) or (batch, 3, h, w)."""
    import onnx
    from onnx import TensorProto, helper

    from prune_tool.deploy.seal import seal

    axes = [i for i in (1, 2, 3) if shape[i] != 3]
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], axes)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    seal(model, {"prune_tool.classes": json.dumps(["red", "green", "blue"]), **said})
    onnx.save(model, path)
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command left behind."""

    status: int
    out: str
    err: str


def ask(*args: object) -> Answer:
    """Run a command in this process."""
    from prune_tool.cli.app import main

    out, err, status = StringIO(), StringIO(), None
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(arg) for arg in args])
        except SystemExit as ended:
            status = ended.code
    assert isinstance(status, int)
    return Answer(status=status, out=out.getvalue(), err=err.getvalue())


def ask_process(*args: object, program: str = "from prune_tool.cli.app import main; main()") -> Answer:
    """Run a command in a process of its own."""
    command = [sys.executable, "-c", program, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return Answer(status=done.returncode, out=done.stdout, err=done.stderr)


def doubled(item: int) -> object:
    """What worker processes apply in tests, as a tensor."""
    import torch

    return torch.tensor(2 * item)


def killed_at_three(item: int) -> object:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return doubled(item)


def slowly_named(item: int) -> int:
    time.sleep(0.05)
    return os.getpid()


class Wrapped:
    """An image source around another."""

    def __init__(self, source: object) -> None:
        self._source = source

    def __getattr__(self, name: str) -> object:
        if name == "_source":  # not yet unpickled
            raise AttributeError(name)
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)  # type: ignore[arg-type]


class Killing(Wrapped):
    """Kills the process that reads image ``at``, once, unless that is the one that made this."""

    def __init__(self, source: object, *, at: int, marker: Path) -> None:
        super().__init__(source)
        self.at, self.marker, self.maker = at, marker, os.getpid()

    def read(self, i: int, *, keep_grey: bool = False) -> object:
        if i == self.at and os.getpid() != self.maker and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self._source.read(i, keep_grey=keep_grey)  # type: ignore[attr-defined]


class Refusing(Wrapped):
    """Has only the images ``allowed``."""

    def __init__(self, source: object, *, allowed: set[int]) -> None:
        super().__init__(source)
        self.allowed = allowed

    def read(self, i: int, *, keep_grey: bool = False) -> object:
        from prune_tool.errors import BadImageError

        if i not in self.allowed:
            raise BadImageError(asked=f"read the image {i}", found="refused in a test", remedy="Ask for another")
        return self._source.read(i, keep_grey=keep_grey)  # type: ignore[attr-defined]


def untimed(value: object) -> object:
    """What was found, without what a clock said."""
    if isinstance(value, dict):
        return {key: untimed(part) for key, part in value.items() if key not in {"seconds", "timed", "latency_ms"}}
    return [untimed(part) for part in value] if isinstance(value, list) else value


class Noted(Silent):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)
