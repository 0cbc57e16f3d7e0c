"""Which parameters weight decay applies to."""

from typing import Any

import jax


def decay_mask(params: Any) -> Any:
    """True for kernels, False for biases and for the parameters of norms.

    Decay of gamma and beta changes what the network computes; decay of a kernel before a norm only changes
    its effective learning rate. A parameter is spared by its name, ``bias`` or ``scale``, or by having fewer
    than two dimensions.

    Args:
      params: tree of parameters.

    Returns:
      A tree of bools of the same structure, for ``optax.add_decayed_weights(..., mask=decay_mask)``.

    Example:
      >>> import jax.numpy as jnp
      >>> decay_mask({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)})
      {'bias': False, 'kernel': True}

    References:
      Goyal et al., `Accurate, Large Minibatch SGD <https://arxiv.org/abs/1706.02677>`_, 2017, section 5.3.
    """

    def decays(path: tuple, leaf: jax.Array) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return leaf.ndim >= 2 and name not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decays, params)
