"""A multilayer perceptron with batch normalization on the digits of scikit-learn.

    python train.py --config configs/digits_mlp.py

Expected: 96.4 % of the test images in 11 s on 2 CPU cores (measured with seed 0).
"""

from normjax.training.config import ModelConfig, TrainConfig

config = TrainConfig(model=ModelConfig(name="mlp", widths=(256, 256)))
