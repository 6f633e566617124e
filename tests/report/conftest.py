"""One small run, exported and timed, and its page taken apart."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

import prune_tool
from prune_tool.deploy.bench import Conditions
from prune_tool.pipeline.analyze import Analyzed
from prune_tool.pipeline.export import Exported
from prune_tool.pipeline.results import Results, read_results
from prune_tool.pipeline.workspace import Workspace
from prune_tool.report.html import render, write_report
from prune_tool.store.layout import RunFolder
from tests.pipeline.conftest import analyzed, exported, request_, workspace

__all__ = ["analyzed", "exported", "request_", "workspace"]

VOID = {"meta", "link", "img", "input", "br"}


@dataclass(eq=False)
class Element:
    tag: str
    attributes: dict[str, str]
    parents: tuple[Element, ...] = field(repr=False)  # each has its own parents: shown, they would fill the memory
    text: str = ""

    @property
    def classes(self) -> set[str]:
        return set(self.attributes.get("class", "").split())

    def inside(self, other: Element) -> bool:
        return any(parent is other for parent in self.parents)


@dataclass(eq=False, repr=False)
class Page(HTMLParser):
    """Every element of a page with its text, and whether all of them were closed in order."""

    source: str
    elements: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[Element] = []
        self.feed(self.source)
        assert not self._open, f"not closed: {[element.tag for element in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs}, tuple(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert [element.tag for element in self._open[-1:]] == [tag], f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, kind: str | None = None) -> list[Element]:
        return [e for e in self.elements if e.tag == tag and (kind is None or kind in e.classes)]

    @property
    def text(self) -> str:
        return " ".join(self.all("body")[0].text.split())


@pytest.fixture(scope="session")
def run(workspace: Workspace, analyzed: Analyzed, exported: Exported) -> RunFolder:
    """Exported, timed, and with its page."""
    prune_tool.bench(analyzed.run, Conditions(batch_sizes=(1, 2), seconds=0.1, threads=(1,)))
    report = write_report(analyzed.run, workspace=workspace)
    assert report.missing == ()
    return analyzed.run


@pytest.fixture(scope="session")
def results(run: RunFolder) -> Results:
    return read_results(run)


@pytest.fixture(scope="session")
def page(run: RunFolder) -> Page:
    return Page(run.report.read_text(encoding="utf-8"))


@pytest.fixture
def copied(run: RunFolder, tmp_path: Path) -> RunFolder:
    """The same run, to be damaged."""
    shutil.copytree(run.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def rendered(results: Results) -> Page:
    return Page(render(results))
