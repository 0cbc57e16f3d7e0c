"""ResNet-50 v1.5 with batch normalization on ImageNet, for a pod: the recipe of Goyal et al. (2017).

    python train.py --config configs/imagenet_resnet50.py --data-dir DATA

Expected: about 76 % top-1 after 90 epochs (published; not run by us). The same code was run for a few steps on a small
stand-in data set in TFDS format, in the tests. TFDS cannot download ImageNet by itself: its page says which archives to
fetch from image-net.org by hand.

The batch of 1,024 takes a rate of 0.4, 0.1 for each 256 images; a larger batch wants both in proportion.
"""

from normjax.data.options import DataConfig
from normjax.training.config import ModelConfig, NormConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig

config = TrainConfig(
    epochs=90,
    batch_size=1024,
    label_smoothing=0.1,
    data=DataConfig(
        name="imagenet2012",
        test_split="validation",
        validation=0,
        image_size=224,
        augmentation="random_resized_crop",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    model=ModelConfig(name="resnet50", widths=None, dtype="bfloat16"),
    norm=NormConfig(name="batch_norm", momentum=0.9),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.4, momentum=0.9, nesterov=True, weight_decay=1e-4),
    schedule=ScheduleConfig(name="cosine", warmup_epochs=5),
    run=RunConfig(eval_batch_size=1024, log_every=100, checkpoint_every=1000, threads=32),
)
