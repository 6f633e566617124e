from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prune_tool.errors import BadImageError
from prune_tool.task.decode import decode, to_8_bits
from tests.kinds import png_of

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
GRADIENT = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)


def encoded(image, kind="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data):
    image = decode(data, "x")
    assert image.mode == "RGB"
    return np.asarray(image)


def test_rgb_is_untouched():
    original = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(original))), original)


MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "JPEG": ["L", "RGB", "CMYK", "YCbCr"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"],
    "WEBP": ["L", "RGB", "RGBA"],
    "GIF": ["1", "L", "P", "RGB"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_every_mode_a_file_can_have_becomes_the_rgb_that_timms_loader_gives(kind, mode):
    data = encoded(Image.fromarray(GRADIENT).convert(mode), kind)
    np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_grey_pictures_may_stay_grey_and_others_do_not(kind, mode):
    data = encoded(Image.fromarray(GRADIENT).convert(mode), kind)
    image = decode(data, "picture", keep_grey=True)
    assert image.mode == ("L" if Image.open(BytesIO(data)).mode in {"1", "L", "LA"} else "RGB")
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), pixels(data))


def test_transparent_palette_colours_keep_their_colour():
    image = Image.fromarray(GRADIENT).convert("P")
    data = encoded(image, transparency=bytes(range(256)))
    np.testing.assert_array_equal(pixels(data)[..., 0], GRADIENT)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_high_byte(kind):
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(deep), kind))[..., 1], deep >> 8)


def test_a_big_endian_image_is_read_by_value():
    deep = np.linspace(0, 65535, 64).astype(">u2").reshape(8, 8)
    image = Image.frombytes("I;16B", (8, 8), deep.tobytes())
    np.testing.assert_array_equal(np.asarray(to_8_bits(image))[..., 2], deep >> 8)


@pytest.mark.parametrize("array", [np.full((4, 4), 70000, np.int32), np.full((4, 4), 0.5, np.float32)])
def test_pixels_without_an_agreed_range_are_refused(array):
    with pytest.raises(BadImageError, match="32-bit"):
        decode(encoded(Image.fromarray(array), "TIFF"), "deep.tif")


def test_an_image_taken_sideways_is_turned_upright():
    original = np.zeros((4, 6, 3), np.uint8)
    original[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    upright = pixels(encoded(Image.fromarray(original), exif=exif))
    np.testing.assert_array_equal(upright, np.rot90(original, -1))


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404 Not Found</html>", "not an image.*DOCTYPE"),
        (encoded(NOISE, "JPEG")[:-800], "truncated"),
        (encoded(NOISE)[:-800], "truncated"),
        (png_of(60_000, 60_000), "decompression bomb"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not an image"),
    ],
)
def test_a_broken_image_is_named_with_what_is_wrong_and_what_would_work(data, found):
    with pytest.raises(BadImageError, match=found) as caught:
        decode(data, "cats/7.jpg")
    assert "cats/7.jpg" in str(caught.value)
    assert "--skip-bad" in caught.value.remedy


@settings(max_examples=300)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4),
    keep=st.integers(1, 400),
)
def test_no_bytes_make_anything_but_an_image_or_a_bad_image_error(kind, changes, keep):
    data = bytearray(encoded(Image.fromarray(GRADIENT).convert("RGB"), kind)[:keep])
    for at, value in changes:
        data[at % len(data)] = value
    try:
        image = decode(bytes(data), "x")
    except BadImageError:
        return
    assert image.mode == "RGB"
