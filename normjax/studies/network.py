"""The data and the network that the studies of reference batches train on, and how."""

from normjax.data.options import DataConfig, StreamConfig
from normjax.training.config import (
    ModelConfig,
    NormConfig,
    OptimizerConfig,
    ReferenceConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
)

BATCH = 64
CIFAR10 = DataConfig(
    name="cifar10",
    validation=0.1,
    augmentation="crop_flip",
    padding=4,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
_SMALL_SHARE = 50  # of the data are used in small, so that a pass over them is as much shorter


def steps_of(images: float) -> int:
    """Steps that see so many images."""
    return max(1, round(images / BATCH))


def convnet_config(
    data: DataConfig,
    *,
    epochs: float,
    steps: int,
    small: bool,
    seed: int,
    rate: float,
    stream: StreamConfig,
    norm: NormConfig,
    reference: ReferenceConfig,
) -> TrainConfig:
    """A run of a study.

    Args:
      data: what it is trained on.
      epochs: passes over the whole data.
      steps: of the run, for the number of validations.
      small: train a smaller network on a fiftieth of the data: shows that all of it runs, and nothing else.
      seed: decides everything.
      rate: peak learning rate.
      stream: the order of the examples.
      norm: of the network.
      reference: batch, for the norm that wants one.
    """
    if small:
        part = {"train_split": f"train[:{100 // _SMALL_SHARE}%]", "test_split": f"test[:{100 // _SMALL_SHARE}%]"}
        data, epochs = data.model_copy(update=part), epochs * _SMALL_SHARE
    return TrainConfig(
        seed=seed,
        epochs=epochs,
        batch_size=BATCH,
        data=data,
        stream=stream,
        model=ModelConfig(name="convnet", widths=(8, 8) if small else (16, 32, 64), dense=() if small else (64,)),
        norm=norm,
        reference=reference,
        optimizer=OptimizerConfig(name="sgd", learning_rate=rate, momentum=0.9, weight_decay=5e-4),
        schedule=ScheduleConfig(name="one_cycle", peak=0.3),
        run=RunConfig(threads=1, log_every=50, validate_every=max(10, steps // 12), keep=1),
    )
