"""Encoded pictures to uint8 arrays."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from normjax.errors import UserError

# Pillow warns first and raises only at twice as many; a picture that large is refused here, not warned of.
warnings.simplefilter("error", Image.DecompressionBombWarning)

MAX_PIXELS = 50_000_000  # checked from the header, before the pixels are decoded
MIN_SIDE = 2  # one pixel a side is no picture but a placeholder for one
MAX_RATIO = 100  # of the sides: resized by its shorter one, a strip would become an image of any size


def decode_image(encoded: bytes, channels: int, name: str) -> np.ndarray:
    """A picture as uint8 (height, width, channels).

    Args:
      encoded: the bytes of a PNG, JPEG, BMP, GIF or WebP file.
      channels: 1 (grey) or 3 (RGB); the picture is converted.
      name: of the file or record, for the message.

    Raises:
      UserError: the bytes are no picture, are cut short, or hold more than 50 million pixels, one row or column, or a
        strip.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG", "BMP", "GIF", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{name}: {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are read.")
            if min(image.size) < MIN_SIDE:
                raise UserError(f"{name}: {image.width}x{image.height} pixels; it takes {MIN_SIDE} a side at least.")
            if max(image.size) > MAX_RATIO * min(image.size):
                raise UserError(
                    f"{name}: {image.width}x{image.height} pixels; one side may be {MAX_RATIO} times the other at most."
                )
            pixels = _to_bytes(image, channels)
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not a picture (PNG, JPEG, BMP, GIF or WebP).") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"{name}: too many pixels; at most {MAX_PIXELS:,} are read.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{name}: a picture that cannot be read to its end ({error}).") from error
    return pixels.reshape(*pixels.shape[:2], channels)


def read_picture(file: Path, channels: int) -> np.ndarray:
    """The picture in a file, as ``decode_image`` gives it.

    Raises:
      UserError: the file cannot be read, or holds no picture; it is named.
    """
    try:
        encoded = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    return decode_image(encoded, channels, str(file))


def _to_bytes(image: Image.Image, channels: int) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Sixteen bits a pixel: conversion to bytes would clip at 255.
        grey = (np.asarray(image, np.float64) * (255 / 65535)).round().clip(0, 255).astype(np.uint8)
        return grey if channels == 1 else np.repeat(grey[..., None], 3, axis=-1)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("L" if channels == 1 else "RGB"))
