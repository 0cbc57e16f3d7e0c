"""What the tests of the app share."""

import base64
import hashlib
import hmac
import io
import struct
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

PASSWORD = "correct horse battery"
BROWSER_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--use-fake-device-for-media-stream",  # a camera that shows a test picture
]
# A small network that knows its digits after three seconds.
QUICK = {
    "epochs": 3,
    "batch_size": 64,
    "model": {"name": "mlp", "widths": [32, 16]},
    "schedule": {"warmup_epochs": 0.5},
    "run": {"log_every": 5},
}


def digit_png(index: int = 0) -> bytes:
    """A picture of one of the digits, as the network was trained on them."""
    return png(np.round(load_digits().images[index] * (255 / 16)).astype(np.uint8))


def png(pixels: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def sent(name: str, data: bytes) -> io.BytesIO:
    """A file as a test client sends it."""
    file = io.BytesIO(data)
    file.name = name
    return file


def totp(secret: str, at: float | None = None) -> str:
    """The six digits that an authenticator app shows (RFC 6238), written without allauth."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    counter = struct.pack(">Q", int((time.time() if at is None else at) // 30))
    mac = hmac.new(key, counter, hashlib.sha1).digest()
    start = mac[-1] & 15
    return f"{(struct.unpack('>I', mac[start : start + 4])[0] & 0x7FFFFFFF) % 10**6:06d}"


def files_below(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
