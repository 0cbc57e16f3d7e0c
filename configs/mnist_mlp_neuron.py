"""The multilayer perceptron of mnist_mlp.py without a norm of activations: NM on orthogonal weights.

    python train.py --config configs/mnist_mlp_neuron.py --data-dir DATA

Scales and biases are initialised by 256 training images; `normjax structure RUN` shows the scales of the neurons.
Expected: 98.51 % of the test images in 39 s on 2 CPU cores (measured with seed 0).
"""

from pathlib import Path

from normjax.training.config import NormConfig, WeightNormConfig, load_config

neuron = WeightNormConfig(name="structural", options={"measure": "neuron"}, initialize_from=256)
changes = {"weight_norm": neuron, "norm": NormConfig(name="none")}
config = load_config(Path(__file__).with_name("mnist_mlp.py")).model_copy(update=changes)
