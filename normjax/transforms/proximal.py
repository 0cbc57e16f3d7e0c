"""Proximal steps after the step of an optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from normjax.functional.sparsity import check_strength, prox_exclusive_sparsity
from normjax.transforms.decay import decay_mask

Prox = Callable[[jax.Array, Any], jax.Array]


class ProximalState(NamedTuple):
    """State of ``proximal``."""

    step: jax.Array  # int32 (): steps taken


def proximal(
    strength: optax.ScalarOrSchedule,
    *,
    prox: Prox = prox_exclusive_sparsity,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    factors: Callable[[Any], Any] | None = None,
    mask: Any = decay_mask,
) -> optax.GradientTransformation:
    r"""Takes a proximal step where the optimizer arrived, so that weights become exact zeros.

    With u the update of the optimizer and :math:`\eta_t \lambda_t` learning rate times strength,

    .. math:: w \leftarrow \mathrm{prox}_{\eta_t \lambda_t}(w + u) .

    It belongs behind the optimizer, which scales its update by the learning rate:
    ``optax.chain(optax.sgd(rate), proximal(1e-4, learning_rate=rate))``. A gradient of the penalty in the loss would
    only come near zero.

    Args:
      strength: :math:`\lambda`, 0 or more, or a schedule of it by step.
      prox: a function of a kernel and a strength, for example ``prox_group_sparsity``.
      learning_rate: :math:`\eta`, or its schedule.
      factors: gives, for the tree of parameters that take the step, by what the strength of each is multiplied.
      mask: which parameters take the step: a tree of bools or a function of the parameters.

    Returns:
      An optax transformation, whose ``update`` needs the parameters.

    Raises:
      ValueError: the strength or the learning rate is negative, or ``update`` is called without parameters.

    Example:
      >>> optimizer = optax.chain(optax.sgd(0.5), proximal(1.0, learning_rate=0.5))
      >>> params = {"kernel": jnp.array([[3.0, -2.0, 0.2]])}
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
      >>> print(optax.apply_updates(params, updates)["kernel"])
      [[ 1.75 -0.75  0.  ]]

    References:
      Parikh, Boyd, `Proximal Algorithms <https://web.stanford.edu/~boyd/papers/prox_algs.html>`_, 2014, section 4.2.
    """
    if not callable(strength):
        check_strength(strength)
    if not callable(learning_rate):
        check_strength(learning_rate, "learning_rate")

    def init(_: Any) -> ProximalState:
        return ProximalState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: ProximalState, params: Any = None) -> tuple[Any, ProximalState]:
        if params is None:
            raise ValueError("params=None: a proximal step needs the parameters; call update(updates, state, params).")
        step = _at(strength, state.step) * _at(learning_rate, state.step)
        factor = jax.tree.map(lambda _: 1.0, params) if factors is None else factors(params)
        # What is added to the parameter again: minus itself gives an exact zero.
        moves = jax.tree.map(
            lambda update, param, factor: prox(param + update, factor * step) - param, updates, params, factor
        )
        return moves, ProximalState(optax.safe_increment(state.step))

    return optax.masked(optax.GradientTransformation(init, update), mask)


def _at(value: optax.ScalarOrSchedule, step: jax.Array) -> Any:
    return value(step) if callable(value) else value
