"""The same labelled images in every kind of file that a user may bring."""

from __future__ import annotations

import csv
import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("cat", "dog")


@dataclass(frozen=True)
class Sample:
    """One image as it lies in a file."""

    split: str
    label: str
    encoded: bytes
    ending: str = "png"


def noise(seed: int, size: tuple[int, int] = (9, 7), kind: str = "PNG", mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels).convert(mode), kind)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A few bytes that promise an image of any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def broken() -> dict[str, bytes]:
    """Files that are no images, by what is wrong with them; each is called .jpg or .png by whoever made it."""
    photo = noise(5, (64, 64), "JPEG")
    rng = np.random.default_rng(0)
    return {
        "empty": b"",
        "html": b"<!DOCTYPE html><title>404 Not Found</title>",
        "cut": photo[: len(photo) // 2],
        "cut in its header": noise(5)[:20],
        "random behind PNG's magic": b"\x89PNG\r\n\x1a\n" + rng.bytes(500),
        "random behind JPEG's magic": b"\xff\xd8\xff\xe0" + rng.bytes(500),
        "random behind GIF's magic": b"GIF89a" + rng.bytes(500),
        "random behind TIFF's magic": b"II*\0" + rng.bytes(500),
        "zeros": bytes(1000),
        "bomb": png_of(60_000, 60_000),
        "another kind": b"%PDF-1.7\n%%EOF",
    }


def samples(n: int = 4, splits: Sequence[str] = ("train", "val", "test")) -> list[Sample]:
    """``n`` noisy images a class and split."""
    keys = [(split, name, i) for split in splits for name in NAMES for i in range(n)]
    return [Sample(split, name, noise(seed)) for seed, (split, name, _) in enumerate(keys)]


def _by_split(given: Iterable[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in given:
        found.setdefault(sample.split, []).append(sample)
    return found


def write_folders(root: Path, given: Sequence[Sample]) -> str:
    for i, sample in enumerate(given):
        path = root / sample.split / sample.label / f"{i:03}.{sample.ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.encoded)
    return str(root)


def _write_flat(root: Path, given: Sequence[Sample]) -> list[tuple[str, str, str]]:
    (root / "files").mkdir(parents=True)
    rows = []
    for i, sample in enumerate(given):
        name = f"files/{i:03}.{sample.ending}"
        (root / name).write_bytes(sample.encoded)
        rows.append((name, sample.label, sample.split))
    return rows


def write_csv(root: Path, given: Sequence[Sample]) -> str:
    rows = _write_flat(root, given)
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "label", "split"), *rows])
    return str(root / "labels.csv")


def write_csv_folder(root: Path, given: Sequence[Sample]) -> str:
    write_csv(root, given)
    return str(root)


def write_parquet_table(root: Path, given: Sequence[Sample]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, label, split = zip(*_write_flat(root, given), strict=True)
    pq.write_table(pa.table({"image": path, "label": label, "split": split}), root / "labels.parquet")
    return str(root / "labels.parquet")


def features(names: Sequence[str] = NAMES) -> bytes:
    """What the Hugging Face library writes into a parquet file's metadata."""
    said = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    return json.dumps({"info": {"features": said}}).encode()


def parquet_table(given: Sequence[Sample], names: Sequence[str] = NAMES) -> object:
    import pyarrow as pa

    images = [{"bytes": sample.encoded, "path": f"{i}.{sample.ending}"} for i, sample in enumerate(given)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    labels = [names.index(sample.label) for sample in given]
    table = pa.table({"image": pa.array(images, kind), "label": pa.array(labels, pa.int64())})
    return table.replace_schema_metadata({b"huggingface": features(names)})


def write_parquet(root: Path, given: Sequence[Sample]) -> str:
    import pyarrow.parquet as pq

    (root / "data").mkdir(parents=True)
    for split, of_split in _by_split(given).items():
        name = {"val": "validation"}.get(split, split)
        path = root / "data" / f"{name}-00000-of-00001.parquet"
        pq.write_table(parquet_table(of_split), path, row_group_size=3)
    return str(root)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_tars(root: Path, given: Sequence[Sample]) -> str:
    root.mkdir(parents=True)
    (root / "classnames.txt").write_text("\n".join(NAMES))
    for split, of_split in _by_split(given).items():
        with tarfile.open(root / f"{split}-000.tar", "w") as archive:
            for i, sample in enumerate(of_split):
                add(archive, f"{i:03}.{sample.ending}", sample.encoded)
                add(archive, f"{i:03}.cls", str(NAMES.index(sample.label)).encode())
    return str(root)


def write_saved(root: Path, given: Sequence[Sample]) -> str:
    import datasets

    kind = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    parts = {}
    for split, of_split in _by_split(given).items():
        images = [{"bytes": sample.encoded, "path": None} for sample in of_split]
        columns = {"image": images, "label": [sample.label for sample in of_split]}
        parts[{"val": "validation"}.get(split, split)] = datasets.Dataset.from_dict(columns, features=kind)
    datasets.DatasetDict(parts).save_to_disk(root)
    return str(root)


def write_hub_folder(root: Path, given: Sequence[Sample]) -> str:
    return f"hfds/{write_parquet(root, given)}"


def write_hub_images(root: Path, given: Sequence[Sample]) -> str:
    return f"hfds/{write_folders(root, given)}"


WRITERS: dict[str, Callable[[Path, Sequence[Sample]], str]] = {
    "folders": write_folders,
    "csv": write_csv,
    "folder with csv": write_csv_folder,
    "parquet table": write_parquet_table,
    "parquet": write_parquet,
    "tars": write_tars,
    "saved": write_saved,
    "hfds parquet": write_hub_folder,
    "hfds imagefolder": write_hub_images,
}
