"""What neurons see: pictures that make a neuron do what it does for an image, and how alike they are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from normjax.pruning.activations import reader
from normjax.tracing.neurons import Neurons


def feature_inversion(
    model: Any,
    variables: Any,
    neurons: Neurons,
    group: str,
    image: Any,
    *,
    steps: int = 500,
    learning_rate: float = 0.05,
    norm_weight: float = 1e-3,
    variation_weight: float = 1e-2,
    seed: int = 0,
    **options: Any,
) -> np.ndarray:
    r"""For each neuron of a group a picture on which it does what it does on an image.

    With :math:`\Phi_i` the activations of neuron i at all positions and N pixels,

    .. math:: x_i = \arg\min_x \frac{\|\Phi_i(x) - \Phi_i(x_0)\|^2}{\|\Phi_i(x_0)\|^2}
        + \frac{\lambda_\alpha}{N} \sum |x|^6
        + \frac{\lambda_v}{N} \sum_{hw} (x_{h+1,w} - x_{hw})^2 + (x_{h,w+1} - x_{hw})^2 ,

    by Adam from noise, the same for all neurons. The weights of the two priors are ours. A neuron that is silent on the
    image asks for silence: its error is not divided.

    Args:
      model: a Flax Linen model (or anything with ``apply(variables, images, **options)``).
      variables: its variables.
      neurons: as ``trace`` found them.
      group: of which neurons.
      image: (height, width, channels), as the model takes it.
      steps: of Adam.
      learning_rate: of Adam.
      norm_weight: lambda_alpha.
      variation_weight: lambda_v.
      seed: of the noise.
      **options: keyword arguments of the model at inference, for example ``train=False``.

    Returns:
      Pictures (neurons, height, width, channels).

    Raises:
      ValueError: there is no such group, its activations cannot be followed, or steps is below 1.

    Example:
      >>> from flax import linen as nn
      >>> from normjax.tracing.neurons import trace
      >>> model = nn.Sequential([nn.Conv(4, (3, 3)), nn.relu, lambda x: x.mean((1, 2)), nn.Dense(2)])
      >>> image = jnp.ones((6, 6, 1))
      >>> variables = model.init(jax.random.key(0), image[None])
      >>> neurons = trace(model, variables, image[None])
      >>> feature_inversion(model, variables, neurons, "layers_0", image, steps=2).shape
      (4, 6, 6, 1)

    References:
      Mahendran, Vedaldi, `Understanding Deep Image Representations by Inverting Them
      <https://arxiv.org/abs/1412.0035>`_, 2015.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}: use 1 or more.")
    image = jnp.asarray(image, jnp.float32)
    size = next((found.size for found in neurons.groups if found.name == group), 1)
    # One row for each neuron: its own picture.
    activations = reader(model, variables, neurons, group, jnp.zeros((size, *image.shape)), **options)
    rows = jnp.arange(size)
    wanted = activations(variables, jnp.broadcast_to(image, (size, *image.shape)))[0]
    power = (wanted**2).sum(1)
    scale = jnp.where(power > 0, power, 1.0)

    def loss(x: jax.Array) -> jax.Array:
        found = activations(variables, x)[rows, rows]
        error = ((found - wanted) ** 2).sum(1) / scale
        variation = (jnp.diff(x, axis=1) ** 2).sum() + (jnp.diff(x, axis=2) ** 2).sum()
        return error.sum() + (norm_weight * (x**6).sum() + variation_weight * variation) / image.size

    optimizer = optax.adam(learning_rate)

    @jax.jit
    def step(x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        updates, state = optimizer.update(jax.grad(loss)(x), state)
        return optax.apply_updates(x, updates), state

    noise = 0.1 * jax.random.normal(jax.random.key(seed), image.shape)
    x = jnp.broadcast_to(noise, (size, *image.shape))
    state = optimizer.init(x)
    # In Python: XLA runs convolutions in a loop slowly on CPU.
    for _ in range(steps):
        x, state = step(x, state)
    return np.asarray(x)


def redundancy(pictures: Any) -> np.ndarray:
    r"""How alike the pictures of neurons are: their correlation over all pixels.

    .. math:: R_{ij} = \frac{(x_i - \bar x_i) \cdot (x_j - \bar x_j)}{\|x_i - \bar x_i\| \|x_j - \bar x_j\|}

    Args:
      pictures: (neurons, ...), as of ``feature_inversion``, or the activations themselves over a batch, as a control.

    Returns:
      (neurons, neurons), 1 for neurons that see the same; a constant picture is like none but itself.

    Example:
      >>> print(redundancy([[0.0, 1.0], [0.0, 2.0], [1.0, 0.0]]))
      [[ 1.  1. -1.]
       [ 1.  1. -1.]
       [-1. -1.  1.]]
    """
    rows = np.asarray(pictures, np.float64).reshape(len(pictures), -1)
    rows = rows - rows.mean(1, keepdims=True)
    norms = np.sqrt((rows**2).sum(1, keepdims=True))
    rows = rows / np.where(norms > 0, norms, 1.0)
    alike = rows @ rows.T
    np.fill_diagonal(alike, 1.0)
    return np.clip(alike, -1, 1)
