from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.support import CLASSES, ask


def test_a_run_and_its_file_alone_say_the_same(exported: Path, images: Path, tmp_path: Path) -> None:
    alone = shutil.copy(exported / "model.onnx", tmp_path / "alone.onnx")
    pictures = sorted((images / "rows").iterdir())[:3]
    by_run, by_file = (json.loads(ask("predict", place, *pictures, "--json", "-q").out) for place in (exported, alone))
    assert by_run["predictions"] == by_file["predictions"]
    assert [each["image"] for each in by_run["predictions"]] == list(map(str, pictures))
    assert {guess["name"] for guess in by_run["predictions"][0]["guesses"]} == set(CLASSES)


def test_the_table_names_the_image_once_and_top_classes(exported: Path, images: Path) -> None:
    answer = ask("predict", exported, images / "rows" / "001.png", "--top", "2")
    assert answer.status == 0
    assert answer.out.count("001.png") == 1
    assert sum(name in answer.out for name in CLASSES) == 2
    assert answer.err.startswith("classifying images: ")


def test_bad_images_are_one_message_after_the_others(exported: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    answer = ask("predict", exported, tmp_path / "bad.png", images / "rows" / "001.png", "-q")
    assert answer.status == 2
    assert "001.png" in answer.out
    assert answer.err.count("\n") == 1
    assert f"1 cannot be read ({tmp_path / 'bad.png'}: not an image" in answer.err
    (tmp_path / "bad.png").unlink()
    assert ask("predict", exported, tmp_path, images / "rows", "-q").status == 2, "an empty folder is named too"
    assert ask("predict", exported, images / "rows" / "001.png", "-q").status == 0
