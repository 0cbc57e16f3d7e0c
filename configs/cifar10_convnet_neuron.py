"""The convolutional network of cifar10_convnet.py without a norm of activations: NM on orthogonal weights.

    python train.py --config configs/cifar10_convnet_neuron.py --data-dir DATA

Scales and biases are initialised by 256 training images; `normjax structure RUN` shows the scales of the neurons.
Without a norm of activations the learning rate is smaller.
Expected: 73.30 % of the test images (measured with seed 0; the plain network reaches 77 %). The time was not
measured: the machine was busy with other work.
"""

from pathlib import Path

from normjax.training.config import NormConfig, OptimizerConfig, WeightNormConfig, load_config

neuron = WeightNormConfig(name="structural", options={"measure": "neuron"}, initialize_from=256)
changes = {
    "weight_norm": neuron,
    "norm": NormConfig(name="none"),
    "optimizer": OptimizerConfig(learning_rate=0.02, momentum=0.9, weight_decay=5e-4),
}
config = load_config(Path(__file__).with_name("cifar10_convnet.py")).model_copy(update=changes)
