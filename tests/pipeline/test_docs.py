"""What ``docs/data.md`` and ``docs/python.md`` show works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "data.md").read_text(encoding="utf-8")
PYTHON = (DOCS / "python.md").read_text(encoding="utf-8")


def test_the_example_of_a_module_runs(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "images").symlink_to(images)
    names: dict[str, object] = {}
    import torch

    torch.manual_seed(0)
    exec(code, names)
    assert names["exported"].certificate.state  # type: ignore[attr-defined]
    assert (tmp_path / "runs").is_dir()


def test_every_extra_it_names_exists() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"`\[(\w+)\]`", TEXT):
        assert f"\n{extra} = [" in project


def test_the_examples_in_python_run(
    images: Path, convnet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PYTHON, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "images").symlink_to(images)
    (tmp_path / "path" / "to" / "backbone").symlink_to(convnet.removeprefix("local-dir:"))
    names: dict[str, object] = {}
    for code in blocks:
        exec(code, names)
    assert {path.name for path in tmp_path.glob("*.*")} == {
        "small.onnx",
        "small.certificate.json",
        "fits.onnx",
        "fits.certificate.json",
    }
    assert names["fitting"].built.n_bytes <= 4e6  # type: ignore[attr-defined]
    printed = capsys.readouterr().out
    assert "certified" in printed
    assert "/0.1 certified" in printed
