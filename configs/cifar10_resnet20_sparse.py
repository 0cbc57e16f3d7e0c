"""The ResNet-20 of cifar10_resnet20.py, made sparse while it trains: SM on orthogonal weights.

    python train.py --config configs/cifar10_resnet20_sparse.py --data-dir DATA

More strength makes more zeros; `normjax structure RUN` shows those of each layer.
Expected: not run by us at this length.
"""

from pathlib import Path

from normjax.training.config import WeightNormConfig, load_config

sparse = WeightNormConfig(name="structural", options={"measure": "sparsity", "strength": 0.05})
config = load_config(Path(__file__).with_name("cifar10_resnet20.py")).model_copy(update={"weight_norm": sparse})
