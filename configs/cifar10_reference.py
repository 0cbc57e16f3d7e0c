"""The convolutional network of cifar10_convnet.py with reference-batch norm, from batches of two classes each.

    python train.py --config configs/cifar10_reference.py --data-dir DATA

The defaults of the layer: mode virtual, 64 reference examples, passed with gradients in each step. With
--norm.name batch_norm the same stream shows what batch norm makes of it; with --stream.name shuffled both see shuffled
batches.
Expected: 76.0 % of the test images (three seeds, results/reference-batch.md, row "ReferenceBatchNorm, virtual") in 11
minutes on one CPU core beside another run; batch norm reaches 57.6 %.
"""

from pathlib import Path

from normjax.data.options import StreamConfig
from normjax.training.config import NormConfig, load_config

changes = {"stream": StreamConfig(name="few_classes", classes=2), "norm": NormConfig(name="reference_batch_norm")}
config = load_config(Path(__file__).with_name("cifar10_convnet.py")).model_copy(update=changes)
