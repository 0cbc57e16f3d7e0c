"""Multiplications of a traced network."""

import math

from jax.extend.core import Jaxpr

from normjax.tracing.dependencies import Frame
from normjax.tracing.program import as_number, closed, inlined
from normjax.tracing.resize import Resized
from normjax.tracing.resize_rules import sizes


def multiply_adds(resized: Resized) -> int:
    """Multiplications, each with its addition, of all products and convolutions with what is left.

    A loop counts as often as it runs, one that ends by a condition not at all; of a branch the costliest way counts.
    """

    def count(jaxpr: Jaxpr, frame: Frame) -> int:
        total = 0
        for number, equation in enumerate(jaxpr.eqns):
            name, calls = equation.primitive.name, frame.calls.get(number, [])
            inputs = [sizes(frame.value(v), resized.alive) for v in equation.invars]
            outputs = [sizes(frame.value(v), resized.alive) for v in equation.outvars]
            if name == "conv_general_dilated":
                features = inputs[1][equation.params["dimension_numbers"].rhs_spec[0]]
                total += math.prod(outputs[0]) * math.prod(inputs[1]) // max(features, 1)
            elif name == "dot_general":
                (summed, _), _ = equation.params["dimension_numbers"]
                total += math.prod(outputs[0]) * math.prod(inputs[0][axis] for axis in summed)
            elif (called := inlined(equation)) is not None:
                total += count(called.jaxpr, calls[0])
            elif name == "scan":
                total += as_number(equation.params["length"]) * count(closed(equation.params["jaxpr"]).jaxpr, calls[0])
            elif name == "cond":
                total += max(
                    count(branch.jaxpr, inner) for branch, inner in zip(equation.params["branches"], calls, strict=True)
                )
        return total

    return count(resized.program.jaxpr, resized.frame)
