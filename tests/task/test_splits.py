import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prune_tool.defaults import SPLIT_SHARES, VAL_SHARE_OF_TRAIN
from prune_tool.errors import DataError
from prune_tool.records import SPLITS
from prune_tool.task.splits import MIN_IMAGES, split_images


def sets(splits):
    return {name: set(getattr(splits, name).tolist()) for name in SPLITS}


def assert_sound(source, splits, skip=()):
    """Ascending, disjoint, nothing lost but what is counted, no content in two splits, every class in each."""
    parts = sets(splits)
    for name in SPLITS:
        indices = getattr(splits, name)
        assert indices.dtype == np.int64
        assert (np.diff(indices) > 0).all()
        counts = np.bincount(source.labels[indices], minlength=len(source.classes))
        assert (counts >= MIN_IMAGES).all()
    used = set().union(*parts.values())
    assert sum(map(len, parts.values())) == len(used)
    assert not used & set(skip)
    assert len(used) + splits.n_duplicates_dropped == len(source) - len(set(skip))
    hashes = source.content_hashes()
    contents = [{hashes[i] for i in part} for part in parts.values()]
    assert sum(map(len, contents)) == len(set().union(*contents))


@st.composite
def images(draw):
    """Two or three classes of distinct images, then copies of some of them, some with another label, shuffled."""
    labels = [label for label in range(draw(st.integers(2, 3))) for _ in range(draw(st.integers(6, 30)))]
    contents = list(range(len(labels)))
    for original in draw(st.lists(st.sampled_from(contents), max_size=15)):
        contents.append(original)
        labels.append(labels[original])
    order = draw(st.permutations(range(len(labels))))
    return [labels[i] for i in order], [contents[i] for i in order]


@given(images(), st.integers(0, 5))
def test_made_splits_are_sound_and_stratified_and_repeat(make_source, made, seed):
    labels, contents = made
    source = make_source(labels, contents)
    splits = split_images(source, seed)
    assert_sound(source, splits)
    assert splits.n_duplicates_dropped == 0
    for label in range(len(source.classes)):
        n_all = len({c for c, own in zip(contents, labels, strict=True) if own == label})
        for name in ("val", "test"):
            n = len({contents[i] for i in getattr(splits, name) if labels[i] == label})
            assert n == max(MIN_IMAGES, int(SPLIT_SHARES[name] * n_all + 0.5))
    assert sets(split_images(source, seed)) == sets(splits)


@given(images(), st.data())
def test_given_splits_are_kept_but_for_copies_of_what_is_held_out(make_source, made, data):
    labels, contents = made
    names = data.draw(st.sampled_from([("train", "test"), ("train", "val"), SPLITS]))
    given_splits = [names[i % len(names)] for i in range(len(labels))]
    source = make_source(labels, contents, given_splits)
    try:
        splits = split_images(source, 0)
    except DataError:
        assume(False)
    assert_sound(source, splits)
    test_from = "test" if "test" in names else "val"
    assert sets(splits)["test"] == {i for i, split in enumerate(given_splits) if split == test_from}
    for i in splits.train:
        assert given_splits[i] == "train"
    for i in splits.val:
        assert given_splits[i] == ("val" if len(names) == 3 else "train")


def test_the_held_out_share_of_a_given_train(make_source):
    source = make_source([0, 1] * 60, given=["train"] * 100 + ["test"] * 20)
    splits = split_images(source, 0)
    assert len(splits.val) == VAL_SHARE_OF_TRAIN * 100
    assert np.bincount(source.labels[splits.val]).tolist() == [10, 10]
    assert "20 % of train" in splits.origin


def test_copies_in_given_splits_leave_the_earlier_set_and_are_counted(make_source):
    given_splits = ["train"] * 10 + ["val"] * 6 + ["test"] * 6
    contents = list(range(22))
    contents[0] = contents[10]  # train has a copy of a val image
    contents[1] = contents[16]  # train has a copy of a test image
    contents[12] = contents[18]  # val has a copy of a test image
    splits = split_images(make_source([0, 1] * 11, contents, given_splits), 0)
    assert sets(splits) == {
        "train": set(range(2, 10)),
        "val": set(range(10, 16)) - {12},
        "test": set(range(16, 22)),
    }
    assert splits.n_duplicates_dropped == 3


def test_a_given_val_without_test_is_held_out_and_says_so(make_source):
    splits = split_images(make_source([0, 1] * 20, given=["train"] * 30 + ["val"] * 10), 0)
    assert sets(splits)["test"] == set(range(30, 40))
    assert "val held out as test" in splits.origin


