from __future__ import annotations

import re
import tomllib
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prune_tool.errors import UsageError
from prune_tool.pipeline.results import Results
from prune_tool.records import Comparison
from prune_tool.report.html import write_report
from prune_tool.report.plots import write_plots
from prune_tool.store.layout import RunFolder


def with_comparisons(results: Results) -> Results:
    def comparison(name: str, shift: float) -> Comparison:
        return Comparison(name=name, sizes=(1, 8, 64), accuracy=(0.3, 0.6 + shift, 0.8), spread=(0, 0, 0), cka=None)

    found = (comparison("random neurons", 0), comparison("first neurons", -0.2), comparison("pivoted neurons", 0.1))
    return replace(results, analysis=replace(results.analysis, comparisons=found))


def test_every_figure_is_there_as_png_and_svg(results: Results, tmp_path: Path) -> None:
    written = write_plots(with_comparisons(results), tmp_path / "plots")
    names = {
        "frontier-latency",
        "frontier-macs",
        "frontier-parameters",
        "frontier-size",
        "redundancy-64px",
        "comparisons",
    }
    assert {path.name for path in written} == {f"{name}.{suffix}" for name in names for suffix in ("png", "svg")}
    assert {*written} == {*(tmp_path / "plots").iterdir()}
    for path in written:
        if path.suffix == ".png":
            assert np.asarray(Image.open(path).convert("L")).std() > 5
    shown = "".join(ET.parse(tmp_path / "plots" / "redundancy-64px.svg").getroot().itertext())
    assert {m.reading.cut for m in results.analysis.measured} <= {*re.split(r"\s+", shown)}
    assert "pooled" in shown
    frontier = "".join(ET.parse(tmp_path / "plots" / "frontier-macs.svg").getroot().itertext())
    assert "shipped: " in frontier


def test_the_same_figure_is_the_same_file(results: Results, tmp_path: Path) -> None:
    first, second = (write_plots(results, tmp_path / name) for name in ("a", "b"))
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_without_matplotlib_the_extra_is_named_before_anything_is_written(
    copied: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied.report.unlink()
    monkeypatch.setattr("prune_tool.report.plots.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="matplotlib is not installed") as caught:
        write_report(copied, plots=True)
    assert not copied.report.exists()
    named = re.search(r"prune-tool\[(\w+)\]", caught.value.remedy)
    assert named is not None
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert any("matplotlib" in package for package in project["optional-dependencies"][named[1]])
