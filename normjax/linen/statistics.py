"""The statistics collections of the Linen layers: ``batch_stats``, ``batch_moments`` and ``reference_stats``."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from normjax.functional.comoments import union

BATCH_STATS = "batch_stats"
BATCH_MOMENTS = "batch_moments"
REFERENCE_STATS = "reference_stats"


def pool_batch_moments(module: nn.Module, batch: Any) -> Any:
    """Adds the moments of this batch to those of the earlier ones in ``batch_moments``.

    Only where the caller names ``batch_moments`` as mutable, and never at ``init``. Pass the
    collection back in to pool several batches, as gradient accumulation does.

    Args:
      module: the layer whose variable is kept.
      batch: the moments (or comoments) of this call, of all devices.

    Returns:
      All moments so far, or ``batch`` where the collection was not asked for.
    """
    if not collects_moments(module):
        return batch
    # Zeros are the moments of nothing.
    pooled = module.variable(BATCH_MOMENTS, "moments", lambda: jax.tree.map(jnp.zeros_like, batch))
    pooled.value = union(type(batch)(*pooled.value), batch)
    return pooled.value


def collects_moments(module: nn.Module) -> bool:
    """Whether the caller named ``batch_moments`` as mutable; ``mutable=True`` names nothing."""
    mutable = module.scope.mutable if module.scope is not None else False
    named = (
        mutable == BATCH_MOMENTS
        if isinstance(mutable, str)
        else (isinstance(mutable, Collection) and BATCH_MOMENTS in mutable)
    )
    return named and not module.is_initializing()


def updates_running_statistics(module: nn.Module) -> bool:
    """Whether this call moves ``batch_stats``.

    A caller that asks for ``batch_moments`` alone leaves the running statistics as they are; any
    other training call moves them, and Flax raises where the collection is not mutable.
    """
    if module.is_initializing():
        return False
    return module.is_mutable_collection(BATCH_STATS) or not collects_moments(module)


def takes_reference(module: nn.Module) -> bool:
    """Whether this call is a reference pass: ``reference_stats`` is mutable and ``batch_stats`` is not.

    Raises:
      ValueError: both are, as with ``mutable=True``, which says not which of the two is meant.
    """
    if module.is_initializing() or not module.is_mutable_collection(REFERENCE_STATS):
        return False
    if module.is_mutable_collection(BATCH_STATS):
        raise ValueError(
            f"{REFERENCE_STATS!r} and {BATCH_STATS!r} are both mutable, which is neither a training step nor a "
            f"reference pass; name {BATCH_STATS!r} alone to train, and take the reference by normjax.reference_pass."
        )
    return True
