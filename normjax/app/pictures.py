"""Pictures that users send: accepted within limits, decoded, and encoded anew, so that only pixels are kept."""

import io
import re
import threading
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.utils.translation import gettext as _
from PIL import Image, ImageOps

from normjax.app.models import Picture, User
from normjax.data.decode import MAX_RATIO, MIN_SIDE
from normjax.errors import UserError

_FORMATS = ("JPEG", "PNG", "WEBP")
# A picture of the largest size takes some 300 MB while it is decoded: of many that come at once, two at a time.
_DECODING = threading.BoundedSemaphore(2)


def clean_picture(file: Any) -> bytes:
    """The pixels of a sent picture as a PNG: turned as its camera was held, without anything else that was in the file.

    Args:
      file: as Django hands it over.

    Raises:
      UserError: it is too large, no picture, or of a kind that is not read.
    """
    most = settings.MAX_UPLOAD_BYTES
    if file.size > most:
        raise UserError(_("The file is larger than %(most)d MiB.") % {"most": most // 2**20})
    try:
        with _DECODING, Image.open(io.BytesIO(file.read(most + 1)), formats=_FORMATS) as image:
            _check(image)
            pixels = _pixels(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(_("The file is no picture that can be read; send JPEG, PNG or WebP.")) from error
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=3)
    return out.getvalue()


def keep_picture(user: User, file: Any) -> Picture:
    """Takes a picture to be recognised.

    Raises:
      UserError: it is not accepted, or the user has too many.
    """
    encoded = clean_picture(file)
    kept = [picture.bytes for picture in Picture.objects.filter(owner=user)]
    if len(kept) >= settings.MAX_PICTURES_KEPT or sum(kept) + len(encoded) > settings.MAX_PICTURES_BYTES:
        raise UserError(
            _("You have %(most)d pictures here, or %(gib)d GiB of them; remove some first.")
            % {"most": settings.MAX_PICTURES_KEPT, "gib": settings.MAX_PICTURES_BYTES // 2**30}
        )
    picture = Picture(owner=user, name=shown_name(file.name))
    write_whole(picture.file, encoded)
    picture.save(force_insert=True)
    return picture


def shown_name(name: str | None) -> str:
    """The name of a sent file, fit to be shown; it never names a file of ours."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name or ""))[-1]
    plain = "".join(character for character in last if character.isprintable()).strip()
    return plain[-100:] or _("picture")


def write_whole(file: Path, data: bytes) -> None:
    """Writes a file so that it is whole or not there.

    Raises:
      UserError: it cannot be written.
    """
    draft = file.with_name(file.name + ".draft")
    try:
        draft.write_bytes(data)
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UserError(_("The file cannot be kept: %(why)s.") % {"why": error.strerror}) from error


def _check(image: Image.Image) -> None:
    """By the header alone, before anything is decoded."""
    width, height = image.size
    if width * height > settings.MAX_PIXELS:
        raise UserError(
            _("The picture has %(width)d × %(height)d pixels; at most %(most)d million are read.")
            % {"width": width, "height": height, "most": settings.MAX_PIXELS // 10**6}
        )
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_RATIO * min(width, height):
        raise UserError(
            _("The picture has %(width)d × %(height)d pixels, which is no picture but a strip.")
            % {"width": width, "height": height}
        )
    if getattr(image, "n_frames", 1) > 1:
        raise UserError(_("The picture moves; send one that does not."))


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # sixteen bits a pixel, of which conversion would keep the lower eight
        levels = np.asarray(image).clip(0, 65535).astype(np.uint32)
        return ((255 * levels + 32767) // 65535).astype(np.uint8)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))
