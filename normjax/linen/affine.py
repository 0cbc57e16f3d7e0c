"""Scale and bias, as all Linen norms hold them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import canonicalize_dtype

from normjax.functional.rules import Affine


def take(module: Any, x: Any, features: tuple[int, ...]) -> tuple[jax.Array, Affine]:
    """The input as an inexact array, and the parameters ``scale`` and ``bias`` that go with it.

    Args:
      module: a norm with the fields ``use_scale``, ``scale_init``, ``use_bias``, ``bias_init``, ``param_dtype`` and
        ``dtype``.
      x: its input.
      features: shape of the parameters.
    """
    assert isinstance(module, nn.Module)
    x = jnp.asarray(x)
    scale = module.param("scale", module.scale_init, features, module.param_dtype) if module.use_scale else None
    bias = module.param("bias", module.bias_init, features, module.param_dtype) if module.use_bias else None
    scale, bias = (None if value is None else jnp.asarray(value) for value in (scale, bias))
    given = [array for array in (x, scale, bias) if array is not None]
    affine = Affine(scale, bias, canonicalize_dtype(*given, dtype=module.dtype))
    return (x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)), affine
