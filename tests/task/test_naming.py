from __future__ import annotations

from pathlib import Path

import pytest

from prune_tool.task.naming import LABELS, PATHS, few, pick, shards_below, splits_of_files


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00004.parquet", "train"),
        ("imagenet1k-validation-00.tar", "val"),
        ("Test.csv", "test"),
        ("flowers_valid_1.tar", "val"),
        ("train_vs_test.csv", None),
        ("training.csv", None),
        ("latest.csv", None),
        ("0000.parquet", None),
        ("val/0000.parquet", "val"),
        ("test/train.csv", "train"),
    ],
)
def test_a_split_is_a_word_in_a_files_name_or_its_folder(name: str, split: str | None) -> None:
    path, train = Path("data", name), Path("data", "train.x")
    assert splits_of_files([path, train]) == {path: split, train: "train"}


def test_without_train_names_say_nothing() -> None:
    files = [Path("test.csv"), Path("val/0.csv")]
    assert splits_of_files(files) == dict.fromkeys(files)


def test_columns_are_picked_in_the_order_of_what_is_known() -> None:
    assert pick(["Label", "image", " Path "], PATHS) == " Path "
    assert pick(["target", "CLASS"], LABELS) == "CLASS"
    assert pick(["label", "Label"], LABELS) == "label"
    assert pick(["x"], LABELS) is None


def test_shards_lie_at_the_top_in_data_or_in_splits_and_nowhere_else(tmp_path: Path) -> None:
    for name in ("a.tar", "data/b.tar", "train/c.tar", "other/d.tar", ".hidden.tar", "e.tar.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in shards_below(tmp_path, ".tar")] == ["a.tar", "b.tar", "c.tar"]


def test_a_few_names_stand_for_many() -> None:
    assert few(["a", "b"]) == "a, b"
    assert few([*"abcdefg"]) == "a, b, c, d, e and 2 more"
