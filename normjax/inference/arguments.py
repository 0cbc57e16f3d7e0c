"""What a batch is to a model: one input, or several."""

from typing import Any


def arguments_of(batch: Any) -> tuple[tuple, dict]:
    """Positional and keyword arguments: of a tuple the first, of a dictionary the second; else one input."""
    if isinstance(batch, tuple):
        return batch, {}
    if isinstance(batch, dict):
        return (), batch
    return (batch,), {}
