"""ResNet-20 with batch normalization on CIFAR-10, the recipe of He et al. (2016).

    python train.py --config configs/cifar10_resnet20.py --data-dir DATA

Expected: 91.25 % after 200 epochs (published, not run by us). The short form, cifar10_resnet20_short.py, was run.

What the paper gives as iterations stands here as shares of 64,000 iterations of 128 images, with the rate lowered at
32,000 and 48,000; the paper trains for 164 epochs, and the 200 of its later users keep the same shares.
"""

from normjax.data.options import DataConfig
from normjax.training.config import ModelConfig, NormConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig

config = TrainConfig(
    epochs=200,
    batch_size=128,
    data=DataConfig(
        name="cifar10",
        validation=0,
        augmentation="crop_flip",
        padding=4,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    model=ModelConfig(name="resnet20", widths=(16, 32, 64)),
    norm=NormConfig(name="batch_norm", momentum=0.9),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.1, momentum=0.9, nesterov=False, weight_decay=1e-4),
    schedule=ScheduleConfig(name="step", warmup_epochs=0, milestones=(0.5, 0.75), factor=0.1),
    run=RunConfig(log_every=50),
)
