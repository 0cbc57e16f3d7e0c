"""Collectives in the compiled step: two for each batch norm, and one for everything else."""

import math
import re

import pytest
from training_cases import Steps, draw_batch, tiny_config, uneven_mask

from normjax.training.config import ModelConfig

COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast)(?:-start)?\("
)


def collectives(steps, batch):
    """Kind and number of results of each collective that XLA leaves in the step's program, sorted."""
    arguments = steps.parallel.replicate(steps.start()), steps.parallel.shard(batch)
    lines = steps.step.lower(*arguments).compile().as_text().splitlines()
    found = [match for line in lines if (match := COLLECTIVE.search(line))]
    return sorted((match[2], numbers(match[1])) for match in found)


def numbers(results):
    """How many there are in `(f32[8,4]{1,0}, f32[])`."""
    return sum(math.prod(int(n) for n in sizes.split(",") if n) for sizes in re.findall(r"\[([\d,]*)\]", results))


@pytest.mark.parametrize(("mode", "masked"), [("pmap", False), ("shard_map", False), ("pmap", True)])
def test_n_norms_cost_2n_plus_1_collectives(mode, masked):
    # Forward: one gather of the moments each. Backward: one sum each. Then all gradients, loss and counts in one sum:
    # small collectives cost latency, and a program that sums each leaf by itself scales badly.
    norms = 3  # two of the stage, one of the dense layer
    config = tiny_config(
        mode, model=ModelConfig(name="convnet", widths=(4,), dense=(8,)), label_smoothing=0.1, ema_decay=0.9
    )
    batch = draw_batch(16, valid=uneven_mask(16, (4, 1, 0, 2)) if masked else None)
    kinds = [kind for kind, _ in collectives(Steps(config, devices=4), batch)]
    assert kinds == ["all-gather"] * norms + ["all-reduce"] * (norms + 1)


def test_micro_batches_share_the_sum_of_gradients():
    # Statistics belong to each micro-batch; gradients, loss and counts cross the devices once, after the last.
    # XLA may put sums together, so it is the numbers they hold that are counted.
    features, parts = 8 + 6, 3
    steps = Steps(tiny_config(micro_batches=parts, batch_size=48), devices=4)
    summed = sum(count for kind, count in collectives(steps, draw_batch(48)) if kind == "all-reduce")
    parameters = 16 * 8 + 8 * 6 + 6 * 10 + 10 + 2 * features
    assert summed == parameters + 3 + 2 * features * parts
