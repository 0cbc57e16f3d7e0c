"""An MLP on handwritten digits that becomes sparse while it trains: orthogonal weights under exclusive sparsity (SM).

    python train.py --config configs/digits_mlp_sparse.py

`normjax structure RUN` shows the zeros of each layer; more strength makes more of them.
Expected: NN % of the test images with NN % of all weights exactly zero, in NN s on 2 CPU cores (measured with seed 0).
"""

from normjax.training.config import ModelConfig, NormConfig, TrainConfig, WeightNormConfig

config = TrainConfig(
    model=ModelConfig(name="mlp", widths=(256, 256)),
    norm=NormConfig(name="batch_norm", momentum=0.9),
    weight_norm=WeightNormConfig(name="structural", options={"measure": "sparsity", "strength": 0.05}),
)
