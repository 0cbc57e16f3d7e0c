"""An MLP on handwritten digits without a norm of activations: orthogonal weights, neurons scaled by their weights (NM).

    python train.py --config configs/digits_mlp_neuron.py

Scales and biases are initialised by 256 training images. `normjax structure RUN` shows the neuron scales.
Expected: NN % of the test images in NN s on 2 CPU cores (measured with seed 0).
"""

from normjax.training.config import ModelConfig, NormConfig, TrainConfig, WeightNormConfig

config = TrainConfig(
    model=ModelConfig(name="mlp", widths=(256, 256)),
    norm=NormConfig(name="none"),
    weight_norm=WeightNormConfig(name="structural", options={"measure": "neuron"}, initialize_from=256),
)
