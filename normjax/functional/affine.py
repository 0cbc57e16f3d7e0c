"""Scale and bias of layers whose features lie along the last axis."""

from jaxtyping import Array


def affine(y: Array, scale: Array | None, bias: Array | None) -> Array:
    """gamma * y + beta along the last axis; None is 1, or 0."""
    shape = (1,) * (y.ndim - 1) + (-1,)
    if scale is not None:
        y = y * scale.astype(y.dtype).reshape(shape)
    if bias is not None:
        y = y + bias.astype(y.dtype).reshape(shape)
    return y


def check_affine(x: Array, scale: Array | None, bias: Array | None) -> None:
    """ValueError where scale or bias is not one entry a feature."""
    for name, value in (("scale", scale), ("bias", bias)):
        if value is not None and value.shape != x.shape[-1:]:
            raise ValueError(f"{name} of shape {value.shape} does not fit the features; use shape {x.shape[-1:]}.")
