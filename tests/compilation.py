"""Where a test run keeps the programs it compiled."""

from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def keep_compiled_in(folder: Path | None, seconds: float) -> None:
    """Keeps programs that took longer than this to compile; None keeps none."""
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", folder and str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
