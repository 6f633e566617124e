"""What holds for every reader of encoded images, whatever they lie in."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prune_tool.errors import BadImageError
from prune_tool.store.fingerprint import bytes_fingerprint
from prune_tool.task.decode import decode
from prune_tool.task.images import ImageSource, open_images
from prune_tool.task.scan import find_bad
from tests.kinds import WRITERS, Sample, broken, encode, noise, samples


@pytest.fixture(scope="module", autouse=True)
def own_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """``datasets`` keeps its copies where nothing else is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module", params=WRITERS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    """The same images through one of the readers."""
    return open_images(WRITERS[request.param](tmp_path_factory.mktemp("kinds") / "data", samples()))


def expected_rows() -> dict[str, Sample]:
    return {bytes_fingerprint(sample.encoded): sample for sample in samples()}


def test_every_image_comes_with_its_class_its_split_and_the_hash_of_its_bytes(opened: ImageSource) -> None:
    rows = expected_rows()
    hashes = opened.content_hashes()
    assert sorted(hashes) == sorted(rows)
    assert opened.classes == ("cat", "dog")
    for i, content in enumerate(hashes):
        sample = rows[content]
        assert opened.classes[opened.labels[i]] == sample.label
        assert opened.given_splits[i] == sample.split
        np.testing.assert_array_equal(np.asarray(opened.read(i)), np.asarray(Image.open(BytesIO(sample.encoded))))
    assert opened.labels.dtype == np.int64


def test_each_has_a_name_of_its_own(opened: ImageSource) -> None:
    assert len({opened.describe(i) for i in range(len(opened))}) == len(opened)


def test_another_process_reads_the_same(opened: ImageSource) -> None:
    opened.read(0)
    opened.content_hashes()
    sent = pickle.dumps(opened)
    assert sum(len(sample.encoded) for sample in samples()) + 6000 > len(sent)
    for kept in (b"_hashes", opened.content_hashes()[0].encode()):
        assert kept not in sent
    program = (
        "import pickle, sys; s = pickle.load(sys.stdin.buffer); s.read(3);"
        " sys.stdout.write(' '.join(s.content_hashes()))"
    )
    done = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, check=True, timeout=120)
    assert tuple(done.stdout.decode().split()) == opened.content_hashes()


def test_several_threads_read_the_same(opened: ImageSource) -> None:
    order = np.random.default_rng(0).permutation(20 * len(opened)) % len(opened)
    again = pickle.loads(pickle.dumps(opened))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(again.content_hash, order.tolist()))
    assert found == [opened.content_hashes()[i] for i in order]


def deep(mode: str = "I;16") -> bytes:
    return encode(Image.fromarray(np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)))


def sideways() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(Image.open(BytesIO(noise(1))), "JPEG", exif=exif)


ODD = {
    "grey": (noise(1, mode="L"), "png"),
    "alpha": (noise(2, mode="RGBA"), "png"),
    "palette": (noise(3, mode="P"), "png"),
    "cmyk": (noise(4, kind="JPEG", mode="CMYK"), "jpg"),
    "sideways": (sideways(), "jpg"),
    "16 bit": (deep(), "png"),
    "animated": (encode(Image.new("RGB", (4, 4), "red"), "GIF"), "gif"),
}

BROKEN = broken()


@pytest.mark.parametrize("kind", WRITERS)
def test_odd_images_are_read_as_from_files_and_broken_ones_named(kind: str, tmp_path: Path) -> None:
    good = samples(6, ("train",))
    odd = [Sample("train", "cat", content, ending) for content, ending in ODD.values()]
    broken = [Sample("train", "dog", content, "jpg") for content in BROKEN.values()]
    source = open_images(WRITERS[kind](tmp_path / "data", [*good, *odd, *broken]))
    by_hash = {content: i for i, content in enumerate(source.content_hashes())}
    for content, _ in ODD.values():
        found = np.asarray(source.read(by_hash[bytes_fingerprint(content)]))
        np.testing.assert_array_equal(found, np.asarray(decode(content, "x")))
    bad = find_bad(source, range(len(source)), 2)
    assert len(bad) == len(BROKEN)
    for i in bad:
        with pytest.raises(BadImageError) as caught:
            source.read(i)
        assert source.describe(i) in str(caught.value)


def test_no_library_is_imported_before_its_files_are_asked_for(tmp_path: Path) -> None:
    """Not even by the reader of class folders, which every process imports."""
    folder = WRITERS["folders"](tmp_path / "data", samples(2))
    program = (
        "import sys; from prune_tool.task.images import open_images; open_images(sys.argv[1]);"
        " print({'pyarrow', 'datasets', 'torchvision', 'timm', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_library_that_is_absent_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prune_tool.errors import DataError

    paths = {
        name: WRITERS[kind](tmp_path / name, samples()) for name, kind in (("parquet", "parquet"), ("hf", "saved"))
    }
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for extra, path in paths.items():
        with pytest.raises(DataError, match=rf"pip install 'prune-tool\[{extra}\]'"):
            open_images(path)
