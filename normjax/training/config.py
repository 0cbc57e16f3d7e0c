"""The validated description of a training run, the same for files, command line and app."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from normjax.data.options import DataConfig, StreamConfig
from normjax.errors import UserError


class Section(BaseModel):
    """Frozen, without unknown fields, checked in its defaults too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class ModelConfig(Section):
    """The network."""

    name: Literal["mlp", "convnet", "vgg16", "resnet20", "resnet56", "resnet50"] = Field(
        "convnet", description="architecture"
    )
    widths: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        (16, 32, 64), description="channels of each stage, or units of each layer of the mlp; None: as published"
    )
    dense: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (64,), description="hidden dense layers of convnet and vgg16"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="type of the computation")
    num_classes: int | None = Field(None, ge=2, description="outputs; None: the classes of the data set")
    weights: Path | None = Field(
        None, description="safetensors file that the network starts from; its head may be for other classes"
    )
    # Written by normjax prune; too long for a command line.
    kept: Annotated[dict[str, tuple[Annotated[int, Field(ge=0)], ...]], tyro.conf.Suppress] = Field(
        {}, description="neurons of a pruned network, by the layer that makes them; layers not named are whole"
    )


class NormConfig(Section):
    """The normalization layer, as make_norm takes it."""

    name: Literal[
        "batch_norm",
        "ghost_batch_norm",
        "batch_renorm",
        "reference_batch_norm",
        "decorrelated_batch_norm",
        "decorrelated_layer_norm",
        "group_norm",
        "instance_norm",
        "layer_norm",
        "rms_norm",
        "none",
    ] = Field("batch_norm", description="normalization layer")
    momentum: float = Field(
        0.9, ge=0, lt=1, description="share of the old value in running statistics, for layers that keep them"
    )
    sync_devices: int | None = Field(
        None, ge=1, description="neighbouring devices that share the statistics of a batch; None: all of them"
    )
    options: dict[str, int | float | bool | str | None] = Field(
        {}, description="further fields of the layer, as pairs: epsilon 1e-3 use_scale False"
    )

    @model_validator(mode="after")
    def _options_fit(self) -> "NormConfig":
        # Without options there is nothing to check, and help and most mistakes are answered without JAX.
        if self.options:
            self.factory()
        if self.sync_devices is not None:
            from normjax.linen.factory import shares_batches

            if not shares_batches(self.name):
                raise ValueError(
                    f"sync_devices={self.sync_devices} has no meaning with name={self.name}, which shares nothing"
                )
        return self

    def factory(self) -> Callable[..., Any]:
        """What makes the layers; ValueError where the layer has no such option."""
        from normjax.linen.factory import has_option, make_norm

        momentum = {"momentum": self.momentum} if has_option(self.name, "momentum") else {}
        return make_norm(self.name, **{**momentum, **self.options})


class WeightNormConfig(Section):
    """What is done to the kernels of the hidden layers before they are used, as make_weight_norm takes it."""

    name: Literal["none", "weight_norm", "orthogonal", "structural"] = Field("none", description="reparametrisation")
    options: dict[str, int | float | bool | str | None] = Field(
        {}, description="further fields of the wrapper, as pairs: measure sparsity strength 1e-3"
    )
    initialize_from: int | None = Field(
        None, ge=2, description="training examples by which scales and biases are initialised; None: they are not"
    )

    @model_validator(mode="after")
    def _options_fit(self) -> "WeightNormConfig":
        if self.options:
            self.factory()
        if self.initialize_from is not None and (self.name == "none" or not self.options.get("use_scale", True)):
            raise ValueError(
                f"initialize_from={self.initialize_from} sets scales, and there are none with name={self.name}, "
                f"use_scale={self.options.get('use_scale', True)}"
            )
        return self

    def factory(self) -> Callable[..., Any]:
        """What wraps the layers; ValueError where there is no such option."""
        from normjax.linen.weight_norm_factory import make_weight_norm

        return make_weight_norm(self.name, **self.options)


class ProximalConfig(Section):
    """A proximal step on the kernels of the hidden layers after each step of the optimizer."""

    penalty: Literal["none", "exclusive_sparsity", "group_sparsity", "l1", "combined", "magnitude"] = Field(
        "none",
        description="whose operator it is; combined: group, then exclusive sparsity as in CGES; "
        "magnitude: the smallest weights of all layers are zero",
    )
    strength: float = Field(
        1e-4, ge=0, description="of the penalty, times the learning rate in each step; magnitude: share of zeros"
    )
    axis: Literal["input", "output"] = Field("input", description="units whose weights are a group")
    rule: Literal["exact", "cges"] = Field("exact", description="of exclusive_sparsity: exact, or as the CGES code")
    rise: float = Field(0.0, ge=0, le=1, description="share of the training in which the strength rises from 0")


