"""The choice of a learning rate: the same grid for every contender, by the validation split."""

from collections.abc import Sequence

from normjax.studies.trials import Results


def chosen_rate(results: Results, keys: Sequence[str], rates: Sequence[float]) -> float | None:
    """The rate whose run has the best validation accuracy; None where a run is missing.

    Args:
      results: of the runs so far.
      keys: the run of each rate.
      rates: the grid; of one rate there is no choice, and no run.
    """
    if len(rates) == 1:
        return rates[0]
    if any(key not in results for key in keys):
        return None
    # A run that diverged is worse than any other.
    scores = [results[key].get("validation_accuracy", -1.0) for key in keys]
    return rates[scores.index(max(scores))]
