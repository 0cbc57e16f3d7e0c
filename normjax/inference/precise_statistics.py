"""Population statistics of a trained network from many batches, with frozen weights."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from normjax.functional.comoments import Comoments, merge_comoments_of_devices, union
from normjax.functional.moments import Moments, canonical_axes, merge, merge_devices, moments
from normjax.functional.rules import BatchNormRule, RunningRule
from normjax.inference.arguments import arguments_of
from normjax.linen.running import RunningNorm
from normjax.linen.statistics import BATCH_MOMENTS, BATCH_STATS

Aggregation = Literal["pooled", "paper"]


class Precise(NamedTuple):
    """A network with the statistics of the population."""

    apply: Any
    variables: dict[str, Any]


def precise_statistics(
    model: nn.Module,
    variables: Any,
    batches: Iterable[Any],
    *,
    aggregation: Aggregation = "pooled",
    axis_name: str | None = None,
    devices: Sequence[jax.Device] | None = None,
    **options: Any,
) -> Precise:
    r"""Replaces the running statistics by those of the given batches under the final weights.

    Running averages lag behind the weights. ``pooled`` takes the moments of all values together, so
    that the variance is the mean of the batches' variances plus the variance of their means.
    ``paper`` is Algorithm 2 of the batch normalization paper, which has no second term:

    .. math:: E[x] = E_B[\mu_B], \qquad \mathrm{Var}[x] = \frac{m}{m - 1} E_B[\sigma_B^2].

    Every layer with running statistics takes part, ``flax.linen.BatchNorm`` too. Layers deeper in the
    network see activations normalised by the batch, as in training.

    Args:
      model: a Flax Linen model.
      variables: its variables; they stay as they are.
      batches: inputs of the model; a tuple gives several positional arguments, a dictionary keyword arguments.
      aggregation: ``pooled`` or ``paper``.
      axis_name: spreads each batch over ``devices`` along its first axis, under this name.
      devices: the devices for ``axis_name``; all of the process by default.
      **options: keyword arguments that put the model in training mode, for example ``train=True``.

    Returns:
      ``(apply, variables)``: the model's ``apply`` and the variables with the new ``batch_stats``. Features
      that no batch counted keep the old ones.

    Raises:
      ValueError: there is no batch, no layer took statistics (the model is not in training mode), or
        an option is out of range.

    Example:
      >>> model = nn.BatchNorm(use_running_average=None)
      >>> variables = model.init(jax.random.key(0), jnp.ones((2, 1)), use_running_average=False)
      >>> batches = jnp.array([[[0.0], [2.0]], [[4.0], [6.0]]])
      >>> _, precise = precise_statistics(model, variables, batches, use_running_average=False)
      >>> print(precise["batch_stats"]["mean"], precise["batch_stats"]["var"])
      [3.] [5.]

    References:
      Ioffe, Szegedy, `Batch Normalization <https://arxiv.org/abs/1502.03167>`_, 2015, Algorithm 2.
      Wu, Johnson, `Rethinking "Batch" in BatchNorm <https://arxiv.org/abs/2105.07576>`_, 2021.
    """
    if aggregation not in ("pooled", "paper"):
        raise ValueError(f"aggregation={aggregation!r} is not known; use 'pooled' or 'paper'.")
    if devices is not None and axis_name is None:
        raise ValueError("devices without axis_name; name the axis that the batch is spread over.")
    rules: dict[tuple[str, ...], RunningRule] = {}
    step = _moments_step(model, options, rules, axis_name, devices)
    total: dict[tuple[str, ...], Any] | None = None
    for batch in batches:
        arguments = arguments_of(batch)
        _check_divisible(arguments, axis_name, devices)
        stats = step(variables, arguments)
        if not stats:
            raise ValueError(
                "no layer took statistics of the batch; pass the options that put the model in training mode, "
                "for example train=True."
            )
        if aggregation == "paper":
            stats = {path: _vote(part) for path, part in stats.items()}
            total = stats if total is None else jax.tree.map(jnp.add, total, stats)
        else:
            total = stats if total is None else {path: union(total[path], part) for path, part in stats.items()}
    if total is None:
        raise ValueError("batches is empty; give one batch or more.")
    if aggregation == "paper":
        total = {path: _mean_of_votes(part) for path, part in total.items()}
    flat = flatten_dict(variables)
    for path, pooled in total.items():
        old = {name: flat[BATCH_STATS, *path, name] for name in rules[path].names}
        new = rules[path].population(jax.tree.map(jnp.asarray, old), pooled)
        flat |= {(BATCH_STATS, *path, name): value for name, value in new.items()}
    return Precise(model.apply, unflatten_dict(flat))


def _moments_step(
    model: nn.Module,
    options: dict[str, Any],
    rules: dict[tuple[str, ...], RunningRule],
    axis_name: str | None,
    devices: Sequence[jax.Device] | None,
) -> Any:
    """A compiled function (variables, arguments) -> moments of each layer by path; fills ``rules`` when traced."""

    def collect(variables: Any, arguments: tuple[tuple, dict]) -> dict[tuple[str, ...], Any]:
        args, kwargs = arguments
        with nn.intercept_methods(_interceptor(rules)):
            _, updated = model.apply(variables, *args, **kwargs, **options, mutable=[BATCH_STATS, BATCH_MOMENTS])
        stats = {path: _find(updated[BATCH_MOMENTS], path) for path in rules if BATCH_MOMENTS in updated}
        if axis_name is None:
            return stats
        return {path: _of_all_devices(part, rules[path], axis_name) for path, part in stats.items()}

    if axis_name is None:
        return jax.jit(collect)
    mesh = Mesh(np.array(devices or jax.local_devices()), (axis_name,))
    return jax.jit(jax.shard_map(collect, mesh=mesh, in_specs=(P(), P(axis_name)), out_specs=P(), check_vma=False))


def _interceptor(rules: dict[tuple[str, ...], RunningRule]) -> Any:
    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, RunningNorm | nn.BatchNorm):
            return call(*args, **kwargs)
        y = call(*args, **kwargs)
        chosen = args[1] if len(args) > 1 else kwargs.get("use_running_average")
        if nn.merge_param("use_running_average", module.use_running_average, chosen):
            return y
        if not module.is_mutable_collection(BATCH_MOMENTS):
            raise ValueError(
                f"layer {'/'.join(module.path)} is inside a lifted transformation that does not let 'batch_moments' "
                "out; name that collection where 'batch_stats' is named (variable_axes of nn.scan or nn.vmap)."
            )
        if isinstance(module, RunningNorm):
            rules[module.path] = module.rule
        else:
            rules[module.path] = _flax_rule(module)
            _take_moments(module, args[0] if args else kwargs["x"], kwargs.get("mask"))
        return y

    return intercept


def _flax_rule(module: nn.BatchNorm) -> BatchNormRule:
    return BatchNormRule(
        axis=module.axis,
        momentum=module.momentum,
        epsilon=module.epsilon,
        axis_name=module.axis_name,
        axis_index_groups=module.axis_index_groups,
    )


def _take_moments(module: nn.BatchNorm, x: Any, mask: Any) -> None:
    """What our layers do themselves: adds the moments of this input to ``batch_moments``."""
    features = canonical_axes(x.ndim, module.axis)
    axes = tuple(i for i in range(x.ndim) if i not in features)
    batch = moments(x, axes, mask=mask, axis_name=module.axis_name, axis_index_groups=module.axis_index_groups)
    assert module.scope is not None
    if module.scope.has_variable(BATCH_MOMENTS, "moments"):
        batch = merge(Moments(*module.scope.get_variable(BATCH_MOMENTS, "moments")), batch)
    module.scope.put_variable(BATCH_MOMENTS, "moments", batch)


def _check_divisible(arguments: Any, axis_name: str | None, devices: Sequence[jax.Device] | None) -> None:
    if axis_name is None:
        return
    count = len(devices or jax.local_devices())
    for array in jax.tree.leaves(arguments):
        if jnp.ndim(array) == 0 or jnp.shape(array)[0] % count:
            raise ValueError(f"a batch of shape {jnp.shape(array)} does not divide among {count} devices.")


def _find(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        tree = tree[key]
    return tree["moments"]


def _of_all_devices(part: Any, rule: RunningRule, axis_name: str) -> Any:
    if rule.axis_name is None:
        return _over_devices(part, axis_name)
    if rule.axis_index_groups is None:
        return part
    # Each device of a group has the moments of the whole group.
    count, mean, spread = _over_devices(part, axis_name)
    size = len(rule.axis_index_groups[0])
    return type(part)(count / size, mean, spread / size)


def _over_devices(part: Any, axis_name: str) -> Any:
    if isinstance(part, Comoments):
        return merge_comoments_of_devices(part, axis_name)
    return merge_devices(part, axis_name)


def _vote(part: Any) -> Any:
    """A batch as the paper's expectation counts it: once, by its unbiased variance; not at all below two values."""
    counts = (part.count > 1).astype(part.count.dtype)
    if isinstance(part, Comoments):
        return Comoments(counts, part.mean * counts, part.unbiased_covariance * counts)
    return Moments(counts, part.mean * counts.astype(part.mean.dtype), part.unbiased_variance * counts)


def _mean_of_votes(total: Any) -> Any:
    """Moments of one value with the mean of the means, and the mean of the variances as its m2."""
    count, mean, m2 = total
    votes = jnp.maximum(count, 1)
    return type(total)(jnp.minimum(count, 1), mean / votes.astype(mean.dtype), m2 / votes)
