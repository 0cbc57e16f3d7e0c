"""Fault 8: batch statistics under gradient accumulation.

Each micro-batch is normalised by its own statistics, and the running statistics move once, by the moments of all
micro-batches together. The plain form: one apply a micro-batch, then the rules of mean and variance.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_cases import Steps, draw_batch, scaled, tiny_config, uneven_mask

from normjax.linen import make_norm
from normjax.models import build_model
from normjax.training.config import NormConfig

RATE, MOMENTUM = 0.1, 0.9
# A model whose running statistics are those of the last batch, and which knows no devices.
PLAIN = build_model("mlp", num_classes=10, norm=make_norm("batch_norm", momentum=0.0), widths=(8, 6))


def plain_step(state, parts):
    """Parameters and statistics after one step over micro-batches, each applied by itself."""

    model_state = jax.tree.map(jnp.asarray, state.model_state)

    @jax.jit
    def gradient(params, part):
        def loss(params):
            logits, updated = PLAIN.apply(
                {"params": params, **model_state}, part["image"], train=True, mask=part["mask"], mutable=True
            )
            log_probability = jnp.take_along_axis(jax.nn.log_softmax(logits), part["label"][:, None], 1)[:, 0]
            return -(log_probability * part["mask"]).sum() / part["mask"].sum(), updated["batch_stats"]

        return jax.grad(loss, has_aux=True)(params)

    told = [jax.tree.map(np.float64, gradient(state.params, part)) for part in parts]
    weights = np.array([part["mask"].sum() for part in parts], np.float64)
    weights /= weights.sum()

    def average(trees):
        return jax.tree.map(lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)), *trees)

    params = jax.tree.map(lambda p, g: p - RATE * g, state.params, average([gradients for gradients, _ in told]))
    running = {}
    for name, old in state.model_state["batch_stats"].items():
        means = [stats[name]["mean"] for _, stats in told]
        mean = average(means)
        # Mean of the variances plus variance of the means.
        variance = average([stats[name]["var"] for _, stats in told]) + average([(m - mean) ** 2 for m in means])
        running[name] = {
            "mean": MOMENTUM * old["mean"] + (1 - MOMENTUM) * mean,
            "var": MOMENTUM * old["var"] + (1 - MOMENTUM) * variance,
        }
    return params, running


def micro_batches(batch, parts, devices=1):
    """The rows of each micro-batch: a device splits its own rows, so they come from all devices."""
    rows = np.arange(len(batch["label"])).reshape(devices, parts, -1)
    return [{name: value[rows[:, i].ravel()] for name, value in batch.items()} for i in range(parts)]


def full_mask(size=32):
    return np.ones(size, bool)


@pytest.mark.parametrize("counts", ["equal", "unequal"])
def test_a_step_is_that_of_its_micro_batches_one_by_one(counts):
    parts = 4
    valid = full_mask() if counts == "equal" else uneven_mask(32, (8, 3, 5, 6))
    # Rows of one micro-batch are alike, so that its mean is far from that of the next.
    batch = scaled(draw_batch(valid=valid))
    batch["image"] += np.repeat(np.arange(4, dtype=np.float32), 8)[:, None, None, None]
    steps = Steps(tiny_config(micro_batches=parts))
    state = steps.start()
    after, (metrics,) = steps.run([batch], state)
    params, running = plain_step(state, micro_batches(batch, parts))
    chex.assert_trees_all_close(after.params, params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(after.model_state["batch_stats"], running, rtol=1e-5, atol=1e-6)
    assert metrics.examples == valid.sum()
    assert after.updates == 1
    # The collection that pools the moments does not stay behind in the state.
    assert set(after.model_state) == {"batch_stats"}


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_devices_share_each_micro_batch(mode):
    # On 8 devices micro-batch i is the i-th part of every device's rows, masked unequally.
    batch = scaled(draw_batch(valid=uneven_mask(32, (4, 1, 2, 3, 4, 0, 2, 1))))
    steps = Steps(tiny_config(mode, micro_batches=2), devices=8)
    state = steps.start()
    after, (metrics,) = steps.run([batch], state)
    params, running = plain_step(state, micro_batches(batch, 2, devices=8))
    chex.assert_trees_all_close(after.params, params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(after.model_state["batch_stats"], running, rtol=1e-5, atol=1e-6)
    assert metrics.examples == 17


def test_eight_devices_accumulate_as_one_does():
    # Several steps, the rows dealt so that each micro-batch holds the same ones.
    batches = [scaled(draw_batch(seed=seed, valid=uneven_mask(32, (4, 1, 2, 3, 4, 0, 2, 1)))) for seed in range(4)]
    one, eight = (Steps(tiny_config(micro_batches=2), devices=devices) for devices in (1, 8))
    dealt = [
        {name: np.concatenate([part[name] for part in micro_batches(batch, 2, devices=8)]) for name in batch}
        for batch in batches
    ]
    (after_one, told_by_one), (after_eight, told_by_eight) = one.run(dealt), eight.run(batches)
    chex.assert_trees_all_close(after_eight, after_one, rtol=0, atol=1e-5)
    chex.assert_trees_all_close(told_by_eight, told_by_one, rtol=1e-4, atol=1e-5)


def test_without_batch_statistics_accumulation_equals_the_full_batch():
    # A norm of single examples: the micro-batches are then nothing but a way to save memory.
    config = tiny_config(norm=NormConfig(name="layer_norm"))
    batches = [draw_batch(seed=seed, valid=uneven_mask(32, (8, 3, 0, 6))) for seed in range(3)]
    with jax.numpy_rank_promotion("allow"):  # Flax's LayerNorm promotes ranks
        whole = Steps(config)
        state = whole.start()
        after, told = whole.run(batches, state)
        in_parts = Steps(config.model_copy(update={"micro_batches": 4}))
        after_parts, told_parts = in_parts.run(batches, state)
    chex.assert_trees_all_close(after_parts, after, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(told_parts, told, rtol=1e-5, atol=1e-6)
