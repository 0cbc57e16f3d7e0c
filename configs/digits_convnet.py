"""A small convolutional network with batch normalization on the digits of scikit-learn; the default of train.py.

    python train.py --config configs/digits_convnet.py

Expected: RESULT.
"""

from normjax.training.config import TrainConfig

config = TrainConfig()
