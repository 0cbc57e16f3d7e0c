"""The validated description of a search for the neurons of a network that can go."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from normjax.training.config import Section, TrainConfig

Share = Annotated[float, Field(gt=0, lt=1)]
# Written out for the command line's help.
Score = Literal[
    "l1",
    "l2",
    "bn_gamma",
    "group_magnitude",
    "fpgm",
    "random",
    "mean_activation",
    "std_activation",
    "apoz",
    "taylor_activation",
    "taylor_gate",
]
Debias = Literal["none", "mean", "l2", "max", "zscore", "minmax", "median", "lamp", "rank"]
TARGETS = ("target_accuracy", "max_drop", "keep_macs", "keep_params")


class PruneConfig(Section):
    """What is wanted of the smaller network, and how it is searched for."""

    target_accuracy: Share | None = Field(None, description="accuracy on the validation split that must hold, as 0.9")
    max_drop: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="validation accuracy that may be lost, as 0.01 for one point"
    )
    keep_macs: Share | None = Field(None, description="share of the multiplications that is left, whatever it costs")
    keep_params: Share | None = Field(
        None, description="share of the parameters that is left, whatever it costs; with keep_macs both"
    )
    score: Score = Field("taylor_gate", description="what neurons are judged by")
    debias: Debias = Field(
        "mean", description="what makes scores of different layers comparable; rank: as large a share of each layer"
    )
    per_cost: bool = Field(
        False, description="scores are divided by what a neuron brings towards keep_macs and keep_params"
    )
    order: Literal["together", "in_turn"] = Field(
        "together", description="of the layers: all ranked together, or one a round in turn, as a control"
    )
    step: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="share of the network's neurons that goes a round; in turn: of the layer's"
    )
    min_step: Share = Field(0.01, description="share below which a step is not halved any more, and the search ends")
    epochs: float = Field(1.0, gt=0, description="passes over the training set after each round")
    final_epochs: float = Field(3.0, gt=0, description="passes over the training set of the smaller network at last")
    learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None, description="peak learning rate of these, which falls to 0 each time; None: a fifth of the run's"
    )
    min_keep: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="share of a layer that stays in any case")
    layer_cap: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="largest share of a layer that goes a round"
    )
    protected: tuple[str, ...] = Field((), description="layers that stay whole")
    multiple: int = Field(
        8,
        ge=1,
        description="at the end widths go to the nearest multiple, if that is faster as measured here; 1: never",
    )
    score_images: int = Field(1000, ge=1, description="training images that scores of activations are measured on")

    @model_validator(mode="after")
    def _one_target(self) -> "PruneConfig":
        named = [name for name in TARGETS if getattr(self, name) is not None]
        if len(named) != 1 and named != ["keep_macs", "keep_params"]:
            raise ValueError(
                f"{' and '.join(named) or 'no target'} given; give one of {', '.join(TARGETS)}, or the last two"
            )
        return self

    @model_validator(mode="after")
    def _costs_are_known(self) -> "PruneConfig":
        if self.per_cost and self.keep_macs is None and self.keep_params is None:
            raise ValueError(
                "per_cost=True divides by what a neuron brings towards keep_macs or keep_params; give one of these"
            )
        if self.per_cost and self.debias == "zscore":
            raise ValueError("per_cost=True with debias='zscore' would divide negative scores; use minmax or rank")
        return self

    @model_validator(mode="after")
    def _steps_fall(self) -> "PruneConfig":
        if self.min_step > self.step:
            raise ValueError(f"min_step={self.min_step:g} must not be above step={self.step:g}")
        return self


class PruningConfig(Section):
    """A network that ``training.model.weights`` holds, and the search for a smaller one."""

    training: TrainConfig
    pruning: PruneConfig