class ReferenceConfig(Section):
    """The reference batch of the norm reference_batch_norm."""

    size: int = Field(64, ge=1, description="examples of the reference batch, all devices together")
    draw: Literal["balanced", "random"] = Field(
        "balanced", description="of the training split by the seed: as many of each class, or any"
    )
    refresh: int | Literal["once"] = Field(
        1, description="steps between reference passes (with 1 gradients flow into them); once: before training"
    )

    @model_validator(mode="after")
    def _refresh_is_possible(self) -> "ReferenceConfig":
        if self.refresh != "once" and self.refresh < 1:
            raise ValueError(f"refresh={self.refresh} is out of range; use 1 or more, or once")
        return self


class OptimizerConfig(Section):
    """The optimizer."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="optimizer")
    learning_rate: float = Field(0.1, gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd, b1 of adamw")
    nesterov: bool = Field(True, description="Nesterov momentum (sgd)")
    b2: float = Field(0.999, ge=0, lt=1, description="decay of the second moment (adamw)")
    weight_decay: float = Field(5e-4, ge=0, description="on kernels only: norm parameters and biases are spared")


class ScheduleConfig(Section):
    """The course of the learning rate."""

    name: Literal["constant", "cosine", "step", "one_cycle"] = Field("cosine", description="after the warm-up")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs of linear warm-up (one_cycle has its own)")
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5, 0.75), description="shares of the training at which step lowers the rate"
    )
    factor: float = Field(0.1, gt=0, le=1, description="what step multiplies the rate by")
    peak: float = Field(0.3, gt=0, lt=1, description="share of the training at which one_cycle peaks")

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("milestones must ascend")
        return value


class RunConfig(Section):
    """How the run is carried out; all of it may change when a run is resumed."""

    parallel: Literal["pmap", "shard_map"] = Field("pmap", description="how the step is spread over the devices")
    kernel_gradients: Literal["auto", "xla"] = Field(
        "auto", description="form of convolutions and their gradients on CPUs: the fastest known, or that of XLA"
    )
    eval_batch_size: int = Field(512, ge=1, description="examples of an evaluation batch, all devices together")
    log_every: int = Field(20, ge=1, description="steps between two lines of training metrics")
    validate_every: int | None = Field(None, ge=1, description="steps between validations, besides one an epoch")
    checkpoint_every: int | None = Field(None, ge=1, description="steps between checkpoints, besides one an epoch")
    keep: int = Field(2, ge=1, description="latest checkpoints kept, besides the best")
    failed_save: Literal["end", "go_on"] = Field(
        "end", description="what the run does where a checkpoint cannot be written, as on a full disk"
    )
    cache_mib: int = Field(2048, ge=0, description="decode a split once where it fits in this many MiB")
    threads: int = Field(2, ge=1, le=256, description="threads that read and augment")


class TrainConfig(Section):
    """A training run: the digits network where nothing is said."""

    seed: int = Field(0, ge=0, lt=2**31, description="decides split, order, augmentation and initial weights")
    epochs: float = Field(30.0, gt=0, description="passes over the training set")
    batch_size: int = Field(64, ge=1, description="examples of a step, all devices together")
    micro_batches: int = Field(1, ge=1, description="parts of a step whose gradients are accumulated")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all classes")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="decay of the averaged weights that are then evaluated; None: no average"
    )
    max_skipped_steps: int = Field(10, ge=1, description="non-finite steps in a row after which the run ends")
    data: DataConfig = DataConfig()
    stream: StreamConfig = StreamConfig()
    model: ModelConfig = ModelConfig()
    norm: NormConfig = NormConfig()
    weight_norm: WeightNormConfig = WeightNormConfig()
    reference: ReferenceConfig = ReferenceConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    proximal: ProximalConfig = ProximalConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _micro_batches_divide(self) -> "TrainConfig":
        if self.batch_size % self.micro_batches:
            raise ValueError(f"micro_batches={self.micro_batches} does not divide batch_size={self.batch_size}")
        return self

    @model_validator(mode="after")
    def _reference_is_wanted(self) -> "TrainConfig":
        if not self.has_reference and self.reference != ReferenceConfig():
            raise ValueError(f"reference is for norm.name=reference_batch_norm, and norm.name={self.norm.name}")
        return self

    @model_validator(mode="after")
    def _weights_are_initialised_before_the_norm(self) -> "TrainConfig":
        if self.weight_norm.initialize_from is not None and self.has_reference:
            raise ValueError(
                "weight_norm.initialize_from goes with norms that need no reference batch, and "
                f"norm.name={self.norm.name}"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_not_initialised_twice(self) -> "TrainConfig":
        if self.model.weights is not None and self.weight_norm.initialize_from is not None:
            raise ValueError(
                f"model.weights={self.model.weights} and weight_norm.initialize_from="
                f"{self.weight_norm.initialize_from} both set where the network starts; give one of them"
            )
        return self

    @model_validator(mode="after")
    def _kernels_are_plain(self) -> "TrainConfig":
        if self.model.kept and (self.weight_norm.name != "none" or self.proximal.penalty != "none"):
            raise ValueError(
                "model.kept is of a network with plain kernels, and "
                f"weight_norm.name={self.weight_norm.name}, proximal.penalty={self.proximal.penalty}"
            )
        return self

    @model_validator(mode="after")
    def _zeros_survive(self) -> "TrainConfig":
        if self.proximal.penalty == "none":
            if self.proximal != ProximalConfig():
                raise ValueError("proximal needs a penalty, for example exclusive_sparsity")
            return self
        # The strength that penalties start from is no share that anyone wants.
        if self.proximal.penalty == "magnitude" and not ProximalConfig().strength < self.proximal.strength < 1:
            raise ValueError(
                f"proximal.strength={self.proximal.strength:g} is the share of zeros with penalty=magnitude; "
                "say which, less than 1, for example 0.8"
            )
        grouped = self.proximal.penalty in ("exclusive_sparsity", "group_sparsity", "combined")
        if self.proximal.axis != "input" and not grouped:
            raise ValueError(f"proximal.axis has no meaning with penalty={self.proximal.penalty}, which has no groups")
        if self.proximal.rule != "exact" and self.proximal.penalty not in ("exclusive_sparsity", "combined"):
            raise ValueError(f"proximal.rule is of exclusive sparsity, and penalty={self.proximal.penalty}")
        if self.weight_norm.name != "none":
            raise ValueError(
                f"proximal.penalty={self.proximal.penalty} makes zeros in stored kernels, of which "
                f"weight_norm.name={self.weight_norm.name} makes others; use weight_norm.name=none, or "
                "weight_norm.name=structural with measure=sparsity instead of proximal"
            )
        if self.ema_decay is not None:
            raise ValueError(
                f"proximal.penalty={self.proximal.penalty} makes exact zeros, which averaged weights have not; "
                "leave ema_decay out"
            )
        return self

    @property
    def has_reference(self) -> bool:
        """Whether the norm wants a reference batch."""
        return self.norm.name == "reference_batch_norm"

    @model_validator(mode="after")
    def _warmup_ends(self) -> "TrainConfig":
        if self.schedule.name != "one_cycle" and self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs={self.schedule.warmup_epochs:g} must be less than epochs={self.epochs:g}"
            )
        return self


Config = TypeVar("Config", bound=Section)


def load_config(path: Path, kind: type[Config] = TrainConfig) -> Config:  # type: ignore[assignment]
    """Reads a config from a Python file that defines ``config``, or from a run's ``config.json``.

    Args:
      path: the file.
      kind: what it describes.

    Raises:
      UserError: the file is missing or does not hold a valid config.
    """
    if not path.is_file():
        raise UserError(f"config {path} is not a file; configs/ holds those that come with the project.")
    if path.suffix == ".json":
        try:
            return parse_config(json.loads(path.read_text()), kind)
        except ValueError as error:
            raise UserError(f"config {path} is not JSON: {error}") from error
    try:
        config = runpy.run_path(str(path)).get("config")
    except ValidationError as error:
        raise UserError(f"config {path}: {describe_validation_error(error)}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"config {path} could not be run: {reason}") from error
    if not isinstance(config, kind):
        raise UserError(f"config {path} does not define `config = {kind.__name__}(...)`.")
    return config


def parse_config(data: Any, kind: type[Config] = TrainConfig) -> Config:  # type: ignore[assignment]
    """A config from plain data.

    Args:
      data: names and values.
      kind: what it describes.

    Raises:
      UserError: a field is unknown or out of range; the message names it, its value and what is allowed.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise UserError(describe_validation_error(error)) from error


def describe_validation_error(error: ValidationError) -> str:
    """One line for the first thing wrong: name, value, what is allowed."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    return (
        f"{name}={first['input']!r}: {reason}"
        if name and not first["type"].startswith("value_error")
        else (f"{name}: {reason}" if name else reason)
    )


def frozen_differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """What differs between two configs in fields that a resumed run cannot change, as ``name: old -> new``."""

    def flat(config: TrainConfig) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for name, value in config.model_dump(mode="json", exclude={"run"}).items():
            if isinstance(value, dict):
                entries.update({f"{name}.{inner}": inner_value for inner, inner_value in value.items()})
            else:
                entries[name] = value
        return entries

    before, after = flat(old), flat(new)
    return [f"{name}: {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
