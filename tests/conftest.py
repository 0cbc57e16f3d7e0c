"""Every test runs with 8 simulated devices, strict rank promotion and shapes checked at run time."""

import gc
import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of a test's time is compilation, which takes two thirds of it so. Processes that a test starts do the same.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"
install_import_hook("normjax.functional", "beartype.beartype")


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
