"""The detector as a network: its outputs lie in the order of its locations, and its backbone is that of ConvNet."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import normjax
from normjax.models import ConvNet, Detector
from normjax.models.detector import Backbone, locations

SIZE = 32


@pytest.fixture(scope="module")
def detector():
    model = Detector(3, normjax.make_norm("batch_norm"), widths=(4, 8), features=8, prototypes=2)
    return model, model.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 1)))


def test_outputs_and_locations_have_one_order(detector):
    # A spot of light must matter most to what is said near it, on both levels. Group norm spreads a little of it.
    model, variables = detector
    where = locations((SIZE, SIZE), stages=2)
    ground = jax.random.normal(jax.random.key(1), (1, SIZE, SIZE, 1))
    said = model.apply(variables, ground)
    assert said.classes.shape == (1, len(where.x), 3)
    assert said.prototypes.shape == (1, SIZE, SIZE, 2)
    for x, y in [(4, 4), (27, 6), (8, 25), (26, 28)]:
        lit = model.apply(variables, ground.at[0, y - 2 : y + 2, x - 2 : x + 2].add(20.0))
        change = np.abs(lit.classes - said.classes).sum((0, 2))
        for stride in (2, 4):
            level = np.flatnonzero(where.stride == stride)
            distance = np.hypot(where.x[level] - x, where.y[level] - y)
            near, far = change[level][distance < 8].mean(), change[level][distance > 20].mean()
            assert near > 2 * far


def test_the_backbone_computes_what_the_network_computes(detector):
    # Parameters and statistics of a ConvNet go into the backbone under their own names.
    _, variables = detector
    norm = normjax.make_norm("batch_norm")
    network = ConvNet(10, norm, widths=(4, 8), dense=())
    x = jax.random.normal(jax.random.key(2), (2, SIZE, SIZE, 1))
    trained = network.init(jax.random.key(3), x, train=True)
    names = variables["params"]["backbone"].keys()
    assert set(trained["params"]) - set(names) == {"head"}
    backbone = Backbone(norm, (4, 8))
    parts = {kind: {name: trained[kind][name] for name in names if name in trained[kind]} for kind in trained}
    last = backbone.apply(parts, x)[-1]
    pooled = last.reshape(2, SIZE // 4, 2, SIZE // 4, 2, 8).max((2, 4)).reshape(2, -1)
    head = trained["params"]["head"]
    logits = network.apply(trained, x, train=False)
    chex.assert_trees_all_close(pooled @ head["kernel"] + head["bias"][None], logits, rtol=1e-4, atol=1e-5)


def test_sides_are_never_negative(detector):
    model, variables = detector
    said = model.apply(variables, 50 * jax.random.normal(jax.random.key(1), (2, SIZE, SIZE, 1)))
    assert float(said.sides.min()) > 0
    chex.assert_tree_all_finite(said)


def test_sizes_that_do_not_fit_the_strides_are_refused():
    with pytest.raises(ValueError, match="images of 36x36 do not fit the stride 8; use multiples of it"):
        locations((36, 36))
