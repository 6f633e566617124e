"""Where everything of a run lies. No other module spells the name of one of these files."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from prune_tool.errors import RunError, UsageError
from prune_tool.records import Budget

RUNS_ROOT = Path("runs")
"""Folder of run folders, where the user names none."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one run. A path here says where a file belongs, not that it exists yet."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name, which is its folder's."""
        return self.path.name

    @property
    def run(self) -> Path:
        """What was asked: model, data, fingerprints, seeds, versions. Without it the folder is no run."""
        return self.path / "run.json"

    @property
    def analysis(self) -> Path:
        """Curves, redundancy, taps and costs."""
        return self.path / "analysis.json"

    @property
    def frontier(self) -> Path:
        """Candidates with accuracy and cost."""
        return self.path / "frontier.json"

    @property
    def model(self) -> Path:
        """The network that ships, as ONNX."""
        return self.path / "model.onnx"

    @property
    def full(self) -> Path:
        """The full backbone with its probe, as ONNX: what the shipped network is measured against."""
        return self.path / "full.onnx"

    @property
    def full_int8(self) -> Path:
        """The full backbone as int8, where the shipped network is: what quantising alone would have given."""
        return self.path / "full-int8.onnx"

    @property
    def program(self) -> Path:
        """The network that ships, as a PyTorch program (``torch.export``)."""
        return self.path / "model.pt2"

    @property
    def labels(self) -> Path:
        """Class names in the order of the outputs."""
        return self.path / "labels.json"

    @property
    def certificate(self) -> Path:
        """What was tested on the test images, and the verdict."""
        return self.path / "certificate.json"

    @property
    def predictions(self) -> Path:
        """Classes that the full backbone and the shipped file give every test image."""
        return self.path / "predictions.json"

    @property
    def bench(self) -> Path:
        """Latencies and sizes measured."""
        return self.path / "bench.json"

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.path / "report.html"

    @property
    def plots(self) -> Path:
        """Folder of the report's figures, for papers."""
        return self.path / "plots"

    @property
    def model_card(self) -> Path:
        """The model card."""
        return self.path / "README.md"

    @property
    def shipped(self) -> tuple[Path, ...]:
        """Everything that speaks of one export, which the next one replaces."""
        return (
            self.certificate,
            self.model_card,
            self.bench,
            self.report,
            self.predictions,
            self.model,
            self.program,
            self.labels,
            self.full,
            self.full_int8,
        )

    def at_budget(self, spelled: str) -> RunFolder:
        """Where the file of one of several budgets belongs: a run by itself, inside this one."""
        return RunFolder(self.path / spelled)

    @property
    def budgets(self) -> tuple[RunFolder, ...]:
        """The runs of several budgets, where they were exported together."""
        return tuple(run for run in _runs(self.path) if run.is_budget)

    @property
    def is_budget(self) -> bool:
        """Whether this is one of several budgets' runs: in a run, and named like a budget."""
        around = RunFolder(self.path.parent)
        try:
            return Budget.parse(self.name).spelled == self.name and around.run.is_file()
        except UsageError:
            return False

    @property
    def analysed(self) -> RunFolder:
        """The run that was analysed: the one around this, where this is one of several budgets'."""
        return RunFolder(self.path.parent) if self.is_budget else self

    def require(self, *files: Path, asked: str) -> None:
        """Raise ``RunError`` unless ``files`` of an export are there; the message says how they come to be."""
        for path in files:
            if not path.is_file():
                several = ", ".join(str(run.path) for run in self.budgets)
                found = f"it has no {path.name}" + (" of its own but one for each budget" if several else "")
                remedy = f"Name one of {several}" if several else f"Run `prune-tool export {self.path}` first"
                raise RunError(asked=asked, found=found, remedy=remedy)


def require_free(root: Path, name: str) -> None:
    """Raise ``RunError`` unless a run of this name can be started: it names a folder, and no run has it yet."""
    asked = f"start the run {name!r} in {root}"
    if not name or name.startswith(".") or Path(name).name != name or "\\" in name:
        raise RunError(
            asked=asked, found="that is not the name of one folder", remedy="A name like 'solar-lite0' works"
        )
    if (root / name).exists():
        raise RunError(
            asked=asked, found="a run of that name exists", remedy=f"The name {free_name(root, name)!r} is free"
        )
    if root.exists() and not root.is_dir():
        raise RunError(asked=asked, found=f"{root} is not a folder", remedy="Choose another folder")


def create_run(root: Path, name: str) -> RunFolder:
    """Make an empty run folder ``root/name``.

    Raises:
        RunError: the name is taken or is not the name of a folder, or the folder cannot be made.
    """
    require_free(root, name)
    asked = f"start the run {name!r} in {root}"
    run = RunFolder(root / name)
    try:
        root.mkdir(parents=True, exist_ok=True)
        run.path.mkdir()
    except FileExistsError as error:
        if not run.path.exists():  # a parent of it is a file
            raise RunError(asked=asked, found=f"{root} is not a folder", remedy="Choose another folder") from error
        raise RunError(
            asked=asked, found="a run of that name exists", remedy=f"The name {free_name(root, name)!r} is free"
        ) from error
    except OSError as error:
        raise RunError(
            asked=asked, found=error.strerror or str(error), remedy="Choose a folder that can be written"
        ) from error
    return run


def create_free_run(root: Path, name: str) -> RunFolder:
    """Make an empty run folder of the first free name; as ``create_run``, but another process may take a name first."""
    while True:
        free = free_name(root, name)
        try:
            return create_run(root, free)
        except RunError:
            if not (root / free).exists():
                raise


def free_name(root: Path, name: str) -> str:
    """``name``, or where a run has it already, ``name`` with the first free number."""
    number, free = 1, name
    while (root / free).exists():
        number += 1
        free = f"{name}-{number}"
    return free


def newest_run(root: Path) -> RunFolder:
    """The run of ``root`` that was started last. Raises ``RunError`` where there is none."""
    runs = _runs(root)
    if not runs:
        raise RunError(
            asked=f"find the newest run in {root}", found="there is none", remedy="Run `prune-tool analyze` first"
        )
    return max(runs, key=lambda run: (run.run.stat().st_mtime_ns, run.name))


def open_run(path: Path) -> RunFolder:
    """The run in the folder ``path``.

    Raises:
        RunError: it is not the folder of a run; names the runs that there are.
    """
    run = RunFolder(path)
    if run.run.is_file():
        return run
    found = "not a run: it has no run.json" if path.is_dir() else "no such folder"
    others = _runs(path) or _runs(path.parent) or _runs(path.parent / RUNS_ROOT)
    raise RunError(asked=f"open the run {path}", found=found, remedy=_which_would_work(path.name, others))


def _runs(root: Path) -> list[RunFolder]:
    folders = sorted(root.iterdir()) if root.is_dir() else []
    return [run for run in map(RunFolder, folders) if run.run.is_file()]


def _which_would_work(name: str, others: list[RunFolder]) -> str:
    if not others:
        return "Run `prune-tool analyze` first"
    by_name = {run.name: run for run in others}
    close = difflib.get_close_matches(name, by_name, n=1)
    shown = [by_name[each] for each in close] + [run for run in others if run.name not in close]
    listed = ", ".join(str(run.path) for run in shown[:5])
    return f"There {'is' if len(shown) == 1 else 'are'} {listed}" + (f" and {len(shown) - 5} more" * (len(shown) > 5))
