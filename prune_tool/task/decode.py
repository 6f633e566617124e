"""One encoded picture to upright 8-bit RGB, whatever the file is."""

from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from prune_tool.errors import BadImageError

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".jp2": "JPEG2000",
    ".avif": "AVIF",
}
"""File names that count as images, and the Pillow decoders that may run. Others may not: EPS starts Ghostscript."""


def decode(encoded: bytes, named: str, *, keep_grey: bool = False) -> Image.Image:
    """Decode one image.

    Greyscale, palette and CMYK are converted, an alpha channel is dropped (as timm's loader does), 16-bit greyscale
    keeps its high byte, an animation gives its first frame, and EXIF orientation is applied.

    Args:
        encoded: the file's bytes.
        named: what to call the image in an error.
        keep_grey: leave grey pictures at one channel (mode L).

    Raises:
        BadImageError: it is damaged, of no supported format, or a decompression bomb.
    """
    if not encoded:
        raise bad_image(named, "the file is empty")
    try:
        with Image.open(BytesIO(encoded), formats=_decoders()) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return to_8_bits(image, keep_grey=keep_grey)
    except UnidentifiedImageError as error:
        raise bad_image(named, f"not an image (it starts with {encoded[:16]!r})") from error
    except Exception as error:  # decoders meet hostile bytes and raise what they like
        raise bad_image(named, f"it cannot be decoded ({error})") from error


def bad_image(named: str, found: str) -> BadImageError:
    """The error for an image that cannot be used."""
    return BadImageError(
        asked=f"read the image {named}",
        found=found,
        remedy="Replace or remove it, or pass --skip-bad to leave such images out",
    )


def to_8_bits(image: Image.Image, *, keep_grey: bool = False) -> Image.Image:
    """An image of any mode as 8-bit RGB, or as L where it is grey and that is to be kept.

    Raises ``ValueError`` for pixels without an agreed range (modes I and F).
    """
    if image.mode in {"I", "F"}:
        raise ValueError(f"its pixels are 32-bit numbers (mode {image.mode}), which have no agreed range")
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P":  # by way of RGBA, else Pillow warns where the palette has transparent colours
        image = image.convert("RGBA")
    return image.convert("L" if keep_grey and image.mode in {"1", "L", "LA"} else "RGB")


@cache
def _decoders() -> tuple[str, ...]:
    """The formats of ``FORMATS`` that this build of Pillow has."""
    Image.init()
    return tuple(sorted(set(FORMATS.values()) & set(Image.OPEN)))
