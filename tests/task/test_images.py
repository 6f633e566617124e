import re
import zipfile

import numpy as np
import pytest

from prune_tool.errors import DataError
from prune_tool.task.images import open_images


def test_a_folder_and_an_archive_open(save_folders, tmp_path):
    assert open_images(str(save_folders({"a": 1, "b": 1}))).classes == ("a", "b")
    np.savez(tmp_path / "data.NPZ", x=np.zeros((2, 4, 4, 3), np.uint8), y=np.array([0, 1]))
    (tmp_path / "data.NPZ.npz").rename(tmp_path / "data.NPZ")
    assert open_images(str(tmp_path / "data.NPZ")).classes == ("0", "1")


def test_an_archive_beside_the_class_folders_it_was_unpacked_to_stays_behind(save_folders, tmp_path):
    root = save_folders({"a": 1, "b": 1})
    for name in ("data.tar", "train.tar", "data.parquet", "state.json"):
        (root / name).write_bytes(b"x")
    assert open_images(str(root)).classes == ("a", "b")
    (root / "b" / "0.png").unlink()
    with pytest.raises(
        DataError, match=r"as class folders, no images in b .*; as what else lies in it, data\.tar is no"
    ):
        open_images(str(root))


def test_a_misspelt_path_is_answered_with_one_that_opens(save_folders):
    root = save_folders({"a": 1, "b": 1})
    with pytest.raises(DataError, match="no such file or folder") as caught:
        open_images(str(root.with_name("dtaa")))
    assert len(open_images(re.search(r"mean (.+)\?", caught.value.remedy)[1])) == 2


@pytest.mark.parametrize("data", ["tfds/cifar10", "hfids/cifar10", "s3://bucket/x", "https://host/x.zip"])
def test_a_scheme_without_a_reader_is_named(data):
    with pytest.raises(DataError, match=r"no reader for (tfds/|hfids/|s3:|https:)") as caught:
        open_images(data)
    assert ".npz" in caught.value.remedy


@pytest.mark.parametrize("name", ["data.zip", "data.tar.gz", "data"])
def test_a_file_of_another_kind_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="no reader for"):
        open_images(str(tmp_path / name))


def test_a_path_with_nothing_near_says_what_works(tmp_path):
    with pytest.raises(DataError, match="A folder of class folders"):
        open_images(str(tmp_path / "nothing" / "here"))


@pytest.mark.assets
def test_flowers(assets, tmp_path):
    with zipfile.ZipFile(assets / "images" / "flowers5.zip") as archive:
        archive.extractall(tmp_path)
    root = next(path.parent for path in tmp_path.rglob("train"))
    source = open_images(str(root))
    assert (len(source), len(source.classes)) == (1500, 5)
    assert source.given_splits.count("train") == 1000
    assert len(set(source.content_hashes())) == 1500
