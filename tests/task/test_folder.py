import numpy as np
import pytest
from PIL import Image

from prune_tool.errors import BadImageError, DataError
from prune_tool.task.folder import open_folder


def test_class_folders(save_folders):
    source = open_folder(save_folders({"dogs": 2, "cats": 3}))
    assert source.classes == ("cats", "dogs")
    assert source.labels.tolist() == [0, 0, 0, 1, 1]
    assert set(source.given_splits) == {None}
    assert source.name == "data"
    for i in range(len(source)):
        assert source.classes[source.labels[i]] in source.describe(i)
        np.testing.assert_array_equal(np.asarray(source.read(i)), np.asarray(Image.open(source.paths[i])))


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_split_folders(save_folders, val):
    root = save_folders({f"{split}/{name}": 2 for split in ("train", val, "test") for name in ("a", "b")})
    source = open_folder(root)
    assert source.classes == ("a", "b")
    for i in range(len(source)):
        folder = source.paths[i].relative_to(root).parts[0]
        assert source.given_splits[i] == ("val" if folder == val else folder)
    assert sorted(map(str, source.given_splits)) == ["test"] * 4 + ["train"] * 4 + ["val"] * 4


def test_classes_may_be_called_like_splits(save_folders):
    assert open_folder(save_folders({"train": 2, "bus": 2})).classes == ("bus", "train")


def test_only_visible_images_count_at_any_depth(save_folders, save_image):
    root = save_folders({"a": 1, "b": 1})
    save_image(root / "a" / "deep" / "er" / "1.JPG", seed=9)
    for name in (".hidden/1.png", "a/.1.png", "a/.thumbs/1.png", "__MACOSX/a/1.png"):
        save_image(root / name)
    (root / "a" / "notes.txt").write_text("not an image")
    (root / "labels.csv").write_text("not a class")
    source = open_folder(root)
    assert source.classes == ("a", "b")
    assert [path.name for path in source.paths] == ["0.png", "1.JPG", "0.png"]


def test_links_that_loop_are_harmless_and_links_to_files_and_classes_work(save_folders, tmp_path, save_image):
    root = save_folders({"a": 2, "b": 2})
    (root / "a" / "again").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)
    (root / "all").symlink_to(root)
    (root / "a" / "linked.png").symlink_to(save_image(tmp_path / "far" / "1.png", seed=77))
    (root / "c").symlink_to(tmp_path / "far")
    source = open_folder(root)
    assert source.classes == ("a", "b", "c")
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("counts", "found", "mended"),
    [
        ({}, "no class folders", {"cats": 1, "dogs": 1}),
        ({"cats": 3}, "only one class, cats", {"dogs": 1}),
        ({"cats": 3, "dogs": 0}, "no images in dogs", {"dogs": 1}),
        ({"train/a": 1, "train/b": 1, "test/a": 1}, "test has no folder for b", {"test/b": 1}),
        ({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 0}, "no images in test/b", {"test/b": 1}),
        ({"val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1}, "no train", {"train/a": 1, "train/b": 1}),
    ],
)
def test_what_cannot_be_used_says_why_and_doing_what_it_says_helps(save_folders, counts, found, mended):
    root = save_folders(counts | {".hidden": 0})
    with pytest.raises(DataError, match=found):
        open_folder(root)
    assert len(open_folder(save_folders(mended)).classes) == 2


def test_a_class_folder_beside_split_folders_is_not_passed_over_in_silence(save_folders):
    with pytest.raises(DataError, match="cats with images"):
        open_folder(save_folders({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1, "cats": 1}))


def test_the_fingerprint_changes_with_contents_and_labels_and_with_nothing_else(save_folders, save_image):
    root = save_folders({"a": 2, "b": 2})
    before = open_folder(root).fingerprint()
    moved = root.rename(root.with_name("elsewhere"))
    (moved / "a" / "notes.txt").write_text("x")
    assert open_folder(moved).fingerprint() == before
    save_image(moved / "a" / "0.png", seed=99)
    changed = open_folder(moved).fingerprint()
    assert changed != before
    (moved / "a" / "1.png").rename(moved / "b" / "2.png")
    assert open_folder(moved).fingerprint() not in {before, changed}


def test_copies_have_the_same_hash(save_folders):
    root = save_folders({"a": 2, "b": 1})
    (root / "b" / "copy.png").write_bytes((root / "a" / "0.png").read_bytes())
    first, second, third, copy = open_folder(root).content_hashes()
    assert copy == first
    assert len({first, second, third}) == 3


def test_a_file_that_cannot_be_read_is_a_bad_image_and_no_obstacle_to_the_rest(save_folders):
    root = save_folders({"a": 1, "b": 1})
    (root / "a" / "gone.png").symlink_to(root / "nowhere.png")
    source = open_folder(root)
    assert len(set(source.content_hashes())) == 3
    with pytest.raises(BadImageError, match=r"gone\.png: No such file"):
        source.read(1)
