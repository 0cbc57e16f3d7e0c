"""Many devices train as one does on the same global batch, whatever each of them holds of it.

Flax averages the devices' means (google/flax#2417) and its ImageNet example has no such test: with unequal counts on
the devices both gradients and statistics would be wrong.
"""

import chex
import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from training_cases import Steps, draw_batch, random_state, tiny_config, tiny_info, uneven_mask

from normjax.training.config import ModelConfig, OptimizerConfig, RunConfig, TrainConfig

COUNTS = (8, 1, 0, 5, 3, 8, 2, 7)  # valid rows of each of 8 devices


def digits_batches(count: int, size: int = 64) -> list[dict]:
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(images))[: count * size].reshape(count, size)
    labels = digits.target.astype(np.int32)
    masks = [uneven_mask(size, np.roll(COUNTS, i)) for i in range(count)]
    return [{"image": images[rows], "label": labels[rows], "mask": masks[i]} for i, rows in enumerate(order)]


def digits_steps(mode: str, devices: int) -> Steps:
    """What train.py does without options; 20 steps are its warm-up to the full rate."""
    info = tiny_info(side=8, mean=(0.3,), std=(0.38,), train_examples=1294)
    return Steps(TrainConfig(run=RunConfig(parallel=mode)), devices, info)


@pytest.fixture(scope="module")
def trained():
    """State and metrics after 20 steps, by mode and number of devices."""
    batches = digits_batches(20)
    cases = [("pmap", 1), ("pmap", 8), ("shard_map", 8)]
    start = digits_steps("pmap", 1).session.initial_state()
    return {(mode, devices): digits_steps(mode, devices).run(batches, start) for mode, devices in cases}


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_eight_devices_end_where_one_does(trained, mode):
    (one, told_by_one), (eight, told_by_eight) = trained["pmap", 1], trained[mode, 8]
    chex.assert_trees_all_close(eight.params, one.params, rtol=0, atol=1e-5)
    chex.assert_trees_all_close(eight.model_state, one.model_state, rtol=0, atol=1e-5)
    chex.assert_trees_all_close(eight.opt_state, one.opt_state, rtol=0, atol=1e-5)
    assert [m.examples for m in told_by_eight] == [sum(COUNTS)] * 20
    assert [m.correct for m in told_by_eight] == [m.correct for m in told_by_one]
    np.testing.assert_allclose([m.loss for m in told_by_eight], [m.loss for m in told_by_one], atol=1e-5)


def test_the_network_compared_has_learned(trained):
    # Equality of two networks that stood still would prove nothing.
    _, told = trained["pmap", 8]
    assert told[-1].loss < 0.5 * told[0].loss


def test_pmap_and_shard_map_agree(trained):
    chex.assert_trees_all_close(trained["pmap", 8], trained["shard_map", 8], rtol=0, atol=1e-6)


def test_every_device_holds_the_same_state():
    # A gradient or a statistic that misses its collective lets the copies drift apart; fetch() shows only the first.
    steps = Steps(tiny_config("pmap"), devices=8)
    state = steps.parallel.replicate(steps.start())
    for seed in range(3):
        state, _ = steps.step(state, steps.parallel.shard(draw_batch(seed=seed, valid=uneven_mask(32, (4, 1) * 4))))
    copies = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], state) for i in range(8)]
    for copy in copies[1:]:
        jax.tree.map(np.testing.assert_array_equal, copy, copies[0])


def test_a_residual_network_takes_the_same_step_on_eight_devices():
    # One step at a small rate: rounding grows a hundredfold with every step of a deep network.
    # The published network but for its widths, which are halved to compile faster.
    config = tiny_config(
        model=ModelConfig(name="resnet20", widths=(8, 16, 32)),
        optimizer=OptimizerConfig(learning_rate=0.01),
        label_smoothing=0.1,
    )
    info = tiny_info(side=16, channels=3)
    batch = draw_batch(32, side=16, channels=3, valid=uneven_mask(32, (4, 1, 0, 3, 2, 4, 1, 3)))
    one, eight = (Steps(config, devices, info) for devices in (1, 8))
    start = random_state(one.session)
    (after_one, (told_by_one,)), (after_eight, (told_by_eight,)) = (steps.run([batch], start) for steps in (one, eight))
    chex.assert_trees_all_close(after_eight.params, after_one.params, rtol=0, atol=1e-5)
    chex.assert_trees_all_close(after_eight.model_state, after_one.model_state, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(told_by_eight.loss, told_by_one.loss, rtol=1e-5)
    assert not np.allclose(after_one.params["stem"]["kernel"], start.params["stem"]["kernel"], rtol=0, atol=1e-4)
