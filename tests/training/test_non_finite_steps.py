"""Fault 7: a step that is not finite changes nothing, batch statistics included.

The ImageNet example of Flax restores parameters and optimizer on such a step, but keeps the poisoned statistics.
"""

import jax
import numpy as np
import pytest
from training_cases import Steps, draw_batch, scaled, tiny_config

from normjax.training.config import NormConfig, OptimizerConfig

WHOLE = ("params", "model_state", "opt_state", "ema")
MOMENTUM_AND_DECAY = OptimizerConfig(learning_rate=0.1, momentum=0.9, weight_decay=1e-2)


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def good(seed):
    return scaled(draw_batch(seed=seed))


def bad(rows=slice(None), value=np.nan):
    batch = good(9)
    batch["image"][rows] = value
    return batch


@pytest.fixture(scope="module")
def steps():
    """The step on 8 devices, with everything a state may hold."""
    return Steps(tiny_config(optimizer=MOMENTUM_AND_DECAY, ema_decay=0.9), devices=8)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_batch_leaves_every_number_as_it_was(steps, value):
    before, _ = steps.run([good(0), good(1)])
    after, told = steps.run([bad(value=value), bad(value=value)], before)
    for name in WHOLE:
        assert_same_bits(getattr(after, name), getattr(before, name))
    assert (after.step, after.updates, after.skipped_in_row) == (4, 2, 2)
    assert [m.skipped_in_row for m in told] == [1, 2]


def test_the_next_good_batch_goes_on_as_if_the_bad_one_had_never_been(steps):
    with_bad, told = steps.run([good(0), bad(), bad(), good(1), bad(), good(2)])
    without, _ = steps.run([good(0), good(1), good(2)])
    for name in (*WHOLE, "updates", "skipped_in_row"):
        assert_same_bits(getattr(with_bad, name), getattr(without, name))
    assert [m.skipped_in_row for m in told] == [0, 1, 2, 0, 1, 0]
    assert (with_bad.step, with_bad.updates, with_bad.skipped_in_row) == (6, 3, 0)


@pytest.mark.parametrize("row", [0, 13, 31])
def test_one_bad_row_on_one_device_stops_all_devices(steps, row):
    # Every device must decide alike, else their copies part.
    before, _ = steps.run([good(0)])
    state = steps.parallel.replicate(before)
    state, _ = steps.step(state, steps.parallel.shard(bad(row)))
    for name in WHOLE:
        start = getattr(before, name)
        jax.tree.map(
            lambda new, old: np.testing.assert_array_equal(new, np.stack([old] * 8)), getattr(state, name), start
        )
    np.testing.assert_array_equal(state.skipped_in_row, np.ones(8))


def test_a_norm_of_single_examples_does_not_keep_the_nan_from_the_other_devices():
    # Without shared statistics only one device's loss is NaN: the decision must be taken on the sums.
    with jax.numpy_rank_promotion("allow"):  # Flax's LayerNorm promotes ranks
        steps = Steps(tiny_config("shard_map", norm=NormConfig(name="layer_norm")), devices=4)
        before = steps.start()
        after, (told,) = steps.run([bad(13)], before)
    assert_same_bits(after.params, before.params)
    assert told.skipped_in_row == 1


def test_infinite_statistics_under_a_finite_loss_are_not_kept(steps):
    # The fault in its purest form: squares overflow, so the variance is infinite, every normalised value is 0, and loss
    # and gradients are finite. On each device: two rows of zeros, one of huge numbers, and the opposite of that.
    before, _ = steps.run([good(0)])
    huge = good(1)
    rows = huge["image"].reshape(8, 4, 4, 4, 1)
    rows[:, :2], rows[:, 2] = 0, 1e25 * rows[:, 2]
    rows[:, 3] = -rows[:, 2]
    after, (told,) = steps.run([huge], before)
    assert np.isfinite(told.loss)
    assert np.isfinite(told.gradient_norm)
    for name in WHOLE:
        assert_same_bits(getattr(after, name), getattr(before, name))
    assert told.skipped_in_row == 1


def test_in_micro_batches_one_bad_part_stops_the_step():
    # The statistics of the good part are pooled before the bad one is seen.
    steps = Steps(tiny_config(optimizer=MOMENTUM_AND_DECAY, micro_batches=2))
    before = steps.start()
    for rows in (slice(0, 4), slice(28, 32)):
        after, (told,) = steps.run([bad(rows)], before)
        for name in WHOLE:
            assert_same_bits(getattr(after, name), getattr(before, name))
        assert told.skipped_in_row == 1


def test_an_update_that_overflows_is_not_taken():
    # Loss and gradient are finite, but the rate times the gradient is not: infinite weights would stay for good.
    steps = Steps(tiny_config(optimizer=OptimizerConfig(learning_rate=3e38, momentum=0, weight_decay=0), ema_decay=0.9))
    before = steps.start()
    batch = good(0)
    batch["label"][:] = 3  # a gradient of the head's bias near 1
    before = before.replace(params=jax.tree.map(lambda leaf: leaf * np.float32(4), before.params))
    after, (told,) = steps.run([batch], before)
    assert np.isfinite(told.loss)
    assert np.isfinite(told.gradient_norm)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((after.params, after.ema)))
