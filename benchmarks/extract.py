"""Images per second from files on disk to features: prune-tool against plain timm evaluation loops, interleaved.

    python benchmarks/extract.py [MODEL] [DATA] [--images N] [--device cpu|cuda]

Every contender reads the same images with the same transform at the backbone's own input size, batch 16 (256 on CUDA).
prune-tool extracts *all* taps; the loops compute the penultimate layer only. Compiling the graph, done once per
backbone and cached, is timed by itself. Writes ``benchmarks/results/extract[-cuda].json`` and prints its table.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import _record
import numpy as np
import timm
import torch
from torch.utils.data import DataLoader, Dataset

from prune_tool import Request, Workspace, defaults
from prune_tool.pipeline.extract import extract, open_runner
from prune_tool.store.features import FeatureCache

N_ROUNDS = 3


class Images(Dataset[torch.Tensor]):
    """The first images of a source under timm's own transform."""

    def __init__(self, workspace: Workspace, n_images: int) -> None:
        preprocessing = workspace.native.backbone.preprocessing
        self.source, self.n_images = workspace.source, n_images
        self.transform = timm.data.create_transform(
            input_size=(3, preprocessing.input_size, preprocessing.input_size),
            interpolation=preprocessing.interpolation,
            crop_pct=preprocessing.crop_pct,
            mean=preprocessing.mean,
            std=preprocessing.std,
        )

    def __len__(self) -> int:
        return self.n_images

    def __getitem__(self, i: int) -> torch.Tensor:
        image: torch.Tensor = self.transform(self.source.read(i))
        return image


def timm_loop(workspace: Workspace, n_images: int, device: str, memory_format: torch.memory_format) -> float:
    """Seconds of an evaluation loop as timm's ``validate.py`` runs it."""
    batch_size = defaults.BATCH_SIZE[device]
    workers = 2 if device == "cpu" else 8
    module = workspace.native.backbone.module.to(device).to(memory_format=memory_format)
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in DataLoader(Images(workspace, n_images), batch_size=batch_size, num_workers=workers):
            module(batch.to(device).contiguous(memory_format=memory_format)).cpu()
    return time.perf_counter() - start


def prune_tool_extract(workspace: Workspace, n_images: int) -> float:
    """Seconds to extract into an empty cache, the compiled graph at hand."""
    folder = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(workspace.cache.root / "graphs", folder / "graphs", dirs_exist_ok=True)
        workspace.__dict__["cache"] = FeatureCache(folder)
        start = time.perf_counter()
        extract(workspace, [workspace.native], np.arange(n_images))
        return time.perf_counter() - start
    finally:
        workspace.__dict__.pop("cache")
        shutil.rmtree(folder)


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    workspace = Workspace(Request(model=arguments.model, data=arguments.data, device=arguments.device))
    start = time.perf_counter()
    (workspace.cache.root / "graphs").mkdir(parents=True, exist_ok=True)
    open_runner(workspace, workspace.native)
    compiling = time.perf_counter() - start
    n, device = arguments.images, arguments.device
    contenders: dict[str, Callable[[], float]] = {
        "timm loop, PyTorch": lambda: timm_loop(workspace, n, device, torch.contiguous_format),
        "timm loop, PyTorch channels-last": lambda: timm_loop(workspace, n, device, torch.channels_last),
        "prune-tool, all taps": lambda: prune_tool_extract(workspace, n),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(N_ROUNDS):
        for name, contender in contenders.items():
            seconds[name].append(contender())
    rates = {name: n / statistics.median(times) for name, times in seconds.items()}
    baseline = rates["timm loop, PyTorch"]
    result = {
        "model": workspace.native.backbone.name,
        "data": workspace.source.name,
        "device": device,
        "n_images": n,
        "n_taps": len(workspace.native.taps),
        "batch_size": defaults.BATCH_SIZE[device],
        "compile_once_s": compiling,
        "images_per_s": rates,
        "ratio_to_timm_loop": {name: rate / baseline for name, rate in rates.items()},
        "seconds": seconds,
    }
    _record.save(
        "extract" if device == "cpu" else f"extract-{device}", result, ("torch", "timm", "onnxruntime", "pillow")
    )
    print("| contender | images/s | ratio |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.0f} | {rate / baseline:.2f} |")


if __name__ == "__main__":
    main()
