"""A small convolutional network in the manner of VGG with batch normalization on CIFAR-10, in three epochs.

    python train.py --config configs/cifar10_convnet.py --data-dir DATA

With `--model.widths 64 128 256 --model.dense 256 256 --epochs 100` it is the full form, for a GPU.
Expected: about 77 % of the test images in 6 minutes on 2 CPU cores (see results/reference-batch.md, row BatchNorm).
"""

from normjax.data.options import DataConfig
from normjax.training.config import ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig

config = TrainConfig(
    epochs=3,
    batch_size=64,
    data=DataConfig(
        name="cifar10",
        validation=0.1,
        augmentation="crop_flip",
        padding=4,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    model=ModelConfig(name="convnet", widths=(16, 32, 64), dense=(64,)),
    optimizer=OptimizerConfig(learning_rate=0.06, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleConfig(name="one_cycle", peak=0.3),
    run=RunConfig(log_every=50),
)
