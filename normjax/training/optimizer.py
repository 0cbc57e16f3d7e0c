"""From a config to the learning rate's course and the optimizer."""

import re
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np
import optax

from normjax.functional import prox_exclusive_sparsity, prox_group_sparsity, prox_l1
from normjax.models.common import HEAD
from normjax.training.config import OptimizerConfig, ProximalConfig, ScheduleConfig
from normjax.transforms import decay_mask, magnitude_pruning, proximal


class Scheduled(Protocol):
    """A config with a course of the learning rate."""

    @property
    def epochs(self) -> float: ...

    @property
    def optimizer(self) -> OptimizerConfig: ...

    @property
    def schedule(self) -> ScheduleConfig: ...


def make_schedule(config: Scheduled, total_steps: int) -> optax.Schedule:
    """Learning rate by optimizer step.

    Args:
      config: of the run; epochs are turned into steps by their share of the training.
      total_steps: steps of the whole training.

    Returns:
      A function of the step.

    References:
      Loshchilov, Hutter, `SGDR <https://arxiv.org/abs/1608.03983>`_, 2017 (cosine).
      Smith, Topin, `Super-Convergence <https://arxiv.org/abs/1708.07120>`_, 2018 (one-cycle).
    """
    options, peak = config.schedule, config.optimizer.learning_rate
    if options.name == "one_cycle":
        return optax.cosine_onecycle_schedule(total_steps, peak, pct_start=options.peak)
    warmup = round(total_steps * options.warmup_epochs / config.epochs)
    after = max(1, total_steps - warmup)
    match options.name:
        case "cosine":
            course = optax.cosine_decay_schedule(peak, after)
        case "step":
            # Milestones are shares of the whole training, warm-up included.
            steps = {round(share * total_steps) - warmup: options.factor for share in options.milestones}
            course = optax.piecewise_constant_schedule(peak, steps)
        case _:
            course = optax.constant_schedule(peak)
    if warmup == 0:
        return course
    # The first step already moves: it has 1/warmup of the peak.
    rise = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.join_schedules([rise, course], [warmup])


def make_optimizer(options: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with momentum and L2 decay as part of the gradient, or AdamW with decay apart from it.

    Args:
      options: the ``optimizer`` section.
      schedule: learning rate by step.

    References:
      He et al., `Deep Residual Learning <https://arxiv.org/abs/1512.03385>`_, 2016 (SGD with L2).
      Loshchilov, Hutter, `Decoupled Weight Decay Regularization <https://arxiv.org/abs/1711.05101>`_, 2019.
    """
    if options.name == "adamw":
        return optax.adamw(
            schedule, b1=options.momentum, b2=options.b2, weight_decay=options.weight_decay, mask=decay_mask
        )
    return optax.chain(
        optax.add_decayed_weights(options.weight_decay, mask=decay_mask),
        optax.sgd(schedule, momentum=options.momentum, nesterov=options.nesterov and options.momentum > 0),
    )


def make_proximal(
    options: ProximalConfig, schedule: optax.Schedule, total_steps: int
) -> optax.GradientTransformation | None:
    """The proximal step behind the optimizer's; None where no penalty is named.

    ``combined`` is that of CGES, group and exclusive sparsity in the shares of the authors, from the first layer to the
    last.

    Args:
      options: the ``proximal`` section.
      schedule: learning rate by step.
      total_steps: steps of the whole training.

    References:
      Yoon, Hwang, `Combined Group and Exclusive Sparsity for Deep Neural Networks
      <https://proceedings.mlr.press/v70/yoon17a.html>`_, 2017.
    """
    rise = round(options.rise * total_steps)
    match options.penalty:
        case "none":
            return None
        case "magnitude":
            # Fast at first, while many weights are of no use (Zhu, Gupta, 2017).
            share = optax.polynomial_schedule(0.0, options.strength, 3, rise) if rise else options.strength
            return magnitude_pruning(share, mask=hidden_kernels)
    strength = optax.linear_schedule(0.0, options.strength, rise) if rise else options.strength

    def members(kernel: jax.Array) -> tuple[int, ...]:
        return (-1,) if options.axis == "input" else tuple(range(kernel.ndim - 1))

    def exclusive(kernel: jax.Array, strength: Any) -> jax.Array:
        return prox_exclusive_sparsity(kernel, strength, members(kernel), options.rule)

    def group(kernel: jax.Array, strength: Any) -> jax.Array:
        return prox_group_sparsity(kernel, strength, members(kernel))

    options_of_all: dict[str, Any] = {"learning_rate": schedule, "mask": hidden_kernels}
    match options.penalty:
        case "exclusive_sparsity":
            return proximal(strength, prox=exclusive, **options_of_all)
        case "group_sparsity":
            return proximal(strength, prox=group, **options_of_all)
        case "l1":
            return proximal(strength, prox=prox_l1, **options_of_all)
    # The first layers lose whole groups, the last ones let weights compete (Yoon, Hwang, 2017).
    return optax.chain(
        proximal(strength, prox=group, factors=partial(_from_first_to_last, 0.8, 0.2), **options_of_all),
        proximal(strength, prox=exclusive, factors=partial(_from_first_to_last, 0.2, 0.8), **options_of_all),
    )


def _from_first_to_last(first: float, last: float, params: Any) -> Any:
    """Equally spaced numbers for the kernels, in the order in which our networks call their layers."""

    def place(path: tuple) -> tuple:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # Names as they are but for the stem, which is called first, and numbers, of which 2 comes before 10.
        return not name.startswith("stem"), [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]

    paths = sorted((path for path, _ in jax.tree_util.tree_leaves_with_path(params)), key=place)
    numbers = dict(zip(paths, np.linspace(first, last, len(paths)).tolist(), strict=True))
    return jax.tree_util.tree_map_with_path(lambda path, _: numbers[path], params)


def hidden_kernels(params: Any) -> Any:
    """True for the kernels of all layers but the last, which stays as it is (as under a weight norm)."""

    def hidden(path: tuple, kernel: bool) -> bool:
        return kernel and jax.tree_util.keystr(path[:1], simple=True) != HEAD

    return jax.tree_util.tree_map_with_path(hidden, decay_mask(params))
