"""Every test runs with 8 simulated devices, strict rank promotion and shapes checked at run time."""

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)  # most of a test's time is compilation
install_import_hook("normjax.functional", "beartype.beartype")


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
