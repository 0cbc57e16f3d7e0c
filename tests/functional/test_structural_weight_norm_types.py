"""The structural weight norm on all platforms and under strict promotion: the same numbers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from normjax.functional import structural_weight_norm

PLATFORMS = ("cpu", "cuda", "tpu")
OPTIONS = [
    {"measure": "sparsity", "strength": 0.2},
    {"measure": "sparsity", "strength": 0.2, "rule": "cges", "base": "weight_norm"},
    {"measure": "neuron"},
    {"measure": "neuron", "axis": "output", "feature_group_count": 2},
]


def draw(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def step(options):
    def value_and_gradients(kernel, scale):
        y, pull = jax.vjp(lambda *arrays: structural_weight_norm(*arrays, **options), kernel, scale)
        return y, pull(jnp.cos(y))

    return value_and_gradients


@pytest.mark.parametrize("options", OPTIONS)
def test_it_lowers_for_all_platforms(options):
    # On TPUs groups are multiplied as diagonal blocks: another program with the same numbers.
    arrays = draw(3, 3, 6, 16), draw(16, seed=1)
    program = export.export(jax.jit(step(options)), platforms=PLATFORMS)(*arrays)
    assert program.platforms == PLATFORMS
    got = export.deserialize(program.serialize()).call(*arrays)
    chex.assert_trees_all_close(got, step(options)(*arrays), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_it_runs_under_strict_promotion(dtype, options):
    kernel, scale = draw(3, 3, 6, 16, dtype=dtype), draw(16, seed=1)
    with jax.numpy_dtype_promotion("strict"):
        y, gradients = jax.jit(step(options))(kernel, scale)
    assert [y.dtype, *(part.dtype for part in gradients)] == [dtype, dtype, jnp.float32]
    wide, _ = step(options)(kernel.astype(jnp.float32), scale)
    chex.assert_trees_all_close(y.astype(jnp.float32), wide, atol=4 * float(jnp.finfo(dtype).eps) + 1e-6)
