"""The training step lowers for CPU, CUDA and TPU from one program, and the CPU part of it is the step itself."""

import chex
import jax
import numpy as np
from jax import export
from training_cases import Steps, draw_batch, tiny_config, uneven_mask

from normjax.training.config import ModelConfig, OptimizerConfig

PLATFORMS = ("cpu", "cuda", "tpu")


def test_the_step_of_a_convolutional_network_lowers_for_all_platforms():
    # Export takes jitted functions only: the step goes by its shard_map form, here over two devices.
    config = tiny_config(
        "shard_map",
        model=ModelConfig(name="convnet", widths=(4,), dense=(8,)),
        optimizer=OptimizerConfig(name="adamw", learning_rate=0.01),
        label_smoothing=0.1,
        ema_decay=0.9,
    )
    steps = Steps(config, devices=2)
    state = steps.start()
    batch = draw_batch(16, valid=uneven_mask(16, (8, 3)))
    leaves, structure = jax.tree.flatten(state)

    @jax.jit
    def flat(leaves, batch):
        # Plain lists and dicts, which can travel as bytes.
        new, metrics = steps.step(jax.tree.unflatten(structure, leaves), batch)
        return jax.tree.leaves(new), tuple(metrics)

    placed = steps.parallel.replicate(leaves), steps.parallel.shard(batch)
    program = export.export(flat, platforms=PLATFORMS)(*placed)
    assert program.platforms == PLATFORMS
    assert program.nr_devices == 2
    new, metrics = jax.jit(export.deserialize(program.serialize()).call)(*placed)
    expected, (told,) = steps.run([batch], state)
    chex.assert_trees_all_close(jax.tree.unflatten(structure, new), expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(metrics, tuple(told), rtol=1e-5)
    assert np.isfinite(told.loss)
