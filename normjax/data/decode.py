"""Encoded pictures to uint8 arrays."""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

from normjax.errors import UserError

MAX_PIXELS = 50_000_000  # checked from the header, before the pixels are decoded


def decode_image(encoded: bytes, channels: int, name: str) -> np.ndarray:
    """A picture as uint8 (height, width, channels).

    Args:
      encoded: the bytes of a PNG, JPEG, BMP, GIF or WebP file.
      channels: 1 (grey) or 3 (RGB); the picture is converted.
      name: of the file or record, for the message.

    Raises:
      UserError: the bytes are no picture, are cut short, or hold more than 50 million pixels.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG", "BMP", "GIF", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{name}: {image.width}x{image.height} pixels; at most {MAX_PIXELS:,} are read.")
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not a picture (PNG, JPEG, BMP, GIF or WebP).") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{name}: a picture that cannot be read to its end ({error}).") from error
    return pixels.reshape(*pixels.shape[:2], channels)
