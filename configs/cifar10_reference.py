"""A small convolutional network with reference-batch norm on CIFAR-10, from batches of two classes each.

    python train.py --config configs/cifar10_reference.py --data-dir DATA

The defaults of the layer: mode virtual, 64 reference examples, passed with gradients in each step. With
--norm.name batch_norm the same stream shows what batch norm makes of it; with --stream.name shuffled both see shuffled
batches.
Expected: see results/reference-batch.md, row "ReferenceBatchNorm, virtual".
"""

from normjax.data.options import DataConfig, StreamConfig
from normjax.training.config import ModelConfig, NormConfig, OptimizerConfig, ScheduleConfig, TrainConfig

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
    stream=StreamConfig(name="few_classes", classes=2),
    model=ModelConfig(name="convnet", widths=(16, 32, 64), dense=(64,)),
    norm=NormConfig(name="reference_batch_norm"),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.06, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleConfig(name="one_cycle", peak=0.3),
)
