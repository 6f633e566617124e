from __future__ import annotations

from pathlib import Path

import pytest

from prune_tool.errors import BadImageError, DataError
from prune_tool.task.images import open_images
from tests.kinds import noise


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with four images and, beside it, one that is none of its business."""
    (tmp_path / "data" / "files").mkdir(parents=True)
    for i in range(4):
        (tmp_path / "data" / "files" / f"{i}.png").write_bytes(noise(i))
    (tmp_path / "secret.png").write_bytes(noise(9))
    return tmp_path / "data"


ROWS = "files/0.png,10\nfiles/1.png,9\nfiles/2.png,10\nfiles/3.png,9\n"


def table(root: Path, text: str, name: str = "labels.csv") -> str:
    (root / name).write_text(text, encoding="utf-8")
    return str(root / name)


@pytest.mark.parametrize(
    ("head", "path", "label"), [("path", 0, 1), ("Filename", 0, 1), ("image", 0, 1), (" FILE_NAME ", 0, 1)]
)
@pytest.mark.parametrize("of_label", ["label", "Class", "target"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_are_found_by_name(root: Path, head: str, path: int, label: int, of_label: str, delimiter: str) -> None:
    text = f"id,{of_label},{head}\n" + "".join(f"{i},{9 + i % 2},files/{i}.png\n" for i in range(4))
    source = open_images(table(root, "\ufeff" + text.replace(",", delimiter)))
    assert source.classes == ("9", "10")  # numbers, in the order of numbers
    assert source.labels.tolist() == [0, 1, 0, 1]
    assert set(source.given_splits) == {None}
    assert source.describe(2) == str(root / "files" / "2.png")


def test_a_quoted_name_may_hold_a_comma(root: Path) -> None:
    (root / "files" / "a, b.png").write_bytes(noise(5))
    source = open_images(table(root, 'path,label\n"files/a, b.png",x\nfiles/1.png,"y, or z"\n'))
    assert source.classes == ("x", "y, or z")
    source.read(0)


def test_a_column_says_the_splits_and_so_do_the_names_of_several_tables(root: Path) -> None:
    text = "path,label,split\nfiles/0.png,a,train\nfiles/1.png,b,Test\nfiles/2.png,a,valid\nfiles/3.png,b,train\n"
    assert open_images(table(root, text)).given_splits == ("train", "test", "val", "train")
    (root / "labels.csv").unlink()
    table(root, "path,label\nfiles/0.png,a\nfiles/1.png,b\n", "train.csv")
    table(root, "path,label\nfiles/2.png,a\nfiles/3.png,b\n", "test_labels.csv")
    source = open_images(str(root))
    assert sorted(zip(source.given_splits, source.labels.tolist(), strict=True)) == [
        ("test", 0), ("test", 1), ("train", 0), ("train", 1),
    ]  # fmt: skip


def test_a_split_without_labels_is_left_out_and_a_line_without_one_is_an_error(root: Path) -> None:
    text = "path,label,split\nfiles/0.png,a,train\nfiles/1.png,b,train\nfiles/2.png,,test\nfiles/3.png,,test\n"
    assert len(open_images(table(root, text))) == 2
    with pytest.raises(DataError, match=r"1 of 2 test have no label, first 3\.png"):
        open_images(table(root, text.replace("2.png,,", "2.png,a,")))
    with pytest.raises(DataError, match="1 of 2 train have no label"):
        open_images(table(root, text.replace("0.png,a,", "0.png,,")))


@pytest.mark.parametrize("path", ["../secret.png", "files/../../secret.png", "..\\secret.png", "./../secret.png", ".."])
def test_a_relative_path_does_not_lead_out_and_an_absolute_one_means_what_it_says(root: Path, path: str) -> None:
    with pytest.raises(DataError, match="leads out of the table's folder") as caught:
        open_images(table(root, f"path,label\nfiles/0.png,a\n{path},b\n"))
    assert path.replace("\\", "\\\\") in caught.value.found
    assert "absolute" in caught.value.remedy
    outside = (root.parent / "secret.png").resolve()
    open_images(table(root, f"path,label\nfiles/0.png,a\n{outside},b\n")).read(1)


def test_links_are_followed_to_files_as_in_class_folders(root: Path) -> None:
    (root / "linked.png").symlink_to(root.parent / "secret.png")
    (root / "files" / "loop").symlink_to(root / "files")
    source = open_images(table(root, "path,label\nlinked.png,a\nfiles/loop/loop/1.png,b\n"))
    assert source.read(0).size == source.read(1).size


def test_a_missing_file_is_a_bad_image_and_all_of_them_missing_is_a_wrong_table(root: Path) -> None:
    source = open_images(table(root, "path,label\nfiles/0.png,a\nfiles/gone.png,b\n"))
    with pytest.raises(BadImageError, match=r"gone\.png: No such file"):
        source.read(1)
    with pytest.raises(DataError, match=r"none of its 2 files is there; the first would be .*data/0\.png"):
        open_images(table(root, "path,label\n0.png,a\n1.png,b\n"))


GOOD = "path,label\n" + ROWS


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no line below"),
        ("path,label\n", "no line below"),
        ("name,label\n" + ROWS, "the columns name, label, none called path or file"),
        ("path,what\n" + ROWS, "none called label or class"),
        ("path\nfiles/0.png\n", "none called label"),
        ("path,label\nfiles/0.png\n", "row 2 has 1 fields where 2 are named"),
        ("path,label\nfiles/0.png,a\nfiles/1.png,a\n", "only one class, a"),
        ("path,label\n,a\nfiles/1.png,b\n", "a line without a path"),
        ("path,label,split\nfiles/0.png,a,holdout\nfiles/1.png,b,train\n", "a split called holdout"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_and_the_remedys_own_table_works(root: Path, text: str, found: str) -> None:
    with pytest.raises(DataError, match=found):
        open_images(table(root, text))
    assert len(open_images(table(root, GOOD))) == 4


def test_bytes_that_are_no_text_are_refused(root: Path) -> None:
    for content in (b"\xff\xfe\x00", b"\x80\x04cos\nsystem\n", b"path,label\n\x00,\xc3\x28\n"):
        (root / "labels.csv").write_bytes(content)
        with pytest.raises(DataError, match=r"labels\.csv"):
            open_images(str(root / "labels.csv"))


def test_class_folders_come_before_a_table_and_where_neither_works_both_reasons_are_told(root: Path) -> None:
    table(root, "what,ever\n1,2\n")
    with pytest.raises(
        DataError, match="as class folders, only one class, files; as what else lies in it, the columns what, ever"
    ):
        open_images(str(root))
    (root / "more").mkdir()
    (root / "more" / "0.png").write_bytes(noise(7))
    assert open_images(str(root)).classes == ("files", "more")
