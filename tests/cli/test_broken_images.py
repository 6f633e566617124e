"""A corpus of broken images through the command line: named, and left out only where that was asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import QUICK
from tests.kinds import broken
from tests.support import CLASSES, ask


@pytest.fixture
def data(images: Path, tmp_path: Path) -> Path:
    """The shared images with the corpus among those of the first class, and a good one by a wrong name."""
    shutil.copytree(images, tmp_path / "data")
    for i, content in enumerate(broken().values()):
        (tmp_path / "data" / CLASSES[0] / f"broken-{i:02}.{('jpg', 'png')[i % 2]}").write_bytes(content)
    good = tmp_path / "data" / CLASSES[1] / "000.png"
    good.rename(good.with_suffix(".jpg"))  # a PNG all the same: what it is says its content
    return tmp_path / "data"


def test_each_is_an_error_until_it_is_gone_or_skipped(data: Path, convnet: str, tmp_path: Path) -> None:
    corpus = sorted((data / CLASSES[0]).glob("broken-*"))
    for path in corpus:
        path.rename(path.with_suffix(".aside"))
    for path in corpus:  # one at a time, so that each has to be named
        path.with_suffix(".aside").rename(path)
        answer = ask("analyze", convnet, data, *QUICK, "--runs", tmp_path / "runs", "-q")
        assert answer.status == 2
        assert f"{path}: " in answer.err
        assert f"(1 of {3 * 70 + 1} images cannot be read)" in answer.err
        assert "--skip-bad" in answer.err
        path.rename(path.with_suffix(".aside"))
    assert len(corpus) == len(broken())


def test_skipped_ones_are_counted_in_the_run_and_in_the_table(data: Path, convnet: str, tmp_path: Path) -> None:
    n = len(broken())
    refused = ask("analyze", convnet, data, *QUICK, "--runs", tmp_path / "runs", "-q")
    assert f"({n} of {3 * 70 + n} images cannot be read)" in refused.err
    answer = ask("analyze", convnet, data, *QUICK, "--skip-bad", "--runs", tmp_path / "runs", "--name", "x", "-q")
    assert answer.status == 0, answer.err
    assert f"{n} that cannot be decoded left out" in " ".join(answer.out.split())
    record = json.loads((tmp_path / "runs" / "x" / "run.json").read_text())
    assert record["n_bad_images"] == n
    assert record["n_train"] + record["n_val"] + record["n_test"] == 210
