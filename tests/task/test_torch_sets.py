"""``torch/``: data sets made here in torchvision's own formats on disk."""

from __future__ import annotations

import gzip
import hashlib
import inspect
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from prune_tool.errors import DataError
from prune_tool.task.images import open_images
from prune_tool.task.torch_sets import KNOWN, _open, data_root


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision looks, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("PRUNE_TOOL_DATA", str(tmp_path / "root"))
    return tmp_path / "root"


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
LABELS = [3, 8, 3, 8, 3, 8]


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five batches for training and one for testing; the published checksums become those of what is written."""
    folder = root / datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)

    def write(name: str, content: object) -> tuple[str, str]:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    batches = [
        write(name, {"data": (PIXELS + i).reshape(6, -1), "labels": LABELS})
        for i, (name, _) in enumerate(datasets.CIFAR10.train_list + datasets.CIFAR10.test_list)
    ]
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    meta_name, meta = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", batches[:-1])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", batches[-1:])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": meta_name, "key": "label_names", "md5": meta})
    return folder


def test_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(root, monkeypatch)
    source = open_images("torch/cifar10")
    assert source.classes == ("cat", "ship")
    assert source.given_splits == ("train",) * 30 + ("test",) * 6
    assert source.labels.tolist() == [0, 1] * 18
    np.testing.assert_array_equal(np.asarray(source.read(31)), (PIXELS + 5)[1].transpose(1, 2, 0))
    assert source.describe(31) == "torchvision CIFAR10: test[1]"
    assert len(set(source.content_hashes())) == 36
    sent = pickle.dumps(source)
    assert len(sent) < 4000  # and not the pixels
    assert pickle.loads(sent).content_hashes() == source.content_hashes()


def test_a_cifar_batch_that_is_not_the_published_one_is_never_unpickled(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "canary"),)

    folder = write_cifar(root, monkeypatch)
    for name in ("data_batch_3", "batches.meta"):
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(DataError, match="open torchvision's CIFAR10"):
            open_images("torch/cifar10")
        assert not (tmp_path / "canary").exists()
        (folder / name).write_bytes(good)
    assert len(open_images("torch/CIFAR10")) == 36


def test_digits_in_the_format_of_mnist(root: Path) -> None:
    for name in ("fashion_mnist", "FashionMNIST"):
        raw = root / "FashionMNIST" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        for split, n in (("train", 20), ("t10k", 10)):
            images = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
            head = struct.pack(">IIII", 0x803, n, 28, 28)
            labels = bytes(i % 10 for i in range(n))
            for kind, content in (
                ("images-idx3", head + images.tobytes()),
                ("labels-idx1", struct.pack(">II", 0x801, n) + labels),
            ):
                (raw / f"{split}-{kind}-ubyte").write_bytes(content)
                (raw / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
        source = open_images(f"torch/{name}")
        assert source.classes[:2] == ("T-shirt/top", "Trouser")
        assert (len(source), source.given_splits.count("test")) == (30, 10)
        image = source.read(25)
        assert (image.mode, image.size) == ("RGB", (28, 28))


def test_class_folders_are_read_as_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in EuroSAT: the encoded bytes are at hand, so ours are the reader and the hashes."""
    for i, name in enumerate(("Forest", "River")):
        (root / "eurosat" / "2750" / name).mkdir(parents=True)
        for j in range(3):
            Image.fromarray(PIXELS[i * 3 + j].transpose(1, 2, 0)).save(root / "eurosat" / "2750" / name / f"{j}.png")
    monkeypatch.setattr(datasets.EuroSAT, "download", lambda self: None)
    source = open_images("torch/eurosat")
    assert source.classes == ("Forest", "River")
    assert source.describe(0).endswith("0.png")
    np.testing.assert_array_equal(np.asarray(source.read(4)), PIXELS[4].transpose(1, 2, 0))


def test_every_known_name_is_torchvisions_and_an_unknown_one_lists_them() -> None:
    assert all(hasattr(datasets, name) for name in KNOWN)
    with pytest.raises(DataError, match="no such data set") as caught:
        open_images("torch/cifar")
    assert "cifar10, cifar100" in caught.value.remedy


@pytest.mark.parametrize("kind", KNOWN)
def test_without_files_and_network_the_message_says_where_to_put_them(kind: str, root: Path) -> None:
    with pytest.raises(DataError, match="PRUNE_TOOL_DATA") as caught:
        open_images(f"torch/{kind.lower()}")
    assert str(root) in str(caught.value)
    for args in KNOWN[kind].values():  # torchvision complains of the files, and not of what it is asked
        inspect.signature(getattr(datasets, kind)).bind(root=str(root), **args)
        with pytest.raises(DataError) as caught:
            _open(kind, root, args, download=False)
        assert "Unknown value" not in caught.value.found
        assert "argument" not in caught.value.found


def test_the_folder_of_the_platform_serves_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRUNE_TOOL_DATA")
    assert data_root().parts[-2:] == ("prune-tool", "torchvision")
