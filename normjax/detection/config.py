"""The validated description of the training of a detector."""

from typing import Literal

from pydantic import Field, model_validator

from normjax.training.config import OptimizerConfig, ScheduleConfig, Section, TrainConfig


class SceneConfig(Section):
    """Pictures with several objects."""

    name: str = Field("scenes", min_length=1, description="scenes (of digits), or a TFDS data set with objects/bbox")
    digits: Literal["mnist", "digits"] = Field("mnist", description="what the scenes are made of")
    image_size: int = Field(64, ge=16, description="side of the pictures, a multiple of 8")
    train_split: str = Field("train", description="split to train on")
    test_split: str = Field("test", description="split that is read once, at the end")
    train_examples: int | None = Field(2000, ge=1, description="pictures to train on; None: all there are (not scenes)")
    test_examples: int | None = Field(500, ge=1, description="pictures to test on; None: all there are (not scenes)")
    objects: int = Field(6, ge=1, description="most objects of a picture that are learned")

    @model_validator(mode="after")
    def _scenes_have_a_number(self) -> "SceneConfig":
        if self.name == "scenes" and None in (self.train_examples, self.test_examples):
            raise ValueError("scenes are made, not found: train_examples and test_examples must be numbers")
        if self.image_size % 8:
            raise ValueError(f"image_size={self.image_size} is no multiple of 8")
        return self


class DetectionConfig(Section):
    """The training of a detector on a backbone that a run has trained before."""

    seed: int = Field(0, ge=0, lt=2**31, description="decides scenes, order and initial weights of the heads")
    epochs: float = Field(8.0, gt=0, description="passes over the training pictures")
    batch_size: int = Field(16, ge=1, description="pictures of a step, all devices together")
    features: int = Field(64, ge=8, multiple_of=8, description="channels of neck and heads")
    prototypes: int = Field(8, ge=1, description="that masks are made of")
    data: SceneConfig = SceneConfig()
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", learning_rate=2e-3, weight_decay=1e-4)
    schedule: ScheduleConfig = ScheduleConfig(name="one_cycle", peak=0.2)


class TransferConfig(Section):
    """A network that is trained, and a detector that is then trained on it."""

    pretraining: TrainConfig
    detection: DetectionConfig
