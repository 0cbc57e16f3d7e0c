"""An NNX module as a pure function of variables, with the signature of a Linen module."""

import re
from collections.abc import Sequence
from typing import Any

from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

_COLLECTIONS = {nnx.Param: "params", nnx.BatchStat: "batch_stats"}


class Pure:
    """What a module computes, without its variables.

    Args:
      module: it stays as it is.
    """

    def __init__(self, module: nnx.Module):
        self._graph, state = nnx.split(module)
        # In the order of the state, with the path of each variable in its collection.
        self._state = state
        self._places = {path: (_collection(variable), *map(str, path)) for path, variable in nnx.to_flat_state(state)}

    def apply(
        self,
        variables: Any,
        *args: Any,
        train: bool | None = None,
        mutable: Sequence[str] | str | bool = (),
        **kwargs: Any,
    ) -> Any:
        """What the module gives, and with ``mutable`` the collections of that name after the call.

        Args:
          variables: as ``pure`` gives them, of the module or of one that is smaller.
          *args: of the module's call.
          train: whether as after ``module.train()`` or ``module.eval()``; None leaves it as the module was.
          mutable: names of collections, or one name, or True for all; those of ``rng_count`` among them, which
            dropout moves: without them it draws the same mask again.
          **kwargs: of the module's call.
        """
        given = flatten_dict(variables)
        state = [
            (path, variable.replace(given[self._places[path]])) for path, variable in nnx.to_flat_state(self._state)
        ]
        module = nnx.merge(self._graph, nnx.from_flat_state(state))
        if train is not None:
            module.train() if train else module.eval()
        output = module(*args, **kwargs)
        if not mutable:
            return output
        after = _variables(nnx.state(module), self._places)
        names = after if mutable is True else [mutable] if isinstance(mutable, str) else mutable
        return output, {name: after[name] for name in names if name in after}

    def variables(self) -> dict[str, Any]:
        """The variables of the module that it was made of."""
        return _variables(self._state, self._places)


def pure(module: nnx.Module) -> tuple[Pure, dict[str, Any]]:
    """An NNX module in the form that ``normjax.prune``, ``normjax.fold`` and ``normjax.pruning.trace`` take.

    Args:
      module: it stays as it is.

    Returns:
      ``(model, variables)``: ``model.apply(variables, ..., train=False)`` is what the module computes at inference, and
      the variables are nested dictionaries by collection: ``params``, ``batch_stats``, and others by the name of their
      type.

    Example:
      >>> import jax.numpy as jnp
      >>> import normjax
      >>> net = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 3, rngs=nnx.Rngs(1)))
      >>> x = jnp.ones((2, 4))
      >>> smaller = normjax.prune(*pure(net), x, share=0.5)
      >>> smaller.apply(smaller.variables, x).shape, smaller.variables["params"]["layers"]["0"]["kernel"].shape
      ((2, 3), (4, 4))
    """
    model = Pure(module)
    return model, model.variables()


def _variables(state: Any, places: dict[Any, tuple[str, ...]]) -> dict[str, Any]:
    # What a call adds, as intermediates, has no place.
    flat = {places[path]: variable.get_value() for path, variable in nnx.to_flat_state(state) if path in places}
    return unflatten_dict(flat)


def _collection(variable: Any) -> str:
    kind = variable.type if hasattr(variable, "type") else type(variable)
    name = next((name for base, name in _COLLECTIONS.items() if issubclass(kind, base)), None)
    return name or re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
