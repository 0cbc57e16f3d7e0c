"""BatchNorm under the lifted transforms of Linen (remat, scan, vmap): as Flax's own does."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from oracles import numpy_moments

import normjax

DEPTH, WIDTH = 2, 4
WITHOUT_MOMENTS = {"params": 0, "batch_stats": 0}
WITH_MOMENTS = {**WITHOUT_MOMENTS, "batch_moments": 0}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) + 0.5, jnp.float32)


class Block(nn.Module):
    """A residual block around the norm under test."""

    norm: type[nn.Module]

    @nn.compact
    def __call__(self, x, mask=None):
        y = nn.Dense(WIDTH, name="dense")(x)
        y = self.norm(use_running_average=False, momentum=0.75, name="norm")(y, mask=mask)
        return x + jnp.tanh(y), None


class Model(nn.Module):
    """Two blocks: one after the other, or two members of an ensemble that see the same input."""

    norm: type[nn.Module]
    transform: str
    variable_axes: dict

    @nn.compact
    def __call__(self, x, mask=None):
        if self.transform == "remat":
            return nn.remat(Block)(self.norm, name="last")(nn.remat(Block)(self.norm, name="blocks")(x, mask)[0], mask)[
                0
            ]
        lift = {"variable_axes": self.variable_axes, "split_rngs": {"params": True}}
        if self.transform == "vmap":
            return nn.vmap(Block, in_axes=None, axis_size=DEPTH, **lift)(self.norm, name="blocks")(x, mask)[0]
        block = nn.remat(Block) if self.transform == "scan of remat" else Block
        return nn.scan(block, in_axes=nn.broadcast, length=DEPTH, **lift)(self.norm, name="blocks")(x, mask)[0]


def flax_allowed(f, *args, **kwargs):
    """Flax itself relies on rank promotion, which the tests of normjax forbid."""
    with jax.numpy_rank_promotion("allow"):
        return f(*args, **kwargs)


def some_variables(model, x):
    """Shapes as `init` gives them, without compiling it; values that are neither 0 nor 1."""
    leaves, tree = jax.tree.flatten(flax_allowed(jax.eval_shape, model.init, jax.random.key(0), x))
    return jax.tree.unflatten(tree, [0.1 + jnp.abs(draw(*leaf.shape, seed=i)) for i, leaf in enumerate(leaves)])


def train(model, variables, x, mask):
    def loss(params):
        y, updates = model.apply({**variables, "params": params}, x, mask, mutable=["batch_stats"])
        return (y**2).sum(), (y, updates)

    return flax_allowed(jax.jit(jax.grad(loss, has_aux=True)), variables["params"])


@pytest.mark.parametrize(
    ("transform", "masked"), [("remat", True), ("scan", False), ("scan of remat", True), ("vmap", False)]
)
def test_a_lifted_model_trains_as_with_the_norm_of_flax(transform, masked):
    # The custom derivative under rematerialisation, statistics stacked by scan: output, state and gradients.
    x, mask = draw(6, WIDTH), jnp.arange(6)[:, None] < 4 if masked else None
    ours, theirs = (Model(norm, transform, WITHOUT_MOMENTS) for norm in (normjax.BatchNorm, nn.BatchNorm))
    variables = some_variables(ours, x)
    chex.assert_trees_all_equal_shapes(variables, some_variables(theirs, x))
    actual, expected = (train(model, variables, x, mask) for model in (ours, theirs))
    chex.assert_trees_all_close(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("transform", ["remat", "scan", "vmap"])
def test_moments_are_collected_inside_a_lifted_model(transform):
    # Lifting narrows what is mutable; the request must reach the layer, at `init` it must not.
    x, model = draw(6, WIDTH), Model(normjax.BatchNorm, transform, WITH_MOMENTS)
    variables = some_variables(model, x)
    assert "batch_moments" not in variables
    apply = jax.jit(lambda given: model.apply(given, x, mutable=["batch_moments"])[1])
    updates = flax_allowed(apply, variables)
    twice = flax_allowed(apply, {**variables, **updates})
    assert set(updates) == {"batch_moments"}

    dense = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"]["blocks"]["dense"])
    kernel, bias = dense["kernel"].reshape(-1, WIDTH, WIDTH)[0], dense["bias"].reshape(-1, WIDTH)[0]
    count, mean, m2 = numpy_moments(np.asarray(x, np.float64) @ kernel + bias, (0,))
    for passes, collected in ((1, updates), (2, twice)):
        first = [part.reshape(-1, WIDTH)[0] for part in collected["batch_moments"]["blocks"]["norm"]["moments"]]
        chex.assert_trees_all_close(first, [passes * count, mean, passes * m2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("transform", ["remat", "scan"])
def test_mutable_true_collects_nothing_inside_a_lifted_model(transform):
    # A model that names the collections of Flax to its transforms, and a caller who never heard of moments.
    x, model = draw(6, WIDTH), Model(normjax.BatchNorm, transform, WITHOUT_MOMENTS)
    variables = some_variables(model, x)
    named, everything = (
        flax_allowed(jax.jit(lambda given, m=m: model.apply(given, x, mutable=m)[1]), variables)
        for m in (["batch_stats"], True)
    )
    assert "batch_moments" not in everything
    chex.assert_trees_all_close(everything["batch_stats"], named["batch_stats"], rtol=1e-6)
