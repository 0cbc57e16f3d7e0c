"""A small convolutional network with batch normalization on the digits of scikit-learn; the default of train.py.

    python train.py --config configs/digits_convnet.py

Expected: about 99 % on the test set, in about half a minute on 2 CPU cores (five seeds; see WORKSPACE_NOTES.md).
"""

from normjax.training.config import TrainConfig

config = TrainConfig()
