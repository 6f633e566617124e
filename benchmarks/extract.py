"""Images per second from files on disk to features: prune-tool, plain timm evaluation loops, and the bare runtimes.

    python benchmarks/extract.py [MODEL] [DATA] [--images N] [--device cpu|cuda] [--amp] [--workers N] [--out FOLDER]

All are interleaved and work on the same images with the same transform at the backbone's own input size. The loops
decode in worker processes, one a core, and compute the penultimate layer only; prune-tool extracts *all* taps. The bare
runtimes run the graph with all taps on pixels that lie decoded in memory, in the way of their documentation: the better
of them is what extraction could reach if decoding were free. Compiling the graph and trying the runtimes, done once per
backbone and cached, are timed by themselves. Writes ``extract[-cuda][-amp].json`` and prints its table.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import _record
import numpy as np
import timm
import torch
from torch.utils.data import DataLoader, Dataset

from prune_tool import Request, Workspace, defaults
from prune_tool.deploy.session import open_session
from prune_tool.pipeline.decode import Batch, Decoder
from prune_tool.pipeline.engines.choose import choose_runtime
from prune_tool.pipeline.engines.network import network_of
from prune_tool.pipeline.engines.runners import AMP_DTYPE, TorchRunner, exact_products
from prune_tool.pipeline.extract import extract
from prune_tool.pipeline.threads import n_threads
from prune_tool.store.features import FeatureCache

N_ROUNDS = 3
N_DECODED = 64
"""Images that the bare runtimes run on, over and over."""

LOOP, LAST_LOOP = "timm loop, PyTorch", "timm loop, PyTorch channels-last"
OURS = "prune-tool, all taps"
BARE = ("bare ONNX Runtime, decoded", "bare PyTorch channels-last, decoded")


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


def timm_loop(workspace: Workspace, n_images: int, memory_format: torch.memory_format) -> float:
    """Seconds of an evaluation loop as timm's ``validate.py`` runs it."""
    device, amp = workspace.request.device, workspace.request.amp
    module = workspace.native.backbone.module.to(device).to(memory_format=memory_format)
    loader = DataLoader(
        Images(workspace, n_images),
        batch_size=defaults.BATCH_SIZE[device],
        num_workers=n_threads(),
        pin_memory=device == "cuda",
    )
    start = time.perf_counter()
    with torch.inference_mode(), torch.autocast(device, AMP_DTYPE) if amp else nullcontext():
        for batch in loader:
            module(batch.to(device, non_blocking=True).contiguous(memory_format=memory_format)).cpu()
    return time.perf_counter() - start


def prune_tool_extract(workspace: Workspace, n_images: int) -> float:
    """Seconds to extract into an empty cache, the compiled graph and the chosen runtime at hand."""
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


def bare_runtimes(workspace: Workspace, n_images: int) -> dict[str, Callable[[], float]]:
    """Seconds of either runtime for ``n_images`` that are decoded already."""
    subject, device = workspace.native, workspace.request.device
    decoder = Decoder(workspace.source, {0: subject.backbone.preprocessing})
    pixels = decoder(Batch(rows=np.arange(min(N_DECODED, n_images)), wanted=(0,)))[0].to(device)
    size = defaults.BATCH_SIZE[device]
    pixels = pixels.repeat(max(1, -(-size // len(pixels))), 1, 1, 1)
    batches = [pixels[i % len(pixels) :][:size] for i in range(0, n_images, size)]
    module = TorchRunner(network_of(workspace, subject, "pytorch"), device)._module  # noqa: SLF001 - bare

    def pytorch() -> float:
        start = time.perf_counter()
        with (
            exact_products(),
            torch.inference_mode(),
            torch.autocast(device, AMP_DTYPE, enabled=workspace.request.amp),
        ):
            for batch in batches:
                module(batch)
            if device == "cuda":
                torch.cuda.synchronize()
        return (time.perf_counter() - start) * n_images / sum(map(len, batches))

    if device == "cuda":
        return {BARE[1]: pytorch}
    session = open_session(network_of(workspace, subject, "onnxruntime").form, n_threads=n_threads())

    def onnx_runtime() -> float:
        start = time.perf_counter()
        for batch in batches:
            session.run(None, {"pixels": batch.numpy()})
        return (time.perf_counter() - start) * n_images / sum(map(len, batches))

    return {BARE[0]: onnx_runtime, BARE[1]: pytorch}


def prepare(workspace: Workspace) -> float:
    """Seconds to compile the graph and to choose the runtime."""
    start = time.perf_counter()
    indices = np.arange(defaults.BATCH_SIZE["cpu"])
    runtime = choose_runtime(workspace, workspace.native, workspace.request.device, indices)
    network_of(workspace, workspace.native, runtime)
    (workspace.cache.root / "graphs").mkdir(parents=True, exist_ok=True)
    return time.perf_counter() - start


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=_record.RESULTS)
    asked = parser.parse_args()
    n = asked.images
    workspace = Workspace(
        Request(model=asked.model, data=asked.data, device=asked.device, amp=asked.amp, workers=asked.workers)
    )
    preparing = prepare(workspace)
    contenders: dict[str, Callable[[], float]] = {
        LOOP: lambda: timm_loop(workspace, n, torch.contiguous_format),
        LAST_LOOP: lambda: timm_loop(workspace, n, torch.channels_last),
        OURS: lambda: prune_tool_extract(workspace, n),
        **bare_runtimes(workspace, n),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(N_ROUNDS):
        for name, contender in contenders.items():
            seconds[name].append(contender())
    rates = {name: n / statistics.median(times) for name, times in seconds.items()}
    better = max(rate for name, rate in rates.items() if name in BARE)
    result = {
        "model": workspace.native.backbone.name,
        "data": workspace.source.name,
        "device": asked.device,
        "amp": asked.amp,
        "workers": asked.workers,
        "n_images": n,
        "n_taps": len(workspace.native.taps),
        "features_per_image": sum(tap.width for tap in workspace.native.taps),
        "batch_size": defaults.BATCH_SIZE[asked.device],
        "prepare_once_s": preparing,
        "images_per_s": rates,
        "ratio_to_timm_loop": {name: rate / rates[LOOP] for name, rate in rates.items()},
        "share_of_better_bare_runtime": rates[OURS] / better,
        "seconds": seconds,
    }
    name = "-".join(["extract", *(["cuda"] if asked.device == "cuda" else []), *(["amp"] if asked.amp else [])])
    _record.save(name, result, ("torch", "timm", "onnxruntime", "pillow"), asked.out)
    print("| contender | images/s | ratio |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.0f} | {rate / rates[LOOP]:.2f} |")
    print(f"\n{OURS}: {result['share_of_better_bare_runtime']:.0%} of the better runtime on decoded pixels")


if __name__ == "__main__":
    main()
