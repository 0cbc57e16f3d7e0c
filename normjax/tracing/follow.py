"""A traced network followed from its variables to its outputs."""

from normjax.tracing import linear_rules, shape_rules
from normjax.tracing.dependencies import Frame, Rules, Tracer, fixed
from normjax.tracing.dimensions import Value
from normjax.tracing.program import Program, sizes_of

_RULES = Rules({**linear_rules.rules, **shape_rules.rules})


def follow(program: Program) -> tuple[Tracer, list[Value], Frame]:
    """Follows a network from its variables to its outputs.

    Args:
      program: as ``capture`` gives it.

    Returns:
      What was found, the outputs, and all values on the way.
    """
    tracer = Tracer(_RULES)
    inputs = [tracer.variable(path, sizes_of(v)) for path, v in zip(program.paths, program.jaxpr.invars, strict=False)]
    inputs += [fixed(sizes_of(v))._replace(given=True) for v in program.jaxpr.invars[len(inputs) :]]
    outputs, frame = tracer.follow(program.jaxpr, program.constants, inputs)
    return tracer, outputs, frame
