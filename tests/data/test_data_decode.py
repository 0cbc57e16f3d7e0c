"""Encoded pictures: what PIL wrote comes back, and what is no picture is refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
from data_cases import distinct_pixels
from PIL import Image

from normjax.data.decode import MAX_PIXELS, decode_image
from normjax.errors import UserError

PIXELS = distinct_pixels(1, 9, 7, 3)[0]
GREY = PIXELS[..., 0]
LOSSLESS = {"PNG": {}, "BMP": {}, "WEBP": {"lossless": True}}
FORMATS = LOSSLESS | {"JPEG": {}, "GIF": {}}


def encode(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


FILES = {name: encode(Image.fromarray(PIXELS), name, **options) for name, options in FORMATS.items()}


def png(width, height, *chunks):
    """A PNG whose header claims a size, whatever the chunks after it hold."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (header, *chunks)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


TOO_FEW = (b"IDAT", zlib.compress(b"0"))
END = (b"IEND", b"")


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_files_come_back_pixel_by_pixel(name):
    np.testing.assert_array_equal(decode_image(FILES[name], 3, "x"), PIXELS)


def test_a_jpeg_is_what_was_saved_but_for_its_loss():
    smooth = np.broadcast_to(np.arange(0, 160, 10, dtype=np.uint8)[:, None, None], (16, 16, 3)).copy()
    decoded = decode_image(encode(Image.fromarray(smooth), "JPEG", quality=95), 3, "x")
    assert np.abs(decoded.astype(int) - smooth).max() <= 3


def test_a_gif_shows_its_first_frame():
    # 63 colours fit its palette, so nothing is lost.
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    palette = [frame.quantize(256) for frame in frames]
    file = encode(palette[0], "GIF", save_all=True, append_images=palette[1:])
    np.testing.assert_array_equal(decode_image(file, 3, "x"), np.asarray(palette[0].convert("RGB")))


def test_grey_becomes_three_equal_channels_and_stays_one():
    file = encode(Image.fromarray(GREY), "PNG")
    np.testing.assert_array_equal(decode_image(file, 1, "x"), GREY[..., None])
    np.testing.assert_array_equal(decode_image(file, 3, "x"), np.repeat(GREY[..., None], 3, -1))


def test_colour_becomes_its_luma():
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B.
    decoded = decode_image(FILES["PNG"], 1, "x")[..., 0]
    np.testing.assert_allclose(decoded, PIXELS @ np.array([0.299, 0.587, 0.114]), atol=1)


def test_an_opaque_image_loses_only_its_alpha():
    alpha = np.concatenate([PIXELS, np.full((9, 7, 1), 255, np.uint8)], -1)
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(alpha), "PNG"), 3, "x"), PIXELS)


def test_a_palette_is_looked_up():
    palette = Image.fromarray(np.arange(63, dtype=np.uint8).reshape(9, 7)).convert("P")
    palette.putpalette(PIXELS.tobytes())
    np.testing.assert_array_equal(decode_image(encode(palette, "PNG"), 3, "x"), PIXELS)


def test_a_palette_with_half_transparent_entries_is_looked_up():
    # PIL warns of such a palette when it converts it to RGB at once.
    palette = Image.fromarray(np.arange(63, dtype=np.uint8).reshape(9, 7)).convert("P")
    palette.putpalette(PIXELS.tobytes())
    file = encode(palette, "PNG", transparency=bytes(range(192, 255)))
    np.testing.assert_array_equal(decode_image(file, 3, "x"), PIXELS)


def test_sixteen_bit_grey_keeps_its_contrast():
    # Clipped to a byte instead of scaled, nearly every value would be white.
    values = np.arange(0, 63 * 1024, 1024, dtype=np.uint16).reshape(9, 7)
    decoded = decode_image(encode(Image.fromarray(values), "PNG"), 1, "x")[..., 0]
    np.testing.assert_allclose(decoded, values / 257, atol=1)


BROKEN = {
    "garbage": np.random.default_rng(0).bytes(500),
    "nothing": b"",
    "text": b"not a picture",
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="7"></svg>',
    "tiff": encode(Image.fromarray(PIXELS), "TIFF"),
    "no width": png(0, 5, TOO_FEW, END),
    "no chunks": png(9, 7, END),
    "chunk without a name": png(9, 7, TOO_FEW, (b"\0\0\0\0", b"")),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_picture_of_the_formats_is_refused_by_name(name):
    with pytest.raises(UserError, match=r"^record 17: .*picture"):
        decode_image(BROKEN[name], 3, "record 17")


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_anywhere_is_refused_by_name(name):
    # PNG and GIF end in bytes that hold no pixels, which may be missing: then the picture is whole.
    file = FILES[name]
    whole = decode_image(file, 3, "x")
    refused = 0
    for length in range(len(file)):
        try:
            np.testing.assert_array_equal(decode_image(file[:length], 3, "record 17"), whole)
        except UserError as error:
            assert str(error).startswith("record 17: ")  # noqa: PT017 - either outcome is right
            refused += 1
    assert refused >= len(file) - 20


@pytest.mark.parametrize("name", FILES)
def test_damaged_bytes_raise_nothing_but_the_error_for_the_user(name):
    # The header is kept: in a random one PIL finds sizes it warns of.
    rng = np.random.default_rng(0)
    for _ in range(300):
        file = np.frombuffer(FILES[name], np.uint8).copy()
        file[rng.integers(60, len(file), 3)] = rng.integers(0, 256, 3)
        try:
            decoded = decode_image(file.tobytes(), 3, "record 17")
        except UserError as error:
            assert str(error).startswith("record 17: ")  # noqa: PT017 - either outcome is right
        else:
            assert decoded.dtype == np.uint8


@pytest.mark.parametrize("side", [8_000, 10_000, 60_000])
def test_too_many_pixels_are_refused_from_the_header(side):
    # Each would take hundreds of MB if it were decoded. At 10,000 PIL only warns, at 60,000 it refuses by itself:
    # the reader is told the same all the same.
    assert side * side > MAX_PIXELS
    with pytest.raises(UserError, match=r"^record 17: .*pixels; at most 50,000,000 are read"):
        decode_image(png(side, side, TOO_FEW, END), 3, "record 17")
