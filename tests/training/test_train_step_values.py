"""One training step against numpy: scaling of the pixels, loss, counts, the update; and how it is compiled."""

import chex
import jax
import numpy as np
import pytest
from training_cases import (
    MEAN,
    STD,
    Steps,
    draw_batch,
    numpy_cross_entropy,
    numpy_mlp,
    scaled,
    tiny_config,
    uneven_mask,
)

from normjax.training.config import OptimizerConfig, ScheduleConfig
from normjax.training.step import Images

SMOOTHING, RATE = 0.2, 0.1
MODES = ("pmap", "shard_map")


@pytest.fixture(scope="module")
def smoothed():
    """Plain gradient descent, warmed up from a rate of 0.1 to 1 over 10 of 20 steps."""
    config = tiny_config(
        label_smoothing=SMOOTHING,
        optimizer=OptimizerConfig(learning_rate=10 * RATE, momentum=0, nesterov=False, weight_decay=0),
        schedule=ScheduleConfig(name="constant", warmup_epochs=2),
    )
    return Steps(config)


def test_uint8_pixels_are_scaled_per_channel():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), dtype=np.uint8)
    pixels.flat[:2] = 0, 255
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    expected = (pixels.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    result = Images(mean, std).scale(pixels)
    assert result.dtype == np.float32
    chex.assert_trees_all_close(result, expected.astype(np.float32), atol=1e-6)


def test_floats_are_taken_as_scaled(smoothed):
    # A batch of floats and the uint8 batch it was made of are one and the same to the step.
    batch = draw_batch()
    from_bytes, _ = smoothed.run([batch])
    from_floats, _ = smoothed.run([scaled(batch)])
    chex.assert_trees_all_close(from_bytes.params, from_floats.params, atol=1e-6)
    floats = np.array([[[[np.nan], [7.0]]]], np.float32)
    np.testing.assert_array_equal(Images((MEAN,), (STD,)).scale(floats), floats)


@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_counts_are_those_of_numpy(smoothed, masked):
    # Padding must count neither in the loss, nor in the right answers, nor in the divisor.
    batch = scaled(draw_batch(valid=uneven_mask(32, (5, 0, 8, 2)) if masked else None))
    logits = numpy_mlp({"params": smoothed.start().params}, batch["image"], mask=batch.get("mask"))
    # Some answers must be right for their number to be worth a comparison.
    batch["label"][::3] = logits.argmax(1)[::3]
    _, (metrics,) = smoothed.run([batch])
    valid = batch.get("mask", np.ones(32, bool))
    losses = numpy_cross_entropy(logits, batch["label"], SMOOTHING)
    assert metrics.examples == valid.sum()
    assert metrics.correct == (logits.argmax(1) == batch["label"])[valid].sum() > 0
    np.testing.assert_allclose(metrics.loss, losses[valid].mean(), rtol=1e-5)


def test_gradient_is_the_slope_of_the_numpy_loss(smoothed):
    # Two-sided differences of the float64 loss along the move; autodiff and its masks have no part in them.
    batch = scaled(draw_batch(valid=uneven_mask(32, (5, 1, 8, 2))))
    start = smoothed.start()
    after, (metrics,) = smoothed.run([batch], start)
    direction = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - b, after.params, start.params)

    def loss(along):
        params = jax.tree.map(lambda p, d: np.asarray(p, np.float64) + along * d, start.params, direction)
        logits = numpy_mlp({"params": params}, batch["image"], mask=batch["mask"])
        return numpy_cross_entropy(logits, batch["label"], SMOOTHING)[batch["mask"]].mean()

    slope = (loss(1e-4) - loss(-1e-4)) / 2e-4
    np.testing.assert_allclose(slope, -RATE * metrics.gradient_norm**2, rtol=1e-3)


def test_learning_rate_told_is_that_of_the_update(smoothed):
    # The first update has a tenth of the peak, not none; the rate told is the one the weights moved by.
    state = smoothed.start()
    for number in range(1, 4):
        before = state
        state, (metrics,) = smoothed.run([draw_batch(seed=number)], before)
        np.testing.assert_allclose(metrics.learning_rate, number * RATE, rtol=1e-6)
        moved = jax.tree.leaves(jax.tree.map(lambda a, b: np.asarray(a, np.float64) - b, state.params, before.params))
        length = np.sqrt(sum((leaf**2).sum() for leaf in moved))
        np.testing.assert_allclose(length, metrics.learning_rate * metrics.gradient_norm, rtol=1e-4)
    assert (state.step, state.updates, state.skipped_in_row) == (3, 3, 0)


@pytest.mark.parametrize("mode", MODES)
def test_the_step_is_traced_once(mode):
    # A state that comes back with another type (a weak one, say) than it went in with is compiled twice.
    steps = Steps(tiny_config(mode, ema_decay=0.9), devices=2)
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(steps.session.train_step, n=1)
    steps.step = steps.parallel.map(counted, ("replicated", "replicated"), donate=True)
    state, _ = steps.run([draw_batch(seed=seed) for seed in range(3)], steps.session.initial_state())
    assert state.updates == 3


@pytest.mark.parametrize("mode", MODES)
def test_the_old_state_gives_its_memory_to_the_new(mode):
    steps = Steps(tiny_config(mode, ema_decay=0.9), devices=2)
    old = steps.parallel.replicate(steps.start())
    new, _ = steps.step(old, steps.parallel.shard(draw_batch()))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))
