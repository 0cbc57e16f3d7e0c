"""What a config says about the data."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class DataConfig(BaseModel):
    """Which examples, and what is done to them: the ``data`` section of a config."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    name: str = Field("digits", min_length=1, description="digits, folder (of class folders), or a TFDS data set")
    train_split: str = Field("train", description="split to train on")
    test_split: str = Field("test", description="split that is read once, at the end")
    classes: tuple[str, ...] = Field((), description="names of the classes that are used, in this order; none: all")
    validation: float = Field(0.1, ge=0, le=0.5, description="share of the training split kept to choose a checkpoint")
    image_size: int | None = Field(None, ge=1, le=4096, description="side of the images; None: their own")
    augmentation: Literal["none", "shift", "crop_flip", "random_resized_crop"] = Field(
        "shift", description="what is done to training images"
    )
    padding: int = Field(1, ge=0, le=64, description="pixels of shift and crop_flip")
    bad_records: Literal["raise", "skip"] = Field(
        "raise", description="what happens at a record that cannot be read: the run ends, or it is left out and counted"
    )
    mean: tuple[float, ...] | None = Field(None, description="mean of each channel in [0, 1]; None: measured")
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="standard deviation of each channel in [0, 1]; None: measured"
    )


class StreamConfig(BaseModel):
    """In which order training sees its examples: the ``stream`` section of a config."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    name: Literal["shuffled", "few_classes", "sorted", "skewed"] = Field(
        "shuffled", description="drawn alike, few classes a batch, sorted by class, or other classes in each shard"
    )
    classes: int = Field(2, ge=1, description="classes a batch of few_classes holds")
    shards: int = Field(8, ge=1, description="parts of a batch of skewed; the number of devices, to skew these")
    concentration: float = Field(0.1, gt=0, description="of the Dirichlet distribution of skewed; small is skewed")
    drift: float = Field(0.0, ge=0, lt=1, description="how far brightness and contrast drift, with any stream; 0: not")
    drift_steps: int = Field(200, ge=2, description="steps of one wave of the drift")

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> "StreamConfig":
        plain = type(self).model_fields
        for field, stream in (("classes", "few_classes"), ("shards", "skewed"), ("concentration", "skewed")):
            if self.name != stream and getattr(self, field) != plain[field].default:
                raise ValueError(f"{field} is for stream.name={stream}, and stream.name={self.name}")
        if not self.drift and self.drift_steps != plain["drift_steps"].default:
            raise ValueError("drift_steps is for a drift, and drift=0")
        return self
