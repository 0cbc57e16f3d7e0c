"""Groups of devices that share the statistics of a batch, instead of all devices."""

import re

import chex
import jax
import numpy as np
import pytest
from pydantic import ValidationError
from training_cases import (
    Steps,
    draw_batch,
    numpy_cross_entropy,
    numpy_mlp,
    scaled,
    tiny_config,
    tiny_info,
    uneven_mask,
)

from normjax.data import MemorySource
from normjax.data.transforms import identity
from normjax.errors import UserError
from normjax.training.config import NormConfig
from normjax.training.evaluate import Evaluator
from normjax.training.session import build_session

MOMENTUM = 0.9


def steps_with(size, mode="pmap", name="batch_norm", **changes):
    return Steps(
        tiny_config(mode, norm=NormConfig(name=name, momentum=MOMENTUM, sync_devices=size), **changes), devices=8
    )


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_group_is_normalised_by_itself_and_the_running_statistics_are_their_mean(size, mode):
    steps, batch = steps_with(size, mode), scaled(draw_batch())
    before = steps.start()
    after, (told,) = steps.run([batch], before)
    rows = np.split(np.arange(32), 8 // size)
    variables = {"params": before.params, **before.model_state}
    losses = [numpy_cross_entropy(numpy_mlp(variables, batch["image"][r]), batch["label"][r]) for r in rows]
    np.testing.assert_allclose(told.loss, np.concatenate(losses).mean(), rtol=1e-5)
    kernel = np.asarray(before.params["dense0"]["kernel"], np.float64)
    inputs = [batch["image"][r].reshape(len(r), -1) @ kernel for r in rows]
    for name, of_batch in (("mean", [x.mean(0) for x in inputs]), ("var", [x.var(0) for x in inputs])):
        old = before.model_state["batch_stats"]["norm0"][name]
        expected = MOMENTUM * old + (1 - MOMENTUM) * np.mean(of_batch, axis=0)
        np.testing.assert_allclose(after.model_state["batch_stats"]["norm0"][name], expected, rtol=1e-5, atol=1e-6)


def test_all_devices_keep_the_same_state():
    steps = steps_with(2, micro_batches=2)
    state = steps.parallel.replicate(steps.start())
    for seed in range(3):
        state, _ = steps.step(state, steps.parallel.shard(scaled(draw_batch(seed=seed))))
    for leaf in jax.tree.leaves(state):
        np.testing.assert_array_equal(leaf, np.broadcast_to(np.asarray(leaf)[:1], leaf.shape))


def test_one_group_of_all_devices_is_what_there_is_without_groups():
    batches = [draw_batch(seed=seed, valid=uneven_mask(32, (4, 1, 4, 2, 4, 3, 4, 4))) for seed in range(2)]
    (all_, _), (none, _) = (steps_with(size).run(batches) for size in (8, None))
    jax.tree.map(np.testing.assert_array_equal, all_, none)


@pytest.mark.parametrize("name", ["ghost_batch_norm", "batch_renorm", "decorrelated_batch_norm"])
def test_other_norms_take_groups_as_well(name):
    options = {"ghost_batch_norm": {"ghost_batch_size": 4}, "decorrelated_batch_norm": {"group_size": 2}}.get(name, {})
    config = tiny_config(norm=NormConfig(name=name, sync_devices=4, options=options))
    steps, batch = Steps(config, devices=8), draw_batch()
    before = jax.tree.map(np.asarray, steps.session.initial_state())
    state, told = steps.step(steps.parallel.replicate(before), steps.parallel.shard(batch))
    for leaf in jax.tree.leaves(state):
        np.testing.assert_array_equal(leaf, np.broadcast_to(np.asarray(leaf)[:1], leaf.shape))
    # Each group alone, on four devices of its own: the mean of both is what all eight keep.
    halves = [{name: value[rows] for name, value in batch.items()} for rows in (slice(16), slice(16, 32))]
    alone = [Steps(config.model_copy(update={"batch_size": 16}), devices=4).run([half], before) for half in halves]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *(after.model_state for after, _ in alone))
    chex.assert_trees_all_close(steps.parallel.fetch(state).model_state, mean, rtol=1e-5, atol=1e-6)
    losses = [one.loss for _, (one,) in alone]
    np.testing.assert_allclose(steps.parallel.fetch(told).loss, np.mean(losses), rtol=1e-5)


def test_a_trained_network_is_used_on_any_number_of_devices():
    # A run with groups of two, or a batch of 32, could not be evaluated on one device, or on three.
    config = tiny_config(norm=NormConfig(sync_devices=2))
    state, _ = Steps(config, devices=8).run([draw_batch()])
    images = draw_batch(50, seed=1)
    source = MemorySource("test", tuple("0123456789"), images["image"], images["label"])
    scores = []
    for devices in (1, 3, 8):
        session = build_session(config, tiny_info(), jax.devices()[:devices], training=False)
        scores.append(Evaluator(session).score(session.parallel.replicate(state), source, identity()))
    for score in scores[1:]:
        np.testing.assert_array_equal(score.confusion, scores[0].confusion)
        assert score.loss == pytest.approx(scores[0].loss, rel=1e-6)


def test_groups_that_cannot_be_are_refused():
    with pytest.raises(
        UserError, match=re.escape("norm.sync_devices=3 does not divide the 8 devices; use one of [1, 2, 4, 8].")
    ):
        steps_with(3)
    with pytest.raises(ValidationError, match="sync_devices=2 has no meaning with name=layer_norm"):
        NormConfig(name="layer_norm", sync_devices=2)
