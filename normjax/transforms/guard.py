"""The guarded step: what is not finite leaves everything as it was.

``optax.apply_if_finite`` lets a NaN through after its limit and knows nothing of batch statistics, so the
selection is over the whole state.
"""

from typing import Any

import jax
import jax.numpy as jnp


def all_finite(tree: Any) -> jax.Array:
    """Whether every number of the tree is finite, as a scalar bool; integers are.

    Example:
      >>> bool(all_finite({"a": jnp.ones(2), "b": jnp.array([1.0, jnp.nan])}))
      False
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])) if leaves else jnp.array(True)


def select(condition: jax.Array, new: Any, old: Any) -> Any:
    """``new`` where the scalar condition holds, else ``old``, for a whole tree; a NaN on the other side is harmless.

    Example:
      >>> print(select(jnp.array(False), {"w": jnp.array(jnp.nan)}, {"w": jnp.array(1.0)})["w"])
      1.0
    """
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
