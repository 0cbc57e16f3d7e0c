"""Weight decay is for kernels: biases and the parameters of norms are spared."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import normjax
from normjax.transforms import decay_mask

PARAMS = {
    "conv": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
    "dense": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)},
    "norm": {"scale": jnp.ones(4), "bias": jnp.ones(4)},
    # A norm over several axes (LayerNorm over height, width and channels) has parameters as large as kernels.
    "wide_norm": {"scale": jnp.ones((5, 5, 4)), "bias": jnp.ones((5, 5, 4))},
    "embedding": {"embedding": jnp.ones((7, 4))},
    "gain": jnp.ones(()),
}


def test_only_what_has_two_dimensions_and_is_no_norm_decays():
    assert decay_mask(PARAMS) == {
        "conv": {"kernel": True, "bias": False},
        "dense": {"kernel": True, "bias": False},
        "norm": {"scale": False, "bias": False},
        "wide_norm": {"scale": False, "bias": False},
        "embedding": {"embedding": True},
        "gain": False,
    }


def test_the_mask_fits_what_layers_call_their_parameters():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3, 3))(x)
            x = normjax.BatchNorm(use_running_average=False, axis=(-3, -1))(x)
            return nn.Dense(2)(x)

    params = Network().init(jax.random.key(0), jnp.ones((2, 5, 5, 1)))["params"]
    assert params["BatchNorm_0"]["scale"].ndim == 2
    decays = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, decays in jax.tree_util.tree_leaves_with_path(decay_mask(params))
        if decays
    }
    assert decays == {"Conv_0/kernel", "Dense_0/kernel"}


def test_optax_adds_the_decay_to_kernels_alone():
    decay = optax.add_decayed_weights(0.1, mask=decay_mask)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = decay.update(zeros, decay.init(PARAMS), PARAMS)
    moved = jax.tree.map(lambda u, p: np.allclose(u, 0.1 * p), updates, PARAMS)
    assert moved == decay_mask(PARAMS)
