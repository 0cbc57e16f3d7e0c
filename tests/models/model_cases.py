"""Small forms of all networks, with parameters that are drawn instead of initialised."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from normjax.linen import make_norm
from normjax.models import build_model

CLASSES, BATCH, SIDE = 5, 4, 8  # one shape for all tests, so that JAX compiles each operation once
EPSILON = 0.1  # large, so that no feature that hardly varies in so small a batch blows up rounding errors
WIDTHS = {
    "mlp": (12, 8),
    "convnet": (4, 8),
    "vgg16": (4, 4, 6, 6, 8),
    "resnet20": (4, 8, 8),
    "resnet56": (4, 8, 8),
    "resnet50": (4, 4, 4, 4),
}
NETWORKS = list(WIDTHS)
# resnet56 is resnet20, and vgg16 the convnet, with more of the same.
FORMS = [name for name in NETWORKS if name not in ("resnet56", "vgg16")]
NORMS = {
    "batch_norm": {"momentum": 0.9, "epsilon": EPSILON},
    "layer_norm": {"epsilon": EPSILON},
    "group_norm": {"epsilon": EPSILON, "num_groups": 4},
}


def network(name: str, norm: str = "batch_norm", dtype: str = "float32", **options) -> nn.Module:
    factory = make_norm(norm, **{**NORMS[norm], **options})
    dense = {"convnet": (16,), "vgg16": (9, 8)}.get(name)
    return build_model(name, num_classes=CLASSES, norm=factory, widths=WIDTHS[name], dense=dense, dtype=dtype)


def images(side: int = SIDE, seed: int = 0) -> jax.Array:
    """Values of float32; of type float64 if that is enabled."""
    values = np.random.default_rng(seed).normal(size=(BATCH, side, side, 3)).astype(np.float32)
    return jnp.asarray(values, float)


def variables(net: nn.Module, x: jax.Array, seed: int = 0) -> dict:
    """Parameters and statistics drawn at random: no scale is zero or one, so that none of them can hide.

    They are of type float64 if the network computes in it.
    """
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, noise = path[-1].key, rng.normal(size=leaf.shape)
        if name == "kernel":
            noise *= np.sqrt(1 / np.prod(leaf.shape[:-1]))
        elif name == "var":
            noise = 0.5 + noise**2
        else:
            noise = 0.3 * noise + (name == "scale")
        return jnp.asarray(noise, jnp.promote_types(leaf.dtype, net.dtype))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def evaluate(net: nn.Module, state: dict, x: jax.Array) -> jax.Array:
    # Flax's own norms promote ranks; the strict mode of the tests is meant for ours.
    with jax.numpy_rank_promotion("allow"):
        return net.apply(state, x, train=False)


def train(net: nn.Module, state: dict, x: jax.Array, mask=None) -> tuple[jax.Array, dict]:
    """Logits, and the batch statistics after the step."""
    mask = None if mask is None else jnp.asarray(mask)
    with jax.numpy_rank_promotion("allow"):
        logits, updates = net.apply(state, x, train=True, mask=mask, mutable=["batch_stats"])
    return logits, updates.get("batch_stats", {})


def count(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def convolutions(net: nn.Module, x: jax.Array) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Kernel size and strides of each convolution, in the order they are computed."""
    state = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))
    equations = jax.make_jaxpr(lambda state, x: net.apply(state, x, train=False))(state, x).eqns
    return [
        (equation.invars[1].aval.shape[:2], equation.params["window_strides"])
        for equation in equations
        if equation.primitive.name == "conv_general_dilated"
    ]
