"""Networks as programs: their jaxprs, and values that the variables alone decide."""

from normjax.tracing.known import Known
from normjax.tracing.program import Program, capture, inlined, leaf_paths, nested

__all__ = ["Known", "Program", "capture", "inlined", "leaf_paths", "nested"]
