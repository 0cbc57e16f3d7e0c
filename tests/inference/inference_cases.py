"""Networks whose statistics are not the initial ones."""

import jax
import jax.numpy as jnp
import numpy as np


def draw(*shape, seed=0, shift=0.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) + shift, jnp.float32)


def trained(variables, seed=0):
    """The variables with statistics and affine parameters as training might leave them."""
    generator = np.random.default_rng(seed)

    def change(path, leaf):
        name = path[-1].key
        if name in ("var", "scale", "std"):
            return jnp.asarray(generator.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        if name in ("mean", "bias"):
            return jnp.asarray(0.3 * generator.normal(size=leaf.shape), leaf.dtype)
        return leaf

    return jax.tree_util.tree_map_with_path(change, variables)


def initialised(model, x, **options):
    """Variables of a model, as training might leave them."""
    with jax.numpy_rank_promotion("allow"):
        return trained(jax.jit(lambda key: model.init(key, x, **options))(jax.random.key(0)))
