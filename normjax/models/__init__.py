"""Networks that take their norm and their weight norm as factories, by name."""

from typing import Any

from flax import linen as nn

from normjax.linen.weight_norm_factory import WeightNormFactory, plain
from normjax.models.common import NormFactory
from normjax.models.convnet import ConvNet
from normjax.models.detector import Detector
from normjax.models.mlp import MLP
from normjax.models.resnet import BottleneckResNet, CifarResNet
from normjax.models.vgg import vgg16

__all__ = ["MLP", "BottleneckResNet", "CifarResNet", "ConvNet", "Detector", "build_model", "vgg16"]


def build_model(
    name: str,
    *,
    num_classes: int,
    norm: NormFactory,
    weight_norm: WeightNormFactory = plain,
    widths: tuple[int, ...] | None = None,
    dense: tuple[int, ...] | None = None,
    dtype: Any = "float32",
) -> nn.Module:
    """The network ``name``.

    Args:
      name: ``mlp``, ``convnet``, ``vgg16``, ``resnet20``, ``resnet56`` or ``resnet50``.
      num_classes: outputs.
      norm: factory of the norm, as ``normjax.make_norm`` gives it.
      weight_norm: wrapper of the hidden layers, as ``normjax.make_weight_norm`` gives it; the last layer stays plain.
      widths: channels of each stage (units of each layer for ``mlp``); None is the published form.
      dense: hidden dense layers of ``convnet`` and ``vgg16``; None is the network's own.
      dtype: type of the computation.

    Raises:
      ValueError: the name is not known, or the widths do not suit the network.
    """
    options: dict[str, Any] = {"num_classes": num_classes, "norm": norm, "weight_norm": weight_norm, "dtype": dtype}
    if widths is not None:
        options["widths"] = tuple(widths)
    match name:
        case "mlp":
            return MLP(**options)
        case "convnet" | "vgg16":
            if dense is not None:
                options["dense"] = tuple(dense)
            return ConvNet(**options) if name == "convnet" else vgg16(**options)
        case "resnet20" | "resnet56":
            if widths is not None and not widths:
                raise ValueError(f"widths=() has no stage; {name} needs one or more.")
            if widths is not None and list(widths) != sorted(widths):
                raise ValueError(f"widths={tuple(widths)} must not decrease: {name} pads its shortcuts with zeros.")
            return CifarResNet(blocks={"resnet20": 3, "resnet56": 9}[name], **options)
        case "resnet50":
            if widths is not None and len(widths) != 4:
                raise ValueError(f"widths={tuple(widths)} has {len(widths)} stages; resnet50 has 4.")
            return BottleneckResNet(**options)
    raise ValueError(f"model {name!r} is not known; use mlp, convnet, vgg16, resnet20, resnet56 or resnet50.")
