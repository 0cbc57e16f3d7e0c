"""Every test runs with 8 simulated devices, strict rank promotion and shapes checked at run time."""

import os

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of a test's time is compilation. Processes that a test starts compute with the same programs.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
install_import_hook("normjax.functional", "beartype.beartype")


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
