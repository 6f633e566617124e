"""The machine as far as latencies depend on it, read from the system and never changed."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What can be read; None where the system does not say (a virtual machine says little, only Linux says most).

    Attributes:
        cpu: name of the processor.
        n_cores: processors that the system counts.
        n_usable_cores: those of them that this process may use.
        cpu_quota: processors' worth of time that its control group may use.
        gpus: names of NVIDIA devices.
        governors: frequency governors in force, such as ``performance``; empty where nothing says.
        turbo: whether clocks may rise above the nominal one.
        smt: whether cores run two threads each.
        load_average: processes that wanted a core, over the last minute.
    """

    cpu: str
    n_cores: int
    n_usable_cores: int
    cpu_quota: float | None
    gpus: tuple[str, ...]
    governors: tuple[str, ...]
    turbo: bool | None
    smt: bool | None
    load_average: float | None


def read_hardware(root: Path = Path("/")) -> Hardware:
    """Look around below ``root``."""
    cpus = root / "sys/devices/system/cpu"
    n_cores = os.cpu_count() or 1
    return Hardware(
        cpu=cpu_model(root),
        n_cores=n_cores,
        n_usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else n_cores,
        cpu_quota=_quota(root / "sys/fs/cgroup/cpu.max"),
        gpus=_gpus(root / "proc/driver/nvidia/gpus"),
        governors=tuple(sorted({_read(path) or "" for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {""})),
        turbo=_turbo(cpus),
        smt=_flag(cpus / "smt/active"),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def throttle_events(root: Path = Path("/")) -> int | None:
    """How often cores have been slowed down for heat since the machine started; None where nothing counts it."""
    counters = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [int(text) for text in map(_read, counters) if text and text.isdecimal()]
    return sum(counts) if counts else None


def cpu_model(root: Path = Path("/")) -> str:
    """The processor's name; Linux alone keeps it in a file, elsewhere Python knows it."""
    for line in (_read(root / "proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _turbo(cpus: Path) -> bool | None:
    """Intel's driver says whether it is forbidden, the others whether it is allowed."""
    forbidden = _flag(cpus / "intel_pstate/no_turbo")
    return not forbidden if forbidden is not None else _flag(cpus / "cpufreq/boost")


def _quota(path: Path) -> float | None:
    quota, _, period = (_read(path) or "").partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None


def _gpus(folder: Path) -> tuple[str, ...]:
    lines = (line for path in sorted(folder.glob("*/information")) for line in (_read(path) or "").splitlines())
    return tuple(line.partition(":")[2].strip() for line in lines if line.startswith("Model:"))


def _flag(path: Path) -> bool | None:
    return {"0": False, "1": True}.get(_read(path) or "")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
