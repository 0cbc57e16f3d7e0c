"""Keeps compiled programs between commands, so that the next one starts sooner."""

import hashlib
import os
import platform
import sys
from pathlib import Path

from filelock import FileLock

SWITCH = "NORMJAX_COMPILATION_CACHE"  # a directory, or off
_LARGEST_MIB = 2048
_LEAST_SECONDS = 0.1  # programs that compile faster are not kept
_PATIENCE_SECONDS = 10.0


def use_compilation_cache() -> None:
    """Sets the environment variables by which JAX keeps what it compiles; to be called before JAX is imported.

    The directory is the user's cache directory, or that of the environment variable ``NORMJAX_COMPILATION_CACHE``;
    ``off`` keeps nothing. A cache that the user gave JAX is left as it is, as are limits of it. The least recently used
    programs go when there are more than 2 GiB. Runs side by side may share it. If the directory cannot be written, one
    line on stderr reports it, and nothing is kept.
    """
    choice = os.environ.get(SWITCH, "")
    if choice == "off" or "JAX_COMPILATION_CACHE_DIR" in os.environ or "jax" in sys.modules:
        return
    try:
        folder = Path(choice or _user_cache() / "normjax" / "programs") / _machine()
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lockfile", timeout=_PATIENCE_SECONDS):  # as JAX names it
            _remove_unfinished(folder)
    except (OSError, RuntimeError) as error:  # also a lock that is held, and a user without a home directory
        print(f"normjax: compiled programs are not kept: {error}", file=sys.stderr)
        os.environ[SWITCH] = "off"  # for processes that this one starts
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(_LARGEST_MIB * 2**20))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(_LEAST_SECONDS))


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _machine() -> str:
    """Stands for the processor: a program compiled for one may use instructions that another has not."""
    description = platform.machine() + platform.processor()
    processors = Path("/proc/cpuinfo")
    if processors.exists():
        lines = processors.read_text().splitlines()
        description += "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    return hashlib.sha256(description.encode()).hexdigest()[:12]


def _remove_unfinished(folder: Path) -> None:
    """Removes what a process that was killed left half written: JAX writes the time of use after the program."""
    for program in folder.glob("*-cache"):
        if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
            program.unlink()
