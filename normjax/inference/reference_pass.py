"""The reference pass: takes the statistics by which ReferenceBatchNorm layers normalise."""

from typing import Any

import jax
import numpy as np
from flax import linen as nn

from normjax.inference.arguments import arguments_of
from normjax.linen.statistics import REFERENCE_STATS


def reference_pass(model: nn.Module, variables: Any, batch: Any, **options: Any) -> dict[str, Any]:
    """Takes the reference statistics of every ``ReferenceBatchNorm`` of a model from one batch.

    Each layer normalises the reference batch by its own statistics, so that deeper layers see what they see in
    training. A pure function: it can be jitted, mapped over devices that share the batch, and differentiated.
    Statistics belong to the weights they were taken under; take them anew when the weights have moved.

    Args:
      model: a Flax Linen model.
      variables: its variables; they stay as they are.
      batch: the reference batch, 64 to 256 examples of all classes; a tuple gives several positional arguments,
        a dictionary keyword arguments.
      **options: further keyword arguments of the model, for example ``train=False``.

    Returns:
      The variables with the new ``reference_stats``.

    Raises:
      ValueError: the model has no such layer, or the batch has no valid example (one that is masked out as a
        whole is not noticed while the call is traced).

    Example:
      >>> import jax.numpy as jnp
      >>> from normjax.linen import ReferenceBatchNorm
      >>> layer = ReferenceBatchNorm(use_running_average=False)
      >>> reference = jnp.array([[1.0], [3.0]])
      >>> variables = layer.init(jax.random.key(0), reference)
      >>> print(reference_pass(layer, variables, reference)["reference_stats"]["mean"])
      [2.]
    """
    arguments, keywords = arguments_of(batch)
    _, updated = model.apply(variables, *arguments, **keywords, **options, mutable=[REFERENCE_STATS])
    statistics = updated.get(REFERENCE_STATS)
    if not statistics:
        raise ValueError(
            f"{type(model).__name__} has no ReferenceBatchNorm that the reference pass reaches, so there is nothing "
            "to take (in lifted transformations, name 'reference_stats' where 'batch_stats' is named)."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(statistics):
        counts = jax.tree_util.keystr(path).endswith("['count']") and not isinstance(leaf, jax.core.Tracer)
        if counts and not np.asarray(leaf).all():
            raise ValueError(f"the reference batch is empty: {jax.tree_util.keystr(path)} counts no valid value.")
    return {**variables, REFERENCE_STATS: statistics}
