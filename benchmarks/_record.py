"""What every benchmark writes beside its numbers: the machine and the versions they were measured with."""

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Processor, cores and accelerator."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "n_cores": os.cpu_count(),
        "n_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": os.getloadavg()[0],
    }


def note(message: str) -> None:
    """Say what is being done."""
    print(message, file=sys.stderr, flush=True)


def pairs_on_file(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The results by pair that ``<name>.json`` in ``folder`` has; none without such a file."""
    file = folder / f"{name}.json"
    return dict(json.loads(file.read_text())["pairs"]) if file.exists() else {}


def save(name: str, result: dict[str, Any], packages: tuple[str, ...], folder: Path = RESULTS) -> None:
    """Write ``<name>.json`` with machine and versions into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    versions = {"python": platform.python_version(), **{package: version(package) for package in packages}}
    record = {"machine": machine(), "versions": versions, **result}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
