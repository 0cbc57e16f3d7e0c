"""The structure that a network's kernels have: zeros, neurons that are dead, how neurons are scaled."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from normjax.functional.structural_weight_norm import as_flax
from normjax.inference.arguments import arguments_of
from normjax.inference.materialize import PARAMS, materialize
from normjax.linen.structural_weight_norm import WRAPPED, StructuralWeightNorm


class LayerStructure(NamedTuple):
    """What the kernel of one layer looks like, as the layer takes it."""

    path: tuple[str, ...]  # of the layer in the parameters
    shape: tuple[int, ...]  # of the kernel
    zeros: int  # weights that are exactly 0
    dead_inputs: np.ndarray  # numbers of the inputs that no weight reads
    dead_outputs: np.ndarray  # numbers of the outputs that read no input
    neuron_scales: np.ndarray | None  # of each unit, under measure="neuron"

    @property
    def weights(self) -> int:
        """Weights of the kernel."""
        return int(np.prod(self.shape))

    @property
    def sparsity(self) -> float:
        """Share of the weights that are exactly 0."""
        return self.zeros / self.weights


def weight_structure(model: nn.Module, variables: Any, batch: Any, **options: Any) -> list[LayerStructure]:
    """Zeros, dead neurons and neuron scales of each Dense, Conv and ConvTranspose, in the order they are called.

    A dead output gives its bias whatever comes in, and a dead input is read by no one: the neurons that pruning may
    take out first.

    Args:
      model: a Flax Linen model.
      variables: its variables.
      batch: an input of the model, for its shapes; a tuple gives several positional arguments, a dictionary keyword
        arguments.
      **options: further keyword arguments of the model, for example ``train=False``.

    Returns:
      One entry a layer; layers inside lifted transformations that stack their kernels are left out.

    Raises:
      ValueError: the model has none of these layers.

    Example:
      >>> model = StructuralWeightNorm(nn.Dense(4), base="none", measure="sparsity", strength=1.0)
      >>> x = jnp.ones((1, 6))
      >>> (layer,) = weight_structure(model, model.init(jax.random.key(0), x), x)
      >>> layer.shape, layer.zeros > 0, layer.dead_inputs
      ((6, 4), True, array([], dtype=int64))
    """
    arguments, keywords = arguments_of(batch)
    layers: dict[tuple[str, ...], nn.Module] = {}
    wrappers: dict[tuple[str, ...], StructuralWeightNorm] = {}

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name == "__call__":
            if isinstance(module, StructuralWeightNorm):
                wrappers[module.layer_instance.path] = module
            elif isinstance(module, WRAPPED):
                layers[module.path] = module
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda variables: model.apply(variables, *arguments, **keywords, **options), variables)
    params = variables[PARAMS]
    plain = materialize(model, variables, batch, **options).variables[PARAMS] if wrappers else params
    found = []
    for path, layer in layers.items():
        kernel = as_flax(_kernel(plain, path), layer)
        if kernel.ndim != len(getattr(layer, "kernel_size", ())) + 2:
            continue
        wrapper, scales = wrappers.get(path), None
        if wrapper is not None and wrapper.measure == "neuron":
            scales = np.asarray(wrapper.neuron_scales(_kernel(params, path)))
        found.append(_structure(path, np.asarray(kernel), getattr(layer, "feature_group_count", 1), scales))
    if not found:
        raise ValueError(f"{type(model).__name__} has no Dense, Conv or ConvTranspose that could be looked at.")
    return found


def _structure(
    path: tuple[str, ...], kernel: np.ndarray, feature_groups: int, scales: np.ndarray | None
) -> LayerStructure:
    used = (kernel != 0).reshape(-1, kernel.shape[-2], feature_groups, kernel.shape[-1] // feature_groups).any(0)
    # Inputs and outputs as the layer counts them: those of a feature group are neighbours.
    return LayerStructure(
        path,
        kernel.shape,
        int((kernel == 0).sum()),
        np.flatnonzero(~used.any(2).T.reshape(-1)),
        np.flatnonzero(~used.any(0).reshape(-1)),
        scales,
    )


def _kernel(params: Any, path: tuple[str, ...]) -> jax.Array:
    for name in path:
        params = params[name]
    return jnp.asarray(nn.meta.unbox(params["kernel"]))
