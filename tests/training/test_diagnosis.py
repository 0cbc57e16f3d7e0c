"""Where the first value arose that is not finite: each kind of place is named, and the first of several."""

import jax
import numpy as np
import pytest
from training_cases import Steps, draw_batch, scaled, tiny_config

from normjax.training.config import NormConfig, OptimizerConfig
from normjax.training.diagnosis import first_non_finite

WITHOUT_NORM = {"norm": NormConfig(name="none")}


def place_of(steps, state, batch):
    return first_non_finite(steps.session, steps.parallel.replicate(state), steps.parallel.shard(batch))


def with_kernels(state, **factors):
    """The state with the kernels of some layers multiplied."""
    params = {
        layer: {**values, "kernel": values["kernel"] * np.float32(factors[layer])} if layer in factors else values
        for layer, values in state.params.items()
    }
    return state.replace(params=params)


@pytest.fixture(scope="module")
def steps():
    return Steps(tiny_config(), devices=8)


@pytest.fixture(scope="module")
def plain():
    return Steps(tiny_config(**WITHOUT_NORM), devices=8)


def test_a_sound_step_has_no_such_place(steps):
    assert place_of(steps, steps.start(), draw_batch()) is None


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
@pytest.mark.parametrize("row", [0, 31])
def test_one_bad_image_on_any_device_is_found(mode, row):
    steps, batch = Steps(tiny_config(mode), devices=8), scaled(draw_batch())
    batch["image"][row] = np.nan
    assert place_of(steps, steps.start(), batch) == "the images of the batch"


@pytest.mark.parametrize("layer", ["dense0", "dense1", "head"])
def test_a_layer_that_overflows_is_named(plain, layer):
    # All layers behind it give infinity or NaN too.
    state = with_kernels(plain.start(), **{layer: 1e38})
    batch = scaled(draw_batch())
    batch["image"] *= 1e3
    assert place_of(plain, state, batch) == f"the output of {layer}"


def test_statistics_that_overflow_under_finite_outputs_are_named(steps):
    # Squares overflow, so the variance is infinite, and every normalised value is 0.
    batch = scaled(draw_batch(seed=1))
    rows = batch["image"].reshape(8, 4, 4, 4, 1)
    rows[:, :2], rows[:, 2] = 0, 1e25 * rows[:, 2]
    rows[:, 3] = -rows[:, 2]
    place = place_of(steps, steps.start(), batch)
    assert place == "batch_stats/norm0/var, as this batch moves it"


def test_of_bad_gradients_the_one_nearest_to_the_loss_is_named(plain):
    # Forward, the factors cancel; backward, the gradient of dense1 is that of its output times a huge input's size.
    state = with_kernels(plain.start(), dense0=1e38, dense1=1e-38)
    batch = scaled(draw_batch())
    batch["label"][:] = 3
    place = place_of(plain, with_kernels(state, head=1e3), batch)
    assert place == "the gradient of dense1/kernel"


def test_an_update_that_overflows_is_named():
    steps = Steps(tiny_config(optimizer=OptimizerConfig(learning_rate=3e38, momentum=0, weight_decay=0)))
    state = steps.start()
    state = state.replace(params=jax.tree.map(lambda leaf: leaf * np.float32(4), state.params))
    batch = scaled(draw_batch())
    batch["label"][:] = 3
    place = place_of(steps, state, batch)
    assert place is not None
    assert place.endswith("as the optimizer moves it")


def test_masked_rows_are_no_fault(plain):
    batch = scaled(draw_batch(valid=[True] * 31 + [False]))
    state = plain.start()
    assert place_of(plain, state, batch) is None
