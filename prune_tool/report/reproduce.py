"""The commands behind a run: what was asked, as somebody would type it again."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from prune_tool import defaults
from prune_tool.deploy.bench import BenchResult
from prune_tool.pipeline.results import Results
from prune_tool.records import Budget, Candidate, Form, Limit, Precision, PreprocessingChange, Request, Score, Target
from prune_tool.report.bench import threads
from prune_tool.store.layout import RunFolder

MOST_DECIMALS = 6
"""Of a budget that tells one candidate from the next: a millionth of the accuracy is less than one image."""

Words = Callable[[Any], list[str]]


def _option(name: str) -> Words:
    return lambda value: [name, str(value)]


def _flag(name: str) -> Words:
    return lambda value: [name] if value else []


def _input_sizes(sizes: tuple[int, ...]) -> list[str]:
    return ["--input-size", ",".join(map(str, sizes)) or "native"]


def _shares(shares: tuple[float, ...] | None) -> list[str]:
    return ["--narrow", "auto" if shares is None else ",".join(f"{share:g}" for share in shares) or "off"]


def _target(target: Target) -> list[str]:
    words = ["--target", target.provider, "--target-batch", str(target.batch_size)]
    return [*words, "--target-threads", str(target.n_threads)]


def _preprocessing(change: PreprocessingChange) -> list[str]:
    words: list[str] = []
    for name, value in asdict(change).items():
        if value is not None:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    return words


WORDS: dict[str, Words] = {
    "model": lambda value: [value],
    "data": lambda value: [value],
    "checkpoint": _option("--checkpoint"),
    "input_sizes": _input_sizes,
    "narrow": _shares,
    "n_calibration": _option("--calibration"),
    "allocation": _option("--allocation"),
    "heal": _option("--heal"),
    "taps": lambda value: ["--modules", ",".join(value)],
    "seed": _option("--seed"),
    "n_draws": _option("--draws"),
    "skip_bad": _flag("--skip-bad"),
    "device": _option("--device"),
    "strategy": _option("--strategy"),
    "metric": _option("--metric"),
    "compare": _flag("--compare"),
    "round_to": _option("--round-to"),
    "cost": _option("--cost"),
    "target": _target,
    "preprocessing": _preprocessing,
    "amp": _flag("--amp"),
    "engine": _option("--engine"),
    "workers": _option("--workers"),
}
"""What each field of a request is on the command line, in the order in which it is written."""


def analyze_command(request: Request, run: RunFolder) -> str:
    """The ``analyze`` of a request into a run folder; what is as by default is left out, except the seed."""
    if (request.model or "").startswith("module:"):
        return (
            f"# {request.model} was given in Python: analyze(Workspace(request, backbone=from_module(...)), runs=...)"
        )
    plain = Request()
    words = ["prune-tool", "analyze"]
    for field, spelled in WORDS.items():
        value = getattr(request, field)
        if value != getattr(plain, field) or field == "seed":
            words += spelled(value)
    return shlex.join([*words, "--runs", str(run.path.parent), "--name", run.name])


def commands(results: Results) -> tuple[str, ...]:
    """Everything that was done to a run, in order."""
    run, exported, bench = str(results.run.path), results.exported, results.bench
    analysed = results.run.analysed
    done = [analyze_command(results.record.request, analysed)]
    if exported is not None:
        certificate = exported.certificate
        together = (
            ",".join(each.name for each in analysed.budgets)
            if results.run.is_budget
            else certificate.test.budget.spelled
        )
        words = ["prune-tool", "export", str(analysed.path), "--budget", together]
        words += [] if exported.taps in {None, "all"} else ["--taps", exported.taps]
        asked = certificate.confidence
        words += [] if asked == defaults.CONFIDENCE else ["--confidence", f"{asked:g}"]
        words += _limits(exported.limits) + _form(exported.built.form, exported.precisions)
        done.append(shlex.join(words))
    if bench is not None:
        done.append(bench_command(results.run, bench))
    return (*done, shlex.join(["prune-tool", "report", run]))


def _limits(limits: Sequence[Limit]) -> list[str]:
    units = {"latency": ("ms", 1.0), "macs": ("M", 1e6), "params": ("M", 1e6), "size": ("MB", 1e6)}
    return [word for each in limits for word in (f"--max-{each.kind}", _with_unit(each.most, *units[each.kind]))]


def _with_unit(most: float, unit: str, size: float) -> str:
    return f"{most / size:.12g}{unit}"


def _form(form: Form, precisions: Sequence[Precision]) -> list[str]:
    plain = Form()
    precision = ",".join(precisions)
    words = [] if form.preprocess == plain.preprocess else ["--preprocess", form.preprocess]
    words += [] if precision == plain.precision else ["--precision", precision]
    return [*words, "--probabilities"] if form.probabilities else words


def bench_command(run: RunFolder, bench: BenchResult) -> str:
    """The ``bench`` that was run."""
    under = bench.conditions
    words = ["prune-tool", "bench", str(run.path), "--batch", ",".join(map(str, under.batch_sizes))]
    words += [] if under.threads == (None,) else ["--threads", ",".join(map(threads, under.threads))]
    words += [] if under.provider == "cpu" else ["--provider", under.provider]
    words += [] if under.image_size is None else ["--image-size", str(under.image_size)]
    words += ["--isolated"] if under.isolated else []
    return shlex.join(words)


def export_command(results: Results, budget: Budget) -> str:
    """The ``export`` of a run at a budget."""
    return shlex.join(["prune-tool", "export", str(results.run.analysed.path), "--budget", budget.spelled])


def tightest_budget(candidate: Candidate, candidates: Sequence[Candidate], full: Score) -> Budget:
    """The roundest relative budget that admits a candidate and none that is less accurate.

    Candidates above the full backbone's accuracy share the budget 0, which means the cheapest of them.
    """
    loss = max(0.0, 1 - candidate.val.accuracy / full.accuracy) if full.n_correct else 0.0
    worse = [c for c in candidates if c.val.accuracy < candidate.val.accuracy]
    rounded = [math.ceil(loss * 10**d - 1e-9) / 10**d for d in range(2, MOST_DECIMALS + 1)]
    budgets = [Budget(kind="relative", loss=b) for b in rounded]
    return next((b for b in budgets if not any(b.is_met(c.val, full) for c in worse)), budgets[-1])
