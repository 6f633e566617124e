"""The notebook in ``examples/`` runs from beginning to end, and is committed as if it had never been run."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "frontier.ipynb"


def outputs(notebook: nbformat.NotebookNode) -> list[str]:
    """What each code cell printed."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(part.get("text", "") for part in cell.outputs) for cell in cells]


@pytest.fixture(scope="module")
def run(home: Path) -> nbformat.NotebookNode:
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with warnings.catch_warnings():  # of the client's own machinery
        warnings.simplefilter("ignore")
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": home}}).execute()
    return notebook


def test_it_is_committed_without_what_a_run_left() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


def test_it_runs_and_shows_a_frontier_that_rises(run: nbformat.NotebookNode) -> None:
    lines = [line for text in outputs(run) for line in text.splitlines()]
    shown = [re.match(r" *([\d.]+) ms +([\d.]+) % +\d+ neurons of ", line) for line in lines]
    front = [(float(found[1]), float(found[2])) for found in shown if found]
    assert len(front) >= 2
    assert front == sorted(front)
    images = [part for cell in run.cells for part in cell.get("outputs", []) if "image/png" in part.get("data", {})]
    assert len(images) == 1


def test_it_chooses_and_exports(run: nbformat.NotebookNode) -> None:
    text = "\n".join(outputs(run))
    ms = [float(found) for found in re.findall(r"^budget .* ([\d.]+) ms$", text, flags=re.MULTILINE)]
    assert len(ms) == 4
    assert ms == sorted(ms, reverse=True), "a looser budget never takes longer"
    assert "test images never used before, the file keeps" in text
    assert "small.certificate.json" in text
    assert "fits.onnx" in text
