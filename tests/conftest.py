"""Every test runs with 8 simulated devices, strict rank promotion and shapes checked at run time."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import install_import_hook

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of a test's time is compilation, which takes two thirds of it so. Processes that a test starts do the same.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"
install_import_hook("normjax.functional", "beartype.beartype")


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory) -> Iterator[None]:
    """Keeps what was compiled for all tests of this process.

    The commands that it starts run together, and keep theirs under a lock: JAX does not rename what is whole.
    """
    folder = tmp_path_factory.mktemp("compiled")
    compilation_cache.reset_cache()  # without a folder so far
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    os.environ["NORMJAX_COMPILATION_CACHE"] = str(tmp_path_factory.mktemp("compiled_by_commands"))
    yield
    shutil.rmtree(folder)


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Forgets compiled programs before there are too many of them.

    Each maps memory, Linux allows a process 65,530 pieces of it, and XLA crashes where there is none left.
    """
    yield
    pieces = Path("/proc/self/maps")
    if pieces.exists() and len(pieces.read_bytes().splitlines()) > 30_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
