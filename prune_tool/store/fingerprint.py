"""One short name for any content: equal content, equal fingerprint; different content, different fingerprint."""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Part: TypeAlias = (
    str | bytes | int | float | Mapping[str, "Part"] | Sequence["Part"] | NDArray[np.generic] | np.generic | None
)
"""What can be fingerprinted. Lists and tuples are the same, a mapping has no order, an array counts with its type."""


def fingerprint(*parts: Part) -> str:
    """The SHA-256 of a canonical encoding of ``parts``.

    Every part is encoded as its type, its length and its bytes, and a container as the digests of what it holds, so
    that no two different values share an encoding: ``("ab", "c")`` differs from ``("a", "bc")``, ``1`` from ``1.0``
    and from ``True``, and an array from its transpose.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: a part is something else, for example an array of Python objects.
    """
    return _digest(parts).hex()


def file_fingerprint(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits (what ``sha256sum`` prints). Raises ``OSError``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_fingerprint(content: bytes) -> str:
    """The SHA-256 of bytes: what ``file_fingerprint`` gives for a file of them."""
    return hashlib.sha256(content).hexdigest()


def _digest(part: Part) -> bytes:
    if isinstance(part, np.ndarray):
        return _array_digest(part)
    if isinstance(part, np.generic):
        return _digest(part.item())
    if isinstance(part, Mapping):
        return _tagged(b"mapping", b"".join(sorted(_digest(name) + _digest(value) for name, value in part.items())))
    if isinstance(part, str | bytes | int | float) or part is None:
        return _tagged(*_scalar(part))
    if isinstance(part, Sequence):
        return _tagged(b"sequence", b"".join(_digest(item) for item in part))
    raise TypeError(f"no fingerprint of a {type(part).__name__}: {part!r}")


def _scalar(value: str | bytes | float | None) -> tuple[bytes, bytes]:
    """The type tag and the bytes of a value that holds no others."""
    match value:
        case None:
            return b"none", b""
        case bool():  # before int, whose subclass it is
            return b"bool", bytes([value])
        case int():
            return b"int", str(value).encode()
        case float():
            return b"float", struct.pack(">d", value)
        case str():
            return b"str", value.encode("utf-8", "surrogatepass")
        case _:
            return b"bytes", value


def _array_digest(array: NDArray[np.generic]) -> bytes:
    if array.dtype.hasobject:
        raise TypeError(f"no fingerprint of an array of {array.dtype}: it holds references, not content")
    little_endian = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    head = f"{little_endian.dtype.str}{array.shape}".encode()
    content = little_endian.reshape(-1).view(np.uint8).data
    return _tagged(b"array", _tagged(b"type", head) + _tagged(b"content", content))


def _tagged(tag: bytes, payload: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(tag + b":" + str(len(payload)).encode() + b":")
    digest.update(payload)
    return digest.digest()
