"""What ``docs/data.md`` shows works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


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
