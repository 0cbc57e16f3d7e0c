"""Networks as programs: their jaxprs, what the variables alone decide, what belongs together, runs at other sizes."""

from normjax.tracing.known import Known
from normjax.tracing.program import Program, capture, inlined, leaf_paths, nested

__all__ = ["Known", "Program", "capture", "inlined", "leaf_paths", "nested"]
