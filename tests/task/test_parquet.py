from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prune_tool.errors import BadImageError, DataError
from prune_tool.task import parquet as reader
from prune_tool.task.images import open_images
from prune_tool.task.scan import find_bad
from tests.kinds import features, noise, parquet_table, samples

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path: Path, **columns: object) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


IMAGES = [noise(i) for i in range(4)]


@pytest.mark.parametrize("name", ["image", "img", "whatever"])
@pytest.mark.parametrize("labels", [["b", "a", "b", "a"], [1, 0, 1, 0], ["9", "10", "9", "10"]])
def test_bytes_and_labels_without_any_metadata(tmp_path: Path, name: str, labels: list[object]) -> None:
    source = open_images(write(tmp_path / "x.parquet", **{name: IMAGES, "label": labels}))
    assert source.classes == {1: ("0", "1"), "b": ("a", "b"), "9": ("9", "10")}[labels[0]]
    assert [source.classes[label] for label in source.labels] == [str(label) for label in labels]
    assert source.content_hashes()[2] == reader.ParquetImages.content_hash(source, 2)
    assert (source.name, set(source.given_splits)) == ("x", {None})


def test_names_come_from_the_features_and_those_without_images_are_left_out(tmp_path: Path) -> None:
    names = ("ant", "cat", "dog", "emu")
    table = parquet_table(samples(2, ("train",)), names)
    pq.write_table(table, tmp_path / "x.parquet")
    assert open_images(str(tmp_path / "x.parquet")).classes == ("cat", "dog")


def test_a_number_without_a_name_is_refused(tmp_path: Path) -> None:
    table = parquet_table(samples(2, ("train",))).replace_schema_metadata({b"huggingface": features(["cat"])})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="labels from 0 to 1 for 1 classes"):
        open_images(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize("layout", ["train-00000-of-00002", "train/0000", "data/train-0"])
def test_shards_say_their_split_by_name_or_folder(tmp_path: Path, layout: str) -> None:
    for split in ("train", "test"):
        for part in (0, 1):
            path = tmp_path / f"{layout.replace('train', split)}{part}.parquet"
            path.parent.mkdir(exist_ok=True)
            pq.write_table(parquet_table(samples(2, (f"{split}{part}",))), path)
    source = open_images(str(tmp_path))
    assert (source.given_splits.count("train"), source.given_splits.count("test")) == (8, 8)
    assert source.labels.tolist() == [0, 0, 1, 1] * 4


def test_only_the_row_groups_in_use_lie_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n, loads = 60, []
    images = [np.random.default_rng(i).bytes(1000) for i in range(n)]
    table = pa.table({"image": images, "label": ["a", "b"] * (n // 2)})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=10)
    monkeypatch.setattr(reader, "GROUPS_IN_MEMORY", 25_000)
    source = open_images(str(tmp_path / "x.parquet"))
    assert isinstance(source, reader.ParquetImages)
    load = reader.ParquetImages._load

    def counted(self: reader.ParquetImages, key: tuple[int, int]) -> object:
        loads.append(key)
        return load(self, key)

    monkeypatch.setattr(reader.ParquetImages, "_load", counted)
    assert [source.encoded(i) for i in range(n)] == images
    assert loads == [(0, group) for group in range(6)]
    assert sum(group.nbytes for group in source._groups._kept.values()) <= 25_000
    assert source.encoded(55) == images[55]  # still there
    assert source.encoded(0) == images[0]  # read again
    assert len(loads) == 7


def test_a_row_group_too_large_to_hold_is_refused_and_writing_it_again_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_GROUP", 100_000)
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path / "x.parquet", image=[np.random.default_rng(i).bytes(1000) for i in range(150)], label=["a", "b"] * 75
    )
    with pytest.raises(DataError, match=r"row group of .* GiB") as caught:
        open_images("x.parquet")
    monkeypatch.setattr(reader, "MAX_GROUP", 120_000)  # a hundred rows of it
    eval(caught.value.remedy.partition(": ")[2], {"pq": pq})
    assert len(open_images("again.parquet")) == 150


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"image": IMAGES}, "no labels among them"),
        ({"left": IMAGES, "right": IMAGES, "label": [0, 1, 0, 1]}, "none called path"),
        ({"image": IMAGES, "label": [0.5, 1.0, 0.0, 1.0]}, "a label is 0.5"),
        ({"image": IMAGES, "label": [0, 0, 0, 0]}, "only one class"),
        ({"image": IMAGES, "label": [0, 1, None, 1]}, "1 of 4 images have no label"),
        ({"image": IMAGES, "label": [0, 1, -1, 1]}, "1 of 4 images have no label"),
        ({"number": [1, 2], "label": [0, 1]}, "the columns number, label, none called path"),
    ],
)
def test_columns_that_do_not_serve_are_told(tmp_path: Path, columns: dict[str, object], found: str) -> None:
    with pytest.raises(DataError, match=found):
        open_images(write(tmp_path / "x.parquet", **columns))


def test_a_row_without_bytes_is_one_bad_image(tmp_path: Path) -> None:
    struct = pa.array([{"bytes": IMAGES[0], "path": "a"}, {"bytes": None, "path": "/etc/passwd"}, None])
    source = open_images(write(tmp_path / "x.parquet", image=struct, label=["a", "b", "b"]))
    source.read(0)
    for row in (1, 2):
        with pytest.raises(BadImageError, match=f"row {row} of row group 0: its row holds no bytes"):
            source.read(row)
    assert len(set(source.content_hashes())) == 3


def test_damage_is_named_and_nothing_else_is_raised(tmp_path: Path) -> None:
    pq.write_table(parquet_table(samples(4, ("train",))), tmp_path / "x.parquet", row_group_size=4)
    whole = (tmp_path / "x.parquet").read_bytes()
    for content in (b"", b"<html>", b"PAR1", whole[:200], whole[:-8], whole[:-2000] + whole[-1990:]):
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.parquet"):
            open_images(str(tmp_path / "x.parquet"))
    rng = np.random.default_rng(0)
    for at in rng.integers(4, len(whole) - 4, 150):
        (tmp_path / "x.parquet").write_bytes(whole[:at] + bytes([whole[at] ^ 0x15]) + whole[at + 1 :])
        try:
            source = open_images(str(tmp_path / "x.parquet"))
        except DataError:
            continue
        find_bad(source, range(len(source)), 1)  # raises whatever is no BadImageError


def test_shards_that_differ_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", image=IMAGES, label=["a", "b"] * 2)
    write(tmp_path / "b.parquet", image=IMAGES, target=["a", "b"] * 2)
    with pytest.raises(DataError, match=r"b\.parquet has the columns image, target, unlike"):
        open_images(str(tmp_path))
