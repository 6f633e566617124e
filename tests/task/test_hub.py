"""``hfds/``: the library's own formats, its cache, and what it says when something is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prune_tool.errors import BadImageError, DataError
from prune_tool.store.fingerprint import bytes_fingerprint
from prune_tool.task.images import open_images
from prune_tool.task.scan import find_bad
from tests.kinds import noise, samples, write_folders, write_parquet

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_hub(tmp_path: Path) -> Iterator[None]:
    """No network, and ``datasets`` keeps its copies where nothing else is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


IMAGES = [{"bytes": noise(i), "path": None} for i in range(4)]


def save(path: Path, features: dict[str, object], **columns: object) -> str:
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).save_to_disk(path)
    return f"hfds/{path}"


@pytest.mark.parametrize(
    ("image", "label", "kind", "values", "classes"),
    [
        ("image", "label", datasets.ClassLabel(names=["cat", "dog"]), [1, 0, 1, 0], ("cat", "dog")),
        ("photo", "species", datasets.ClassLabel(names=["ant", "cat", "dog"]), [2, 1, 2, 1], ("cat", "dog")),
        ("img", "label", datasets.Value("string"), ["b", "a", "b", "a"], ("a", "b")),
        ("whatever", "target", datasets.Value("int64"), [10, 9, 10, 9], ("9", "10")),
    ],
)
def test_columns_are_found_by_their_type(
    tmp_path: Path, image: str, label: str, kind: object, values: list[object], classes: tuple[str, ...]
) -> None:
    features = {"id": datasets.Value("int64"), image: datasets.Image(), label: kind}
    source = open_images(save(tmp_path / "set", features, **{"id": [1, 2, 3, 4], image: IMAGES, label: values}))
    assert source.classes == classes
    assert source.labels.tolist() == [1, 0, 1, 0]
    assert source.name == "set"
    source.read(3)


@pytest.mark.parametrize("column", ["bytes", "struct"])
def test_encoded_bytes_serve_without_the_type(tmp_path: Path, column: str) -> None:
    """As in parquet files that were not written by the library."""
    binary = datasets.Value("binary")
    kind = binary if column == "bytes" else {"bytes": binary, "path": datasets.Value("string")}
    images = [image["bytes"] for image in IMAGES] if column == "bytes" else IMAGES
    features = {"image": kind, "label": datasets.Value("string")}
    source = open_images(save(tmp_path / "set", features, image=images, label=["b", "a"] * 2))
    assert source.content_hashes() == tuple(bytes_fingerprint(image["bytes"]) for image in IMAGES)


def test_of_several_class_labels_the_best_known_name_or_the_first_is_taken(tmp_path: Path) -> None:
    kinds = {"coarse_label": datasets.ClassLabel(names=["x", "y"]), "fine_label": datasets.ClassLabel(names=["a", "b"])}
    features = {"img": datasets.Image(), **kinds}
    columns = {"img": IMAGES, "coarse_label": [0, 0, 1, 1], "fine_label": [0, 1, 0, 1]}
    assert open_images(save(tmp_path / "set", features, **columns)).classes == ("a", "b")


def test_splits_of_other_names_stand_back_and_one_without_labels_is_left_out(tmp_path: Path) -> None:
    kind = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    parts = {
        split: datasets.Dataset.from_dict({"image": IMAGES, "label": labels}, features=kind)
        for split, labels in (
            ("train", [0, 1, 0, 1]),
            ("test", [-1] * 4),
            ("extra", [0] * 4),
            ("validation", [1, 0] * 2),
        )
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    assert open_images(str(tmp_path / "set")).given_splits == ("train",) * 4 + ("val",) * 4


def test_the_only_part_is_no_test_set(tmp_path: Path) -> None:
    kind = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    part = datasets.Dataset.from_dict({"image": IMAGES, "label": [0, 1, 0, 1]}, features=kind)
    datasets.DatasetDict({"test": part}).save_to_disk(tmp_path / "set")
    assert open_images(str(tmp_path / "set")).given_splits == (None,) * 4


@pytest.mark.parametrize(
    ("features", "columns", "found"),
    [
        ({"label": datasets.Value("int64")}, {"label": [0, 1]}, "no Image column"),
        ({"image": datasets.Image()}, {"image": IMAGES}, "no column of labels"),
        (
            {"left": datasets.Image(), "right": datasets.Image(), "label": datasets.Value("int64")},
            {"left": IMAGES, "right": IMAGES, "label": [0, 1, 0, 1]},
            "left, right, label, and no Image column",
        ),
        (
            {"image": datasets.Image(), "label": datasets.List(datasets.Value("int64"))},
            {"image": IMAGES, "label": [[0], [1], [0], [0, 1]]},
            "label: ",
        ),
        (
            {"image": datasets.Image(), "label": datasets.Value("float32")},
            {"image": IMAGES, "label": [0.5, 1.0, 0.0, 1.0]},
            "label: ",
        ),
    ],
)
def test_columns_that_do_not_serve_are_told(
    tmp_path: Path, features: dict[str, object], columns: dict[str, object], found: str
) -> None:
    with pytest.raises(DataError, match=found):
        open_images(save(tmp_path / "set", features, **columns))


def test_a_row_may_name_a_file_and_one_with_neither_is_a_bad_image(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    source = open_images(f"hfds/{write_folders(folder, samples(2))}")
    victim = next(folder.rglob("*.png"))
    victim.unlink()
    bad = find_bad(source, range(len(source)), 2)
    assert list(bad.values()) == ["No such file or directory"]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    source = open_images(save(tmp_path / "set", features, image=[*IMAGES[:3], None], label=[0, 1, 0, 1]))
    source.read(0)
    with pytest.raises(BadImageError, match=r"set: rows\[3\]: its row holds neither bytes nor a path"):
        source.read(3)


def test_the_offline_cache_serves_by_name_and_an_unknown_name_says_what_to_do(tmp_path: Path) -> None:
    """A data set that the library prepared before, under the name of the hub, without any network."""
    folder = write_parquet(tmp_path / "flowers", samples(2))
    cache = tmp_path / "cache"
    datasets.load_dataset(folder, cache_dir=str(cache))
    [prepared] = [path for path in cache.iterdir() if path.is_dir()]
    config = next(path for path in prepared.iterdir() if path.is_dir())
    kept = cache / "somebody___flowers" / "default"
    shutil.copytree(config, kept)
    shutil.rmtree(folder)
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(cache),
        "HF_HOME": str(tmp_path / "hf"),
    }
    program = (
        "import sys; from prune_tool.task.images import open_images; s = open_images(sys.argv[1]);"
        " print(s.name, s.classes, len(s), s.read(3).size, sorted(set(s.given_splits)))"
    )

    def ask(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, name]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    done = ask("hfds/somebody/flowers")
    assert done.stdout == "somebody/flowers ('cat', 'dog') 12 (7, 9) ['test', 'train', 'val']\n", done.stderr
    unknown = ask("hfds/somebody/flours")
    assert "datasets could not load it" in unknown.stderr
    assert "hfds/FOLDER" in unknown.stderr


def test_a_folder_with_code_in_it_runs_none(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "set.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'canary')!r}).touch()")
    with pytest.raises(DataError, match="could not load"):
        open_images(f"hfds/{folder}")
    assert not (tmp_path / "canary").exists()
