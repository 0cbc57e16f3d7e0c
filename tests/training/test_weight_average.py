"""The averaged weights: their formula, what they hold, and that they are what is evaluated."""

import chex
import jax
import numpy as np
from training_cases import MEAN, STD, Steps, draw_batch, numpy_mlp, random_state, tiny_config

from normjax.training.state import evaluated_variables, updated_average

DECAY = 0.3


def test_three_steps_of_the_average_are_those_of_numpy():
    # The decay grows as (1 + t)/(10 + t) to its limit: 1/10 and 2/11 are below 0.3, 3/12 too, 4/13 is above.
    steps = Steps(tiny_config(ema_decay=DECAY))
    state = steps.start()
    average = jax.tree.map(np.float64, {"params": state.params, **state.model_state})
    for t in range(5):
        state, _ = steps.run([draw_batch(seed=t)], state)
        kept = min(DECAY, (1 + t) / (10 + t))
        new = {"params": state.params, **state.model_state}
        average = jax.tree.map(lambda a, b, kept=kept: kept * a + (1 - kept) * b, average, new)
        chex.assert_trees_all_close(state.ema, average, rtol=1e-5, atol=1e-6)
    assert set(state.ema) == {"params", "batch_stats"}


def test_late_in_training_the_decay_is_the_one_asked_for():
    average = updated_average({"w": np.float32(1)}, {"w": np.float32(3)}, np.int32(100_000), 0.999)
    np.testing.assert_allclose(average["w"], 0.999 * 1 + 0.001 * 3, rtol=1e-6)


def test_the_average_begins_as_a_copy():
    # Were it the same buffers, the donated first step would delete them.
    state = Steps(tiny_config(ema_decay=DECAY)).session.initial_state()
    chex.assert_trees_all_close(state.ema, {"params": state.params, **state.model_state}, rtol=0, atol=0)


def test_averaged_weights_with_averaged_statistics_are_evaluated():
    # Averaged weights with the running statistics of the last ones would be nobody's network.
    steps = Steps(tiny_config(ema_decay=DECAY))
    state = random_state(steps.session, seed=0).replace(ema=evaluated_variables(random_state(steps.session, seed=1)))
    batch = {**draw_batch(), "mask": np.ones(32, bool)}
    evaluate = steps.parallel.map(steps.session.eval_step, ("replicated", "sharded"))
    _, logits = evaluate(steps.parallel.replicate(state), steps.parallel.shard(batch))
    expected = numpy_mlp(state.ema, (batch["image"] / 255 - MEAN) / STD, train=False)
    np.testing.assert_allclose(steps.parallel.gather(logits), expected, rtol=1e-4, atol=1e-5)


def test_without_an_average_the_last_weights_are_evaluated():
    state = Steps(tiny_config()).start()
    assert state.ema is None
    variables = evaluated_variables(state)
    assert variables["params"] is state.params
    assert variables["batch_stats"] is state.model_state["batch_stats"]
