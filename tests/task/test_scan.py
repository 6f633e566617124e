import pytest

from prune_tool.errors import BadImageError
from prune_tool.task.folder import open_folder
from prune_tool.task.scan import find_bad, require_readable
from prune_tool.task.splits import split_images


@pytest.fixture
def source(save_folders):
    root = save_folders({"a": 70, "b": 70})
    (root / "a" / "3.png").write_bytes(b"")
    (root / "b" / "5.png").write_bytes(b"<html>")
    whole = (root / "b" / "7.png").read_bytes()
    (root / "b" / "7.png").write_bytes(whole[: len(whole) // 2])
    return open_folder(root)


@pytest.mark.parametrize("n_threads", [1, 4])
def test_exactly_the_bad_images_are_found_in_order(source, n_threads):
    bad = find_bad(source, range(len(source)), n_threads)
    names = [f"{source.paths[i].parent.name}/{source.paths[i].name}" for i in bad]
    assert names == ["a/3.png", "b/5.png", "b/7.png"]
    assert list(bad) == sorted(bad)
    assert "empty" in next(iter(bad.values()))


def test_only_what_was_asked_is_looked_at(source):
    bad = find_bad(source, range(len(source)), 2)
    assert find_bad(source, [i for i in range(len(source)) if i not in bad], 2) == {}
    assert find_bad(source, [], 2) == {}


def test_the_first_bad_image_is_raised_with_the_total_and_skipping_it_works(source):
    everything = range(len(source))
    with pytest.raises(BadImageError, match=r"a/3\.png: the file is empty \(3 of 140 images") as caught:
        require_readable(source, everything, 2)
    assert "--skip-bad" in caught.value.remedy
    bad = find_bad(source, everything, 2)
    splits = split_images(source, 0, bad)
    kept = [*splits.train, *splits.val, *splits.test]
    assert len(kept) == 137
    require_readable(source, kept, 2)
