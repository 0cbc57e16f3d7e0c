"""What each layer with statistics does with them: one description for its Linen and its NNX module."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from normjax.functional.batch_norm import RunningStatistics, batch_norm, normalize, update_running_statistics
from normjax.functional.batch_renorm import (
    RenormStatistics,
    batch_renorm,
    check_limits,
    renorm_limits,
    update_renorm_statistics,
)
from normjax.functional.comoments import Comoments
from normjax.functional.decorrelated_batch_norm import (
    DecorrelatedStatistics,
    decorrelate,
    decorrelated_batch_norm,
    update_decorrelated_statistics,
)
from normjax.functional.ghost_batch_norm import ghost_batch_norm
from normjax.functional.groups import groups_of
from normjax.functional.moments import AxisIndexGroups, AxisName, Moments, canonical_axes, expand_mask, moments
from normjax.functional.reference_batch_norm import ReferenceMode, check_mode, reference_batch_norm
from normjax.functional.whitening import Method

State = Mapping[str, Array]  # the statistics, by the names of their variables


@dataclass(frozen=True)
class Affine:
    """Scale and bias of a layer, None where it has none, and the type of its output."""

    scale: Array | None
    bias: Array | None
    dtype: Any


@dataclass(frozen=True)
class RunningRule:
    """How a layer starts, takes, uses and moves its running statistics."""

    axis: int | Sequence[int] = -1
    momentum: float = 0.99
    epsilon: float = 1e-5
    axis_name: AxisName = None
    axis_index_groups: AxisIndexGroups = None

    names: ClassVar[tuple[str, ...]]  # of the variables

    def while_initializing(self) -> "RunningRule":
        """The rule by which a network makes its parameters: no devices, and any number of examples."""
        return replace(self, axis_name=None)

    @abstractmethod
    def initial(self, features: tuple[int, ...], dtype: Any) -> dict[str, Array]:
        """The statistics before the first batch, in ``dtype``."""

    @abstractmethod
    def train(self, x: Array, state: State, affine: Affine, mask: Array | None) -> tuple[Array, Any]:
        """The activations normalised in training, and the moments (or comoments) of the batch."""

    @abstractmethod
    def infer(self, x: Array, state: State, affine: Affine) -> Array:
        """The activations normalised by the running statistics."""

    @abstractmethod
    def update(self, state: State, batch: Any) -> dict[str, Array]:
        """The statistics after a step with that batch."""

    def population(self, state: State, pooled: Any) -> dict[str, Array]:
        """The statistics that the moments of many batches stand for; ``state`` gives types and what else is kept."""
        return replace(self, momentum=0.0).update(state, pooled)


@dataclass(frozen=True)
class BatchNormRule(RunningRule):
    """Batch normalization: averages of mean and variance."""

    use_fast_variance: bool = True
    unbiased_running_var: bool = False

    names = ("mean", "var")

    def initial(self, features: tuple[int, ...], dtype: Any) -> dict[str, Array]:
        return {"mean": jnp.zeros(features, dtype), "var": jnp.ones(features, dtype)}

    def train(self, x: Array, state: State, affine: Affine, mask: Array | None) -> tuple[Array, Moments]:
        del state
        return batch_norm(
            x,
            affine.scale,
            affine.bias,
            axis=self.axis,
            mask=mask,
            epsilon=self.epsilon,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            use_fast_variance=self.use_fast_variance,
            dtype=affine.dtype,
        )

    def infer(self, x: Array, state: State, affine: Affine) -> Array:
        return normalize(
            x,
            state["mean"],
            state["var"],
            affine.scale,
            affine.bias,
            axis=self.axis,
            epsilon=self.epsilon,
            dtype=affine.dtype,
        )

    def update(self, state: State, batch: Moments) -> dict[str, Array]:
        running = RunningStatistics(state["mean"], state["var"])
        mean, var = update_running_statistics(
            running, batch, momentum=self.momentum, unbiased=self.unbiased_running_var
        )
        return {"mean": mean, "var": var}


@dataclass(frozen=True)
class GhostBatchNormRule(BatchNormRule):
    """Ghost batch normalization: as batch normalization, but the parts of a batch are normalised apart."""

    ghost_batch_size: int = 32

    def while_initializing(self) -> BatchNormRule:
        shared = {field.name: getattr(self, field.name) for field in fields(BatchNormRule)}
        return BatchNormRule(**{**shared, "axis_name": None})

    def train(self, x: Array, state: State, affine: Affine, mask: Array | None) -> tuple[Array, Moments]:
        del state
        return ghost_batch_norm(
            x,
            affine.scale,
            affine.bias,
            ghost_batch_size=self.ghost_batch_size,
            axis=self.axis,
            mask=mask,
            epsilon=self.epsilon,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            use_fast_variance=self.use_fast_variance,
            dtype=affine.dtype,
        )


@dataclass(frozen=True)
class BatchRenormRule(RunningRule):
    """Batch renormalization: averages of mean and standard deviation, and the steps that the limits follow."""

    use_fast_variance: bool = True
    r_max: float = 3.0
    d_max: float = 5.0
    warmup_steps: int = 5_000
    r_steps: int = 40_000
    d_steps: int = 25_000

    names = ("mean", "std", "step")

    def initial(self, features: tuple[int, ...], dtype: Any) -> dict[str, Array]:
        return {
            "mean": jnp.zeros(features, dtype),
            "std": jnp.ones(features, dtype),
            "step": jnp.zeros((), jnp.int32),
        }

    def train(self, x: Array, state: State, affine: Affine, mask: Array | None) -> tuple[Array, Moments]:
        r_max, d_max = renorm_limits(
            state["step"],
            r_max=self.r_max,
            d_max=self.d_max,
            warmup_steps=self.warmup_steps,
            r_steps=self.r_steps,
            d_steps=self.d_steps,
        )
        return batch_renorm(
            x,
            RenormStatistics(state["mean"], state["std"]),
            affine.scale,
            affine.bias,
            r_max=r_max,
            d_max=d_max,
            axis=self.axis,
            mask=mask,
            epsilon=self.epsilon,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            use_fast_variance=self.use_fast_variance,
            dtype=affine.dtype,
        )

    def infer(self, x: Array, state: State, affine: Affine) -> Array:
        # std holds epsilon already.
        variance = jnp.square(state["std"])
        return normalize(
            x, state["mean"], variance, affine.scale, affine.bias, axis=self.axis, epsilon=0.0, dtype=affine.dtype
        )

    def update(self, state: State, batch: Moments) -> dict[str, Array]:
        running = RenormStatistics(state["mean"], state["std"])
        mean, std = update_renorm_statistics(running, batch, momentum=self.momentum, epsilon=self.epsilon)
        return {"mean": mean, "std": std, "step": state["step"] + 1}

    def population(self, state: State, pooled: Moments) -> dict[str, Array]:
        return {**super().population(state, pooled), "step": state["step"]}


@dataclass(frozen=True)
class DecorrelatedBatchNormRule(RunningRule):
    """Decorrelated batch normalization: averages of mean and covariance."""

    group_size: int | None = 16
    method: Method = "newton"
    iterations: int = 5

    names = ("mean", "covariance")

    def initial(self, features: tuple[int, ...], dtype: Any) -> dict[str, Array]:
        if len(features) != 1:
            raise ValueError(f"axis={self.axis} is no single axis; decorrelated batch norm takes one.")
        groups, size = groups_of(features[0], self.group_size)
        identity = jnp.broadcast_to(jnp.eye(size, dtype=dtype)[None], (groups, size, size))
        return {"mean": jnp.zeros(features, dtype), "covariance": identity}

    def train(self, x: Array, state: State, affine: Affine, mask: Array | None) -> tuple[Array, Comoments]:
        del state
        return decorrelated_batch_norm(
            x,
            affine.scale,
            affine.bias,
            group_size=self.group_size,
            method=self.method,
            iterations=self.iterations,
            axis=self.axis,  # type: ignore[arg-type]  # several axes are refused there
            mask=mask,
            epsilon=self.epsilon,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            dtype=affine.dtype,
        )

    def infer(self, x: Array, state: State, affine: Affine) -> Array:
        return decorrelate(
            x,
            DecorrelatedStatistics(state["mean"], state["covariance"]),
            affine.scale,
            affine.bias,
            method=self.method,
            iterations=self.iterations,
            axis=self.axis,  # type: ignore[arg-type]
            epsilon=self.epsilon,
            dtype=affine.dtype,
        )

    def update(self, state: State, batch: Comoments) -> dict[str, Array]:
        running = DecorrelatedStatistics(state["mean"], state["covariance"])
        mean, covariance = update_decorrelated_statistics(running, batch, momentum=self.momentum)
        return {"mean": mean, "covariance": covariance}


@dataclass(frozen=True)
class ReferenceBatchNormRule:
    """Reference-batch normalization: moments of one batch, which take part in normalising all others."""

    mode: ReferenceMode = "virtual"
    alpha: float | None = None
    r_max: float = 3.0
    d_max: float = 5.0
    reference_gradient: bool = True
    axis: int | Sequence[int] = -1
    epsilon: float = 1e-5
    axis_name: AxisName = None
    axis_index_groups: AxisIndexGroups = None

    names: ClassVar[tuple[str, ...]] = ("count", "mean", "var", "examples")

    def __post_init__(self) -> None:
        check_mode(self.mode, self.alpha)
        check_limits(self.r_max, self.d_max)

    def take(self, x: Array, affine: Affine, mask: Array | None) -> tuple[Array, dict[str, Array]]:
        """A reference batch normalised by itself, and its statistics, of all devices."""
        if not x.size:
            raise ValueError(f"the reference batch is empty: an input of shape {x.shape}; give one example or more.")
        y, batch = self._by_itself(x, affine, mask, self.axis_name)
        kept = {"count": batch.count, "mean": batch.mean, "var": batch.variance}
        return y, {**kept, "examples": self._examples(x, mask).astype(batch.mean.dtype)}

    def _examples(self, x: Array, mask: Array | None) -> Array:
        """How many examples the reference batch has, of all devices; one counts where any of its values does."""
        count: Any = x.shape[0]  # a number, whose sum over the devices is known without asking them
        whole = expand_mask(mask, x)
        if whole is not None:
            valid = whole.any(tuple(range(1, x.ndim)))
            count = jnp.broadcast_to(valid, (x.shape[0],)).sum(dtype=jnp.float32)
        return jnp.asarray(count if self.axis_name is None else lax.psum(count, self.axis_name), jnp.float32)

    def initialize(self, x: Array, affine: Affine, mask: Array | None) -> Array:
        """The activations by which a network makes its parameters: there is no reference yet, and no devices."""
        return self._by_itself(x, affine, mask, None)[0]

    def _by_itself(self, x: Array, affine: Affine, mask: Array | None, axis_name: AxisName) -> tuple[Array, Moments]:
        if jnp.iscomplexobj(x):
            raise TypeError(f"reference-batch normalization takes real input; x is {x.dtype}, use batch_norm.")
        return batch_norm(
            x,
            affine.scale,
            affine.bias,
            axis=self.axis,
            mask=mask,
            epsilon=self.epsilon,
            axis_name=axis_name,
            dtype=affine.dtype,
        )

    def normalize(self, x: Array, state: State, affine: Affine, mask: Array | None, *, infer: bool) -> Array:
        """The activations normalised with the reference; at inference no other example has a say."""
        reference = Moments(state["count"], state["mean"], state["var"] * state["count"])
        if not self.reference_gradient:
            reference = Moments(*(lax.stop_gradient(part) for part in reference))
        by_reference = infer and self.mode in ("mixed", "renorm")
        return reference_batch_norm(
            x,
            reference,
            affine.scale,
            affine.bias,
            mode="fixed" if by_reference else self.mode,
            examples=state["examples"],
            alpha=None if by_reference else self.alpha,
            r_max=self.r_max,
            d_max=self.d_max,
            axis=self.axis,
            mask=mask,
            epsilon=self.epsilon,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            dtype=affine.dtype,
        )

    def batch_moments(self, x: Array, mask: Array | None) -> Moments:
        """The moments of a batch, as layers with running statistics tell theirs."""
        features = canonical_axes(x.ndim, self.axis)
        others = tuple(i for i in range(x.ndim) if i not in features)
        return moments(x, others, mask=mask, axis_name=self.axis_name, axis_index_groups=self.axis_index_groups)
