"""The guarded step: what is not finite leaves everything as it was.

``optax.apply_if_finite`` lets a NaN through after its limit and knows nothing of batch statistics, so the
selection is over the whole state.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Leaves with at most so many numbers are reduced together: on CPUs each reduction of its own takes long to compile.
_SMALL = 2**12


def all_finite(tree: Any) -> jax.Array:
    """Whether every number of the tree is finite, as a scalar bool; integers are.

    Example:
      >>> bool(all_finite({"a": jnp.ones(2), "b": jnp.array([1.0, jnp.nan])}))
      False
    """
    flags = [jnp.array([True])]
    for leaf in jax.tree.leaves(tree):
        finite = jnp.isfinite(leaf)
        flags.append(finite.ravel() if leaf.size <= _SMALL else finite.all()[None])
    # The barrier keeps XLA from reducing each leaf by itself again.
    return lax.optimization_barrier(jnp.concatenate(flags)).all()


def select(condition: jax.Array, new: Any, old: Any) -> Any:
    """``new`` where the scalar condition holds, else ``old``, for a whole tree; a NaN on the other side is harmless.

    Example:
      >>> print(select(jnp.array(False), {"w": jnp.array(jnp.nan)}, {"w": jnp.array(1.0)})["w"])
      1.0
    """
    # On CPUs a branch, as each selection would be a program to compile; others would wait for the condition.
    return lax.platform_dependent(condition, new, old, cpu=_branch, default=_select_each)


def _branch(condition: jax.Array, new: Any, old: Any) -> Any:
    return lax.cond(condition, lambda new, _: new, lambda _, old: old, new, old)


def _select_each(condition: jax.Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)
