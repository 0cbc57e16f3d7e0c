"""Public names that are imported when first used, so that a package opens without what it does not need yet."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package.

    Args:
      package: its name.
      modules: for each public name the module that defines it; a module's own name stands for the module.

    Example:
      >>> get = lazy_names("example", {"sqrt": "math", "math": "math"})
      >>> print(get("sqrt")(9.0), get("math").pi > 3)
      3.0 True
    """

    def public_name(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(modules[name])
        return module if modules[name].rpartition(".")[2] == name else getattr(module, name)

    return public_name
