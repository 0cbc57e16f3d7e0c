"""Options of layers as configs give them: plain values, whose kind is checked before a model is built."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def check_kinds(what: str, layer: type, options: Mapping[str, Any]) -> None:
    """Refuses an option of another kind than its default: text for a number, a number for true or false.

    Args:
      what: is told where it is refused, for example ``norm 'batch_norm'``.
      layer: a dataclass.
      options: of its fields; those whose default tells nothing, and values that no config can hold, are left alone.

    Raises:
      ValueError: an option is of another kind.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(layer)}
    for name, value in options.items():
        default = defaults.get(name)
        for kind, word, fits in (
            (bool, "True or False", isinstance(value, bool)),
            (int | float, "a number", isinstance(value, int | float) and not isinstance(value, bool)),
            (str, "text", isinstance(value, str)),
        ):
            if isinstance(default, kind):
                if not fits and isinstance(value, str | bool | int | float):
                    raise ValueError(f"{what}: {name}={str(value)[:50]!r} is not {word}.")
                break
