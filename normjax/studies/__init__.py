"""Studies put published claims to the test: raw numbers in ``results/``, and tables and figures made of them."""

import importlib
from typing import Any

STUDIES = {  # name: module
    "reference-batch": "reference_batch",
    "reference-batch-transfer": "reference_batch_transfer",
    "dswn-neuron": "dswn_neuron",
    "dswn-sparsity": "dswn_sparsity",
    "pruning": "pruning",
    "pruning-transfer": "pruning_transfer",
}


def find_study(name: str) -> Any:
    """The module of a study, with ``plan``, ``table`` and ``draw``."""
    return importlib.import_module(f"normjax.studies.{STUDIES[name]}")
