import pickle

import numpy as np
import pytest

from prune_tool.errors import DataError
from prune_tool.task.arrays import open_arrays
from prune_tool.task.images import open_images

RGB = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
LABELS = np.array([1, 0, 1, 0])


@pytest.fixture
def save(tmp_path):
    def save(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return save


def test_images_and_labels_come_back_as_they_were_saved(save):
    source = open_arrays(save(x=RGB, y=LABELS, classes=np.array(["cat", "dog"])))
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [1, 0, 1, 0]
    assert set(source.given_splits) == {None}
    for i in range(4):
        np.testing.assert_array_equal(np.asarray(source.read(i)), RGB[i])
    assert source.describe(2) == "data.npz: x[2]"


def test_given_splits_may_differ_in_size_and_number(save):
    source = open_arrays(
        save(x_test=RGB[:2, :3], y_test=LABELS[:2, None], x_train=RGB, y_train=LABELS, x_val=RGB[:2], y_val=LABELS[:2])
    )
    assert source.given_splits == ("train",) * 4 + ("val",) * 2 + ("test",) * 2
    assert source.read(7).size == (6, 3)
    assert source.describe(7) == "data.npz: x_test[1]"


@pytest.mark.parametrize("x", [RGB[..., 0], RGB[..., :1]])
def test_grey_images_become_rgb(save, x):
    source = open_arrays(save(x=x, y=LABELS))
    np.testing.assert_array_equal(np.asarray(source.read(3)), np.repeat(RGB[3, :, :, :1], 3, axis=2))


def test_labels_may_be_names_or_any_numbers(save):
    assert open_arrays(save(x=RGB, y=np.array(["b", "a", "b", "a"]))).classes == ("a", "b")
    source = open_arrays(save(x=RGB, y=np.array([7, -3, 7, -3])))
    assert source.classes == ("-3", "7")
    assert source.labels.tolist() == [1, 0, 1, 0]


def test_an_array_of_objects_is_refused_and_nothing_in_it_runs(save, canary):
    bomb, trace = canary
    path = save(x=np.array([bomb] * 4, dtype=object), y=LABELS)
    with pytest.raises(DataError, match="Python objects"):
        open_arrays(path)
    assert not trace.exists()
    with pytest.raises(ValueError, match="cannot reshape"):  # the canary does sing
        np.load(path, allow_pickle=True)["x"].reshape(3)
    assert trace.exists()


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"images": RGB, "labels": LABELS}, "arrays images, labels, none"),
        ({"images": RGB, "y": LABELS}, "neither x nor x_train"),
        ({"x_test": RGB, "y_test": LABELS}, "neither x nor x_train"),
        ({"x": RGB}, "x without y"),
        ({"x": RGB / 255, "y": LABELS}, "float64"),
        ({"x": RGB[0, 0], "y": LABELS}, "x is"),
        ({"x": RGB.transpose(0, 3, 1, 2), "y": LABELS}, r"x is \(4, 3, 5, 6\)"),
        ({"x": RGB[:0], "y": LABELS[:0]}, "x is"),
        ({"x": RGB, "y": LABELS[:3]}, "for 4 images"),
        ({"x": RGB, "y": LABELS / 2}, "y is"),
        ({"x": RGB, "y": LABELS * 0}, "only one class, 0"),
        ({"x": RGB, "y": LABELS, "classes": np.array(["a"])}, "labels from 0 to 1 for 1 classes"),
        ({"x": RGB, "y": LABELS, "classes": np.array(["a", "b", "c"])}, "no images of c"),
    ],
)
def test_arrays_that_do_not_fit_say_how_and_what_works_does(save, arrays, found):
    path = save(**arrays)
    with pytest.raises(DataError, match=found) as caught:
        open_arrays(path)
    code = caught.value.remedy.split(" works")[0]
    eval(code, {"np": np}, {"path": path, "images": RGB, "labels": LABELS})
    assert len(open_arrays(path)) == 4


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_pixels_stay_in_the_file_where_they_are_not_compressed_and_another_process_opens_it(tmp_path, write, order):
    write(tmp_path / "data.npz", notes=np.arange(3), x=np.asarray(RGB, order=order), y=LABELS)
    source = open_arrays(tmp_path / "data.npz")
    base = source.pixels[0]
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap) == (write is np.savez)
    np.testing.assert_array_equal(np.stack(source.pixels), RGB)
    sent = pickle.dumps(source)
    assert len(sent) < 500
    assert pickle.loads(sent).content_hashes() == source.content_hashes()


def test_arrays_without_a_file_travel_themselves(make_source):
    source = make_source([0, 1, 0, 1])
    again = pickle.loads(pickle.dumps(source))
    assert again.content_hashes() == source.content_hashes()


def test_a_file_that_is_no_archive_or_a_damaged_one_says_so(save):
    path = save(x=RGB, y=LABELS)
    whole = path.read_bytes()
    for damaged in (whole[:100], b"", b"x", b"\x80\x04."):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"not an \.npz archive, or a damaged one"):
            open_arrays(path)
    for at in range(60, 500):  # inside the images, whose checksum notices every flip, and in the headers around them
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(DataError):
            open_arrays(path)


def test_other_arrays_may_lie_beside_them(save, canary):
    bomb, trace = canary
    assert len(open_arrays(save(x=RGB, y=LABELS, notes=np.array([bomb], dtype=object)))) == 4
    assert not trace.exists()


def test_the_fingerprint_changes_with_pixels_labels_and_classes(save):
    prints = [
        open_arrays(save(x=x, y=y, classes=np.array(classes))).fingerprint()
        for x, y, classes in (
            (RGB, LABELS, ["a", "b"]),
            (RGB ^ 1, LABELS, ["a", "b"]),
            (RGB, 1 - LABELS, ["a", "b"]),
            (RGB, LABELS, ["a", "c"]),
        )
    ]
    assert len(set(prints)) == 4
    assert open_arrays(save(x=RGB, y=LABELS, classes=np.array(["a", "b"]))).fingerprint() == prints[0]


@pytest.mark.assets
def test_cifar10(assets):
    source = open_images(str(assets / "images" / "cifar10.npz"))
    assert len(source) == 15_000
    assert source.classes[:2] == ("airplane", "automobile")
    assert np.bincount(source.labels).tolist() == [1500] * 10
    assert source.given_splits.count("test") == 5000
    assert source.read(0).size == (32, 32)
