"""SHA-256 of every file of a checkpoint: what a disk or a hand has changed is noticed before it is used."""

import hashlib
from pathlib import Path

MANIFEST = "SHA256SUMS"
# Orbax writes these two after all others, and nothing of a restored state depends on them.
_WRITTEN_LATER = {"_CHECKPOINT_METADATA", "commit_success.txt"}


def write_manifest(directory: Path) -> None:
    """Writes the digest of each file below ``directory``, in the form that ``sha256sum -c`` reads.

    Args:
      directory: of a checkpoint that is complete but for its manifest.

    Raises:
      OSError: a file cannot be read or the manifest not be written.
    """
    lines = [f"{digest}  {name}\n" for name, digest in _digests(directory).items()]
    (directory / MANIFEST).write_text("".join(lines))


def damage(directory: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None where every file is as it was written.

    Args:
      directory: of the checkpoint.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> _ = (folder / "weights").write_bytes(b"0000")
      >>> write_manifest(folder)
      >>> print(damage(folder))
      None
      >>> _ = (folder / "weights").write_bytes(b"0001")
      >>> damage(folder)
      'weights is not as it was written'
    """
    try:
        lines = (directory / MANIFEST).read_text().splitlines()
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, UnicodeDecodeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    written = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    try:
        found = _digests(directory)
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    # A damaged manifest names a file that is not there, or none.
    if missing := sorted(written.keys() - found.keys()) or (not written and [MANIFEST]):
        return f"{missing[0]} is missing"
    if foreign := sorted(found.keys() - written.keys()):
        return f"{foreign[0]} was not written with it"
    changed = [name for name in written if written[name] != found[name]]
    return f"{changed[0]} is not as it was written" if changed else None


def _digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if not path.is_dir())
    named = {path.relative_to(directory).as_posix(): path for path in files}
    left_out = {MANIFEST, *_WRITTEN_LATER}
    return {name: _digest(path) for name, path in named.items() if name not in left_out}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
