from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from prune_tool.errors import BadImageError, DataError
from prune_tool.task.images import open_images
from tests.kinds import add, noise, samples, write_tars


def write(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                add(archive, *member)
    return str(path)


def pair(key: str, label: str, ending: str = "cls") -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    return (f"{key}.png", noise(zlib.crc32(key.encode()))), (f"{key}.{ending}", label.encode())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the library leaves its file open
def test_the_webdataset_library_sees_the_same_samples(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    members = [member for i in range(6) for member in pair(f"some/folder.v1/{i:03}", str(i % 2))]
    members += [("README.md", b"x"), ("some/", b""), *pair("7", "1"), ("7.txt", b"a caption"), *pair("8", "0")]
    path = write(tmp_path / "a.tar", *members)
    theirs = [
        (sample["png"], sample["cls"].decode())
        for sample in wds.WebDataset(path, shardshuffle=False, empty_check=False)
        if "png" in sample
    ]
    source = open_images(path)
    ours = [(source.encoded(i), source.classes[source.labels[i]]) for i in range(len(source))]  # type: ignore[attr-defined]
    assert len(ours) == 8
    assert ours == theirs


@pytest.mark.parametrize(
    ("ending", "content"),
    [("cls", "{}"), ("cls", " {}\n"), ("json", '{{"label": {}, "caption": "x"}}'), ("json", '{{"class": "{}"}}')],
)
def test_labels_of_every_form(tmp_path: Path, ending: str, content: str) -> None:
    members = [member for i in range(4) for member in pair(str(i), content.format(9 + i % 2), ending)]
    source = open_images(write(tmp_path / "a.tar", *members))
    assert source.classes == ("9", "10")
    assert source.labels.tolist() == [0, 1, 0, 1]
    assert source.describe(3) == f"{tmp_path / 'a.tar'}: 3.png"


def test_names_may_stand_in_the_labels_or_in_a_file_beside_or_above(tmp_path: Path) -> None:
    members = [member for i in range(4) for member in pair(str(i), str(i % 2))]
    path = write(tmp_path / "tars" / "a.tar", *members)
    for place in (tmp_path, tmp_path / "tars"):
        (place / "classnames.txt").write_text(f"cat of {place.name}\ndog\n\n")
        assert open_images(path).classes == (f"cat of {place.name}", "dog")
    (tmp_path / "tars" / "classnames.txt").write_text("cat\n")
    with pytest.raises(DataError, match="labels from 0 to 1 for 1 classes"):
        open_images(path)
    named = [member for i in range(4) for member in pair(str(i), ("ant", "bee")[i % 2])]
    assert open_images(write(tmp_path / "tars" / "b.tar", *named)).classes == ("ant", "bee")


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tars(tmp_path / "all", samples(2, ("train", "test")))
    for i in (8, 9, 10):
        write(tmp_path / f"x-{i:03}.tar", *pair(f"{i}a", "cat"), *pair(f"{i}b", "dog"))
    monkeypatch.chdir(tmp_path)
    counts = {
        "wds/x-{008..010}.tar": 6,
        "wds/x-{008,010}.tar": 4,
        f"wds/{tmp_path}/x-*.tar": 6,
        "wds/x-009.tar": 2,
        "x-009.tar": 2,
        "wds/all": 8,
        "all": 8,
    }
    assert {pattern: len(open_images(pattern)) for pattern in counts} == counts
    with pytest.raises(DataError, match=r"no file x-007\.tar") as caught:
        open_images("wds/x-{007..009}.tar")
    assert "{000..013}" in caught.value.remedy
    for nothing in ("wds/nowhere-*.tar", "wds/y.tar"):
        with pytest.raises(DataError, match="no "):
            open_images(nothing)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_beside_images_are_never_opened(tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "canary"))
    members: list[tuple[str, bytes]] = []
    for i, ending in enumerate(("pyd", "pickle", "pkl", "pth", "npy", "npz", "pt")):
        members += [*pair(str(i), str(i % 2)), (f"{i}.{ending}", bomb)]
    members += [("9.png", bomb), ("9.cls", b"1"), ("10.png", noise(3)), ("10.cls", bomb), ("11.json", bomb)]
    path = write(tmp_path / "a.tar", *members)
    with pytest.raises(DataError, match=r"1 of 9 images have no label, first 10\.png"):
        open_images(path)
    source = open_images(write(tmp_path / "a.tar", *members[:-3]))
    for i in range(7):
        source.read(i)
    with pytest.raises(BadImageError, match=r"a\.tar: 9\.png: not an image"):
        source.read(7)
    assert not (tmp_path / "canary").exists()
    pickle.loads(bomb)
    assert (tmp_path / "canary").exists(), "it does go off"


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_links_and_paths_that_lead_out_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(noise(77))
    path = write(
        tmp_path / "in" / "a.tar",
        link("loop", ".", tarfile.SYMTYPE),
        link("0.png", str(tmp_path / "secret.png"), tarfile.SYMTYPE),
        ("0.cls", b"0"),
        link("1.png", "../secret.png", tarfile.LNKTYPE),
        ("1.cls", b"1"),
        link("device.png", "", tarfile.CHRTYPE),
        *pair("../../evil", "0"),
        *pair(f"{tmp_path}/evil", "1"),
    )
    before = sorted(tmp_path.rglob("*"))
    source = open_images(path)
    assert len(source) == 2
    for i in range(2):
        source.read(i)
    assert sorted(tmp_path.rglob("*")) == before


def test_several_images_in_a_sample(tmp_path: Path) -> None:
    def sample(key: str, label: str, *endings: str) -> list[tuple[str, bytes]]:
        return [*((f"{key}.{ending}", noise(len(ending))) for ending in endings), (f"{key}.cls", label.encode())]

    masked = [*sample("a", "0", "mask.png", "jpg"), *sample("b", "1", "jpg", "mask.png")]
    assert [name[2:] for name in open_images(write(tmp_path / "a.tar", *masked)).names] == ["jpg", "jpg"]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"a\.tar: a has several images \(jpg, png\)"):
        open_images(write(tmp_path / "a.tar", *sample("a", "0", "jpg", "png"), *sample("b", "1", "png")))


def test_a_tar_that_is_cut_short_compressed_or_none_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write(path, *[member for i in range(4) for member in pair(str(i), str(i % 2))])
    whole = path.read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        add(archive, "0.png", noise(0))
    for content in (b"", b"<html>" * 200, buffer.getvalue(), whole[:700]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.tar"):
            open_images(str(path))
    for at in range(0, 512, 7):  # the first header
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        with pytest.raises(DataError):
            open_images(str(path))
    assert len(open_images(write(path, *[m for i in range(4) for m in pair(str(i), str(i % 2))]))) == 4


def test_a_tar_of_images_without_labels_says_what_works(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labelled images") as caught:
        open_images(write(tmp_path / "a.tar", ("0.png", noise(0)), ("1.png", noise(1))))
    assert "0001.cls" in caught.value.remedy
