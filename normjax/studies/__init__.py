"""Studies put published claims to the test: raw numbers in ``results/``, and tables and figures made of them."""

import importlib
from typing import Any

STUDIES = {"reference-batch": "reference_batch"}  # name: module


def find_study(name: str) -> Any:
    """The module of a study, with ``plan``, ``table`` and ``draw``."""
    return importlib.import_module(f"normjax.studies.{STUDIES[name]}")
