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


def steps_to(curve: Sequence[Sequence[float]], accuracy: float) -> int | None:
    """The first step whose validation accuracy is as high; None where there is none.

    Args:
      curve: steps and accuracies.
      accuracy: to be reached.
    """
    return next((int(step) for step, reached in curve if reached >= accuracy), None)


def fastest_rate(results: Results, keys: Sequence[str], rates: Sequence[float], accuracy: float) -> float | None:
    """The rate that reaches an accuracy in the fewest steps (where none does, the best); None where a run is missing.

    Args:
      results: of the runs so far.
      keys: the run of each rate.
      rates: the grid; of one rate there is no choice, and no run.
      accuracy: to be reached, on the validation split.
    """
    best = chosen_rate(results, keys, rates)
    if best is None or len(rates) == 1:
        return best
    reached = [steps_to(results[key].get("curve", []), accuracy) for key in keys]
    steps = [count for count in reached if count is not None]
    return rates[reached.index(min(steps))] if steps else best
