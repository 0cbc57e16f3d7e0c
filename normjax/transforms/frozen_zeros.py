"""Parameters that stay zero, whatever the optimizer does."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class FrozenZeros(NamedTuple):
    """State of ``frozen_zeros``."""

    alive: Any  # like the parameters: False where one is and stays 0


def frozen_zeros() -> optax.GradientTransformation:
    """Sets parameters to zero, and keeps them there, behind an optimizer.

    Which they are is part of the state, so that one compiled step serves all masks: at first all are alive;
    ``with_alive`` says which.

    Returns:
      An optax transformation, whose ``update`` needs the parameters.

    Raises:
      ValueError: ``update`` is called without parameters.

    Example:
      >>> zeros = frozen_zeros()
      >>> params = {"kernel": jnp.array([1.0, 2.0])}
      >>> state = with_alive(zeros.init(params), {"kernel": jnp.array([True, False])})
      >>> updates, _ = zeros.update({"kernel": jnp.array([0.5, 0.5])}, state, params)
      >>> print(optax.apply_updates(params, updates)["kernel"])
      [1.5 0. ]
    """

    def init(params: Any) -> FrozenZeros:
        return FrozenZeros(jax.tree.map(lambda param: jnp.ones(param.shape, bool), params))

    def update(updates: Any, state: FrozenZeros, params: Any = None) -> tuple[Any, FrozenZeros]:
        if params is None:
            raise ValueError("params=None: zeros need the parameters; call update(updates, state, params).")
        # What is added to the parameter again: minus itself gives an exact zero.
        return jax.tree.map(
            lambda update, alive, param: jnp.where(alive, update, -param), updates, state.alive, params
        ), state

    return optax.GradientTransformation(init, update)


def with_alive(state: Any, alive: Any) -> Any:
    """The state of an optimizer in which ``frozen_zeros`` keeps these parameters alive, and the others zero."""

    def is_zeros(node: Any) -> bool:
        return isinstance(node, FrozenZeros)

    return jax.tree.map(lambda node: FrozenZeros(alive) if is_zeros(node) else node, state, is_leaf=is_zeros)
