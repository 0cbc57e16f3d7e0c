"""The ResNet-20 of cifar10_resnet20.py with NM on orthogonal weights: neurons scaled by the length of their weights.

    python train.py --config configs/cifar10_resnet20_neuron.py --data-dir DATA

`normjax structure RUN` shows the scales of each layer.
Expected: not run by us at this length.
"""

from pathlib import Path

from normjax.training.config import WeightNormConfig, load_config

neuron = WeightNormConfig(name="structural", options={"measure": "neuron"})
changes = {"weight_norm": neuron}
config = load_config(Path(__file__).with_name("cifar10_resnet20.py")).model_copy(update=changes)
