"""Every normalization layer once, with the options that small inputs need."""

from typing import Any, NamedTuple

import normjax
from normjax import nnx as normjax_nnx


class Layer(NamedTuple):
    """A layer under both faces."""

    name: str
    linen: Any
    nnx: Any
    options: dict[str, Any]
    running: bool = True  # has running statistics
    reference: bool = False  # has statistics of a reference batch
    complex: bool = False  # takes complex input
    subset_options: dict[str, Any] = {}  # noqa: RUF012 # where half of each eight examples are left

    @property
    def batched(self) -> bool:
        """Whether it tells training from inference, takes masks, and shares statistics over devices."""
        return self.running or self.reference


_SMALL = {"group_size": 2}

LAYERS = [
    Layer("batch_norm", normjax.BatchNorm, normjax_nnx.BatchNorm, {}, complex=True),
    Layer(
        "ghost_batch_norm",
        normjax.GhostBatchNorm,
        normjax_nnx.GhostBatchNorm,
        {"ghost_batch_size": 4},
        complex=True,
        subset_options={"ghost_batch_size": 2},
    ),
    Layer(
        "batch_renorm",
        normjax.BatchRenorm,
        normjax_nnx.BatchRenorm,
        {"warmup_steps": 0, "r_steps": 0, "d_steps": 0, "r_max": 1.2, "d_max": 0.3},
    ),
    Layer("decorrelated_batch_norm, newton", normjax.DecorrelatedBatchNorm, normjax_nnx.DecorrelatedBatchNorm, _SMALL),
    Layer(
        "decorrelated_batch_norm, eigh",
        normjax.DecorrelatedBatchNorm,
        normjax_nnx.DecorrelatedBatchNorm,
        {**_SMALL, "method": "eigh"},
    ),
    Layer(
        "decorrelated_layer_norm, channel",
        normjax.DecorrelatedLayerNorm,
        normjax_nnx.DecorrelatedLayerNorm,
        _SMALL,
        running=False,
    ),
    Layer(
        "decorrelated_layer_norm, group",
        normjax.DecorrelatedLayerNorm,
        normjax_nnx.DecorrelatedLayerNorm,
        {**_SMALL, "mode": "group"},
        running=False,
    ),
    Layer(
        "decorrelated_layer_norm, eigh",
        normjax.DecorrelatedLayerNorm,
        normjax_nnx.DecorrelatedLayerNorm,
        {**_SMALL, "method": "eigh", "shrink": 0.1},
        running=False,
    ),
    *(
        Layer(
            f"reference_batch_norm, {mode}",
            normjax.ReferenceBatchNorm,
            normjax_nnx.ReferenceBatchNorm,
            {"mode": mode, **options},
            running=False,
            reference=True,
        )
        for mode, options in {
            "virtual": {},
            "mixed": {},
            "fixed": {},
            "renorm": {"r_max": 1.2, "d_max": 0.3},
        }.items()
    ),
]
