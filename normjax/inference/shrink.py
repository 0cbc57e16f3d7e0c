"""A network without some of its neurons."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from normjax.tracing import capture, leaf_paths
from normjax.tracing.multiply_adds import multiply_adds
from normjax.tracing.neurons import Left, Neurons
from normjax.tracing.program import Path
from normjax.tracing.resize import Resized
from normjax.tracing.resize_rules import cut


class Size(NamedTuple):
    """How large a network is."""

    parameters: int
    multiply_adds: int  # for the example


class Sizes:
    """How large a network is with some of its neurons; it is traced once for all.

    Args:
      model: the model with all its neurons.
      neurons: as ``trace`` found them.
      example: an input, or its shape.
      **kwargs: of the model at inference.
    """

    def __init__(self, model: Any, neurons: Neurons, example: Any, **kwargs: Any):
        self._neurons = neurons
        program = capture(model.apply, neurons.shapes, example, **kwargs)
        self._whole = Resized(program, {}, frozenset(leaf_paths(neurons.shapes)))

    def of(self, left: Left) -> Size:
        """Parameters and multiplications of what is left.

        Args:
          left: the neurons that stay, by group; groups not named stay whole.

        Raises:
          ValueError: there is no such group or neuron.
        """
        resized = self._whole.with_alive(self._neurons.alive(left))
        params = (math.prod(resized.shape(path)) for path in resized.program.paths if path[0] == "params")
        return Size(sum(params), multiply_adds(resized))


class Shrunken:
    """Any Flax model with fewer neurons: called as the model is, with variables that are really smaller.

    The model is traced at its own sizes, with the inputs and options of the call, and the traced program runs at those
    that are left. It can be differentiated, and gives the statistics that the model gives.

    Args:
      model: the model with all its neurons.
      neurons: as ``trace`` found them.
      left: the neurons that stay, by group; groups not named stay whole.

    Raises:
      ValueError: there is no such group or neuron.

    Example:
      >>> from flax import linen as nn
      >>> from normjax.tracing.neurons import trace
      >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])
      >>> x = jnp.ones((2, 4))
      >>> variables = model.init(jax.random.key(0), x)
      >>> smaller = Shrunken(model, trace(model, variables, x), {"layers_0": [0, 5]})
      >>> few = smaller.shrink(variables)
      >>> few["params"]["layers_0"]["kernel"].shape, smaller.apply(few, x).shape
      ((4, 2), (2, 3))
      >>> smaller.size(x)
      Size(parameters=19, multiply_adds=28)
    """

    def __init__(self, model: Any, neurons: Neurons, left: Left):
        self.model, self.left = model, {name: tuple(map(int, kept)) for name, kept in left.items()}
        self._neurons = neurons
        self._shapes: dict[str, Any] = dict(neurons.shapes)
        self._alive = neurons.alive(left)
        self._known = frozenset(leaf_paths(neurons.shapes))

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """The initial variables of the model, without those of the neurons that have gone."""
        return self.shrink(self.model.init(*args, **kwargs))

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """What ``model.apply`` does, with the smaller variables.

        Raises:
          ValueError: a variable has another shape than what is left of the model's, or this call of the network cannot
            do without what has gone.
        """
        return self.run(self.model.apply, variables, *args, **kwargs)

    def run(self, function: Callable[..., Any], variables: Any, *args: Any, **kwargs: Any) -> Any:
        """What a function of the model's variables does, with the smaller ones.

        Args:
          function: for example one that calls ``model.apply`` and watches its layers.
          variables: what is left of the model's.
          *args: arrays that are traced.
          **kwargs: taken as they are.
        """
        shapes = {name: self._collection(name, args, kwargs) for name in variables}
        program = capture(function, shapes, *args, **kwargs)
        resized, given = Resized(program, self._alive, self._known), leaf_paths(variables)
        for path in program.paths:
            found = jnp.shape(given[path]) if path in given else "nothing"
            if found != resized.shape(path):
                raise ValueError(
                    f"{'/'.join(path)} has {found}; what is left of it in this network is {resized.shape(path)}."
                )
        outputs = resized([given[path] for path in program.paths], jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(program.output), outputs)

    def size(self, example: Any, **kwargs: Any) -> Size:
        """Parameters and multiplications of the smaller network.

        Args:
          example: an input, or its shape.
          **kwargs: of the model at inference.
        """
        return Sizes(self.model, self._neurons, example, **kwargs).of(self.left)

    def shrink(self, variables: Any) -> Any:
        """What is left of variables of the model, or of some of its collections."""
        leaves = [self._cut(path, leaf) for path, leaf in leaf_paths(variables).items()]
        return jax.tree.unflatten(jax.tree.structure(variables), leaves)

    def shrink_state(self, state: Any) -> Any:
        """What is left of the state of an optimizer.

        Args:
          state: of an optax transformation; what it keeps of a parameter has its name and shape.
        """
        shapes = {path: leaf.shape for path, leaf in leaf_paths({"params": self._shapes["params"]}).items()}
        leaves = []
        for path, leaf in leaf_paths(state).items():
            ends = (("params", *path[start:]) for start in range(len(path)))
            name = next((end for end in ends if shapes.get(end) == jnp.shape(leaf)), None)
            leaves.append(leaf if name is None else self._cut(name, leaf))
        return jax.tree.unflatten(jax.tree.structure(state), leaves)

    def _cut(self, path: Path, leaf: Any) -> Any:
        return cut(leaf, [self._alive.get((path, axis), np.ones(size, bool)) for axis, size in enumerate(leaf.shape)])

    def _collection(self, name: str, args: Any, kwargs: Any) -> Any:
        """Shapes of a collection of the model; one that calls make, as reference statistics, is made once for that."""
        if name not in self._shapes:
            made = {**kwargs, "mutable": [name]}
            _, state = jax.eval_shape(lambda v, a: self.model.apply(v, *a, **made), self._shapes, args)
            self._shapes[name] = state[name]
        return self._shapes[name]
