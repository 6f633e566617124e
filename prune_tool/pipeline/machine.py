"""``env``: the machine and the software that numbers depend on, and where features are kept."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from prune_tool.deploy.hardware import cpu_model
from prune_tool.deploy.session import available_providers
from prune_tool.pipeline.runs import versions
from prune_tool.pipeline.threads import n_threads
from prune_tool.store.root import cache_root


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What this process runs on.

    Attributes:
        versions: of everything whose rounding or defaults could change a number.
        os: name and version of the operating system.
        cpu: name of the processor.
        n_cores: of the machine.
        n_usable_cores: of those, the ones that this process may use.
        cuda_devices: names of those that PyTorch can use; ``--device cuda`` needs one.
        providers: what ``--provider`` takes here.
        cache: folder of features and compiled backbones.
        cache_bytes: its size; 0 where there is none yet.
    """

    versions: dict[str, str]
    os: str
    cpu: str
    n_cores: int
    n_usable_cores: int
    cuda_devices: tuple[str, ...]
    providers: tuple[str, ...]
    cache: Path
    cache_bytes: int


def describe_machine() -> Machine:
    """Look around."""
    cache = cache_root()
    return Machine(
        versions=versions(),
        os=platform.platform(),
        cpu=cpu_model(),
        n_cores=os.cpu_count() or 1,
        n_usable_cores=n_threads(),
        cuda_devices=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
        providers=tuple(available_providers()),
        cache=cache,
        cache_bytes=_size_of(cache),
    )


def _size_of(folder: Path) -> int:
    n_bytes = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process may be tidying up
            n_bytes += path.stat().st_size if path.is_file() else 0
    return n_bytes