def test_a_lone_train_is_no_split(make_source):
    source = make_source([0, 1] * 20, given=["train"] * 40)
    assert sets(split_images(source, 3)) == sets(split_images(make_source([0, 1] * 20), 3))


@given(images(), st.integers(0, 5))
def test_folds_divide_the_training_images_as_val_was_taken_from_them(make_source, made, seed):
    """Every training image is in one fold, copies in the same, and no fold is larger than another by more than one."""
    source = make_source(*made)
    splits = split_images(source, seed)
    assert sorted(np.concatenate(splits.folds).tolist()) == splits.train.tolist()
    assert len(splits.folds) == round(len(splits.train) / len(splits.val))
    contents = np.array(source.content_hashes())
    distinct = [set(contents[fold]) for fold in splits.folds]
    assert sum(map(len, distinct)) == len(set(contents[splits.train]))
    sizes = [len(fold) for fold in distinct]
    assert max(sizes) - min(sizes) <= 1
    again = split_images(source, seed)
    assert [fold.tolist() for fold in again.folds] == [fold.tolist() for fold in splits.folds]


def test_folds_are_stratified(make_source):
    labels = [0] * 200 + [1] * 40
    splits = split_images(make_source(labels), 0)
    counts = [np.bincount(np.array(labels)[fold]).tolist() for fold in splits.folds]
    assert counts == [[30, 6]] * 4


def test_enough_images_choose_without_folds(make_source, monkeypatch):
    """There are as many folds as make up what is enough, and none where the data says which images judge."""
    source = make_source([0, 1] * 200)  # 60 for val, four folds of 60
    for enough, n_folds in ((60, 0), (61, 1), (180, 2), (181, 3), (10_000, 4)):
        monkeypatch.setattr("prune_tool.task.splits.ENOUGH_VAL", enough)
        assert len(split_images(source, 0).folds) == n_folds
    given_test = make_source([0, 1] * 50, given=["train"] * 80 + ["test"] * 20)
    assert len(split_images(given_test, 0).folds) == 4
    given_val = make_source([0, 1] * 50, given=["train"] * 60 + ["val"] * 20 + ["test"] * 20)
    assert split_images(given_val, 0).folds == ()


def test_skipped_images_are_in_no_split(make_source):
    source = make_source([0, 1] * 20)
    skip = {0, 5, 39}
    assert_sound(source, split_images(source, 0, skip), skip)


def test_seeds_matter_and_so_does_nothing_else(make_source):
    source = make_source([0, 1] * 40)
    assert sets(split_images(source, 0)) != sets(split_images(source, 1))
    script = (
        "import numpy as np\n"
        "from prune_tool.task.arrays import ArrayImages\n"
        "from prune_tool.task.splits import split_images\n"
        "pixels = tuple(np.array([[[i, 0, 0]]], np.uint8) for i in range(80))\n"
        "source = ArrayImages(name='made', classes=('a', 'b'), labels=np.array([0, 1] * 40), given_splits=(None,) * 80,"
        " pixels=pixels, places=(('x', 0),) * 80)\n"
        "print(split_images(source, 0).test.tolist())\n"
    )
    for hash_seed in ("1", "2", "3"):
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env={"PYTHONHASHSEED": hash_seed}, capture_output=True, check=True, text=True)
        assert done.stdout.strip() == str(split_images(source, 0).test.tolist())


def test_too_few_images_say_how_many_are_needed_and_that_many_work(make_source):
    with pytest.raises(DataError, match=r"class b has 5 distinct images\. Give it at least 6"):
        split_images(make_source([0] * 20 + [1] * 5), 0)
    with pytest.raises(DataError, match="class b has 5 distinct"):
        split_images(make_source([0] * 20 + [1] * 9, [*range(25), 20, 20, 20, 20]), 0)
    split_images(make_source([0] * 20 + [1] * 6), 0)
    split_images(make_source([0] * 20 + [1] * 106, [*range(26), *[20] * 100]), 0)


def test_too_few_images_in_a_given_split_say_which(make_source):
    given_splits = ["train"] * 20 + ["test"] * 4
    labels = [0, 1] * 10 + [0, 0, 0, 1]
    with pytest.raises(DataError, match=r"class b has 1 usable images in test\. Give it at least 2"):
        split_images(make_source(labels, given=given_splits), 0)
    split_images(make_source([*labels, 1], given=[*given_splits, "test"]), 0)


@pytest.mark.parametrize("given_splits", [["train", None] * 20, ["val", "test"] * 20, ["test"] * 40])
def test_half_given_splits_are_refused(make_source, given_splits):
    with pytest.raises(DataError, match="train among"):
        split_images(make_source([0, 0, 1, 1] * 10, given=given_splits), 0)
