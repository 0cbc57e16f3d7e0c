"""VGG-16 with ImageNet weights on cats against dogs, to be pruned: the transfer of Wang's thesis.

    python train.py --config configs/cats_vs_dogs_vgg16.py --data-dir DATA
    normjax prune RUN --target-accuracy 0.95 --score taylor_gate

It reads vgg16.safetensors in the current directory (or --model.weights FILE): the weights of torchvision's vgg16
under their own names. The head for two classes starts anew. cats_vs_dogs of TFDS has no test split of its own.
Expected: not run by us; a GPU is wanted. `normjax study pruning-transfer` runs the same on CIFAR-10.
"""

from pathlib import Path

from normjax.data.options import DataConfig
from normjax.training.config import ModelConfig, NormConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig

config = TrainConfig(
    epochs=5,
    batch_size=64,
    data=DataConfig(
        name="cats_vs_dogs",
        train_split="train[:80%]",
        test_split="train[80%:]",
        validation=0.1,
        image_size=224,
        augmentation="random_resized_crop",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    model=ModelConfig(name="vgg16", widths=None, dense=(4096, 4096), weights=Path("vgg16.safetensors")),
    norm=NormConfig(name="none"),
    optimizer=OptimizerConfig(learning_rate=1e-3, momentum=0.9, weight_decay=5e-4),
    schedule=ScheduleConfig(name="cosine", warmup_epochs=0.1),
    run=RunConfig(log_every=20),
)
