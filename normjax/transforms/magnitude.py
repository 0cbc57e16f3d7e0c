"""Magnitude pruning after the step of an optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from normjax.transforms.decay import decay_mask
from normjax.transforms.proximal import ProximalState


def magnitude_pruning(sparsity: optax.ScalarOrSchedule, *, mask: Any = decay_mask) -> optax.GradientTransformation:
    r"""Sets the smallest weights of all kernels together to zero, where the optimizer arrived.

    With u the update of the optimizer and :math:`\tau_t` the magnitude that a share :math:`s_t` of all weights does
    not exceed,

    .. math:: w \leftarrow (w + u)\, [\, |w + u| > \tau_t \,] .

    It is the projection onto kernels with so many zeros (iterative hard thresholding): a weight that is zero comes
    back where a single update makes it larger than others. With a sparsity that rises from 0 it is gradual pruning.

    Args:
      sparsity: share of zeros, from 0 to below 1, or a schedule of it by step.
      mask: which parameters are pruned: a tree of bools or a function of the parameters.

    Returns:
      An optax transformation, whose ``update`` needs the parameters.

    Raises:
      ValueError: the sparsity is out of range, or ``update`` is called without parameters.

    Example:
      >>> pruning = magnitude_pruning(0.5)
      >>> params = {"kernel": jnp.array([[3.0, -2.0, 0.2, 1.0]])}
      >>> zeros = jax.tree.map(jnp.zeros_like, params)
      >>> updates, _ = pruning.update(zeros, pruning.init(params), params)
      >>> print(optax.apply_updates(params, updates)["kernel"])
      [[ 3. -2.  0.  0.]]

    References:
      Zhu, Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_, 2017 (gradual pruning).
    """
    if not callable(sparsity) and not 0 <= float(sparsity) < 1:
        raise ValueError(f"sparsity={float(sparsity):g} is out of range; use 0 to below 1.")

    def init(_: Any) -> ProximalState:
        return ProximalState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: ProximalState, params: Any = None) -> tuple[Any, ProximalState]:
        if params is None:
            raise ValueError("params=None: pruning needs the parameters; call update(updates, state, params).")
        share = sparsity(state.step) if callable(sparsity) else sparsity
        sizes = jax.tree.map(lambda update, param: _ordered(param + update), updates, params)
        total = sum(size.size for size in jax.tree.leaves(sizes))
        limit = _smallest(jax.tree.leaves(sizes), jnp.round(share * total))
        # What is added to the parameter again: minus itself gives an exact zero.
        pruned = jax.tree.map(
            lambda size, update, param: jnp.where(size <= limit, -param, update), sizes, updates, params
        )
        return pruned, ProximalState(optax.safe_increment(state.step))

    return optax.masked(optax.GradientTransformation(init, update), mask)


def _ordered(x: jax.Array) -> jax.Array:
    """Integers in the order of the magnitudes: the bits of a positive float32."""
    return lax.bitcast_convert_type(jnp.abs(x.astype(jnp.float32)), jnp.int32)


def _smallest(sizes: list[jax.Array], count: jax.Array) -> jax.Array:
    """The least number that ``count`` of the integers do not exceed; -1 where the count is 0.

    By bisection, bit by bit: sorting is slow in XLA for CPU.
    """

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = sum((size <= middle).sum() for size in sizes) >= count
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    most = jnp.array(jnp.iinfo(jnp.int32).max, jnp.int32)
    found, _ = lax.fori_loop(0, 31, halve, (jnp.zeros((), jnp.int32), most))
    return jnp.where(count > 0, found, -1)
