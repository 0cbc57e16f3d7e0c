"""The plain reading of Luo, Li and Zuo (2020): a reference batch taken once, before training, mixed into every batch.

    python train.py --config configs/cifar10_reference_once.py --data-dir DATA

As cifar10_reference.py, but the statistics of the reference stay those of the initial weights, which deeper layers soon
leave behind.
Expected: 21 % of the test images, and 33 % from shuffled batches (three seeds, results/reference-batch.md, row "mixed,
reference taken once").
"""

from pathlib import Path

from normjax.training.config import NormConfig, ReferenceConfig, load_config

changes = {
    "norm": NormConfig(name="reference_batch_norm", options={"mode": "mixed"}),
    "reference": ReferenceConfig(size=64, draw="balanced", refresh="once"),
}
config = load_config(Path(__file__).with_name("cifar10_reference.py")).model_copy(update=changes)
