"""A benchmark as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from prune_tool.deploy.bench import BenchResult, Contender, Timing


def bench_tables(result: BenchResult) -> Sequence[RenderableType]:
    """Latency of the files beside each other, what each is, and what the machine said of itself."""
    how = "one process each, in turns" if result.conditions.isolated else "in turns"
    where = f"{result.conditions.provider}, {result.environment.hardware.cpu}, {how}"
    timings = _table(
        f"ONNX Runtime {result.environment.onnxruntime}, {where}",
        ("file", "threads", "batch", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "images/s", "speed-up (95 %)"),
    )
    for timing in result.timings:
        timings.add_row(*_timing(timing))
    files = _table(None, ("file", "image", "MB", "MACs (M)", "params (M)", "cold start ms", "peak memory MB"))
    for contender in result.contenders:
        files.add_row(*_contender(contender))
    return [timings, files, Text(_machine(result), style="dim")]


def threads(n_threads: int | None) -> str:
    """How many threads, as ``--threads`` takes it."""
    return "all" if n_threads is None else str(n_threads)


def _timing(timing: Timing) -> tuple[str, ...]:
    speedup = timing.speedup
    return (
        timing.contender,
        threads(timing.n_threads),
        str(timing.batch_size),
        *(f"{ms:.2f}" for ms in (timing.p50_ms, timing.p90_ms, timing.p99_ms)),
        "" if timing.p999_ms is None else f"{timing.p999_ms:.2f}",
        f"{timing.images_per_s:,.0f}",
        f"{speedup.median:.2f} ({speedup.low:.2f}-{speedup.high:.2f})",
    )


def _contender(contender: Contender) -> tuple[str, ...]:
    kind = contender.input_type.removeprefix("tensor(").removesuffix(")")
    return (
        contender.name,
        f"{kind} {' x '.join(map(str, contender.input_shape))}",
        f"{contender.file_bytes / 1e6:,.2f}",
        "" if contender.macs is None else f"{contender.macs / 1e6:,.1f}",
        "" if contender.n_params is None else f"{contender.n_params / 1e6:,.2f}",
        "" if contender.cold_start_ms is None else f"{contender.cold_start_ms:,.0f}",
        "" if contender.peak_bytes is None else f"{contender.peak_bytes / 1e6:,.0f}",
    )


def _machine(result: BenchResult) -> str:
    hardware, events = result.environment.hardware, result.environment.n_throttle_events
    quota = "" if hardware.cpu_quota is None else f", limited to {hardware.cpu_quota:g}"
    facts = [f"{hardware.n_usable_cores} of {hardware.n_cores} cores{quota}", *hardware.gpus]
    facts.append(f"governor {', '.join(hardware.governors) or 'not stated'}")
    facts += [f"{name} {_yes(is_on)}" for name, is_on in (("turbo", hardware.turbo), ("SMT", hardware.smt))]
    facts.append("throttling not stated" if events is None else f"throttled {events} times meanwhile")
    if hardware.load_average is not None:
        facts.append(f"load {hardware.load_average:.1f} before")
    return "; ".join(facts)


def _yes(is_on: bool | None) -> str:
    return {None: "not stated", True: "on", False: "off"}[is_on]


def _table(title: str | None, headers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for i, header in enumerate(headers):
        table.add_column(header, justify="left" if i == 0 else "right", no_wrap=i == 0)
    return table
