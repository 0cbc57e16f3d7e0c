"""Does scaling neurons by their weights (DSWN-NM) make a network converge in fewer steps? (Yuan et al., 2021)

A multilayer perceptron on MNIST at a constant learning rate, which is chosen for each contender by the steps that it
takes to the accuracy, on a seed of its own. What is reported are the steps to that validation accuracy.
"""

from pathlib import Path
from typing import Any

from normjax.data.options import DataConfig
from normjax.studies.comparison import estimate, markdown, paired
from normjax.studies.rates import fastest_rate, steps_to
from normjax.studies.trials import Results, Trial
from normjax.training.config import (
    ModelConfig,
    NormConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
    WeightNormConfig,
)

REQUIRES = ()
ACCURACY = 0.97  # to be reached on the validation split
ON_THE_WAY = (0.90, 0.95)  # told as well
EPOCHS, BATCH, VALIDATE_EVERY = 3.0, 128, 10
TUNING_SEED, SEEDS = 0, (1, 2, 3)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
WIDTHS = (256, 256, 256, 256)
_FROM = 256  # training examples by which scales and biases are initialised


def _reparametrised(name: str, **options: Any) -> dict[str, Any]:
    return {
        "norm": NormConfig(name="none"),
        "weight_norm": WeightNormConfig(name=name, options=options, initialize_from=_FROM),
    }


CONTENDERS: dict[str, dict[str, Any]] = {
    "none": {"norm": NormConfig(name="none")},
    "batch_norm": {"norm": NormConfig(momentum=0.9)},
    "weight_norm": _reparametrised("weight_norm"),
    "orthogonal": _reparametrised("orthogonal"),
    "neuron": _reparametrised("structural", measure="neuron"),
}
LABELS = {
    "none": "no normalization",
    "batch_norm": "batch norm",
    "weight_norm": "weight norm",
    "orthogonal": "orthogonal weight norm",
    "neuron": "structural weight norm, NM",
}


def plan(results: Results, budget: float = 1.0) -> list[Trial]:
    """The runs of the study: first the choice of the learning rates, then the comparison.

    Args:
      results: of the runs so far.
      budget: share of the full length; below 1 there is one seed, below 0.1 one learning rate, a part of the data and
        a smaller network.
    """
    small = budget < 0.1
    rates = RATES[2:3] if small else RATES
    tuning = [
        Trial(_tuning_key(name, rate), _config(name, TUNING_SEED, rate, budget, small=small))
        for name in CONTENDERS
        for rate in rates
        if len(rates) > 1
    ]
    comparison = []
    for seed in SEEDS if budget >= 1 else SEEDS[:1]:
        for name in CONTENDERS:
            rate = best_rate(results, name, rates)
            if rate is not None:
                comparison.append(Trial(_key(name, seed), _config(name, seed, rate, budget, small=small)))
    return tuning + comparison


def best_rate(results: Results, name: str, rates: tuple[float, ...] = RATES) -> float | None:
    """The learning rate of the comparison; None where the choice is not over."""
    return fastest_rate(results, [_tuning_key(name, rate) for rate in rates], rates, ACCURACY)


def table(results: Results) -> str:
    """The tables of the study in Markdown, made of the raw numbers alone."""
    seeds = [seed for seed in SEEDS if all(_key(name, seed) in results for name in CONTENDERS)]
    if not seeds:
        return "Inconclusive: no seed has all contenders yet.\n"
    rows = []
    steps = {name: [_steps(results[_key(name, seed)]) for seed in seeds] for name in CONTENDERS}
    for name in CONTENDERS:
        runs = [results[_key(name, seed)] for seed in seeds]
        rate = runs[0]["config"]["optimizer"]["learning_rate"]
        accuracies = [0.0 if "diverged" in run else 100 * run["test"]["accuracy"] for run in runs]
        rows.append(
            [
                LABELS[name],
                f"{rate:g}",
                *(_shown([_steps(run, accuracy) for run in runs]) for accuracy in (*ON_THE_WAY, ACCURACY)),
                "" if name == "neuron" else _difference(steps["neuron"], steps[name]),
                str(estimate(accuracies)),
            ]
        )
    run = results[_key("batch_norm", seeds[0])]
    reached = [f"steps to {accuracy:.0%}" for accuracy in (*ON_THE_WAY, ACCURACY)]
    header = ["normalization", "learning rate", *reached, f"NM less it, to {ACCURACY:.0%}", "test accuracy [%]"]
    said = (
        f"Multilayer perceptron of {run['parameters']:,} parameters on MNIST, batches of {BATCH}, "
        f"{run['steps']:,} steps, {len(seeds)} seeds; mean ± half of the 95 % interval, differences paired over seeds. "
        f"Accuracy is that of the validation split, every {VALIDATE_EVERY} steps; learning rates are those that reach "
        f"{ACCURACY:.0%} first on another seed, of {', '.join(f'{rate:g}' for rate in RATES)}.\n"
    )
    return f"{said}\n{_claim(steps)}\n\n{markdown(header, rows)}"


def draw(results: Results, stem: Path, data_dir: Path | None = None) -> None:
    """The figure of the study, beside its numbers: ``STEM-accuracy.png``."""
    del data_dir  # the numbers are enough
    from normjax.studies.curves import draw_curves

    curves = {
        LABELS[name]: [run["curve"] for seed in SEEDS if "curve" in (run := results.get(_key(name, seed), {}))]
        for name in CONTENDERS
    }
    file = stem.with_name(f"{stem.name}-accuracy.png")
    draw_curves(curves, file, "Validation accuracy on MNIST", xlabel=f"steps of {BATCH} images", mark=ACCURACY)


def _claim(steps: dict[str, list[int | None]]) -> str:
    mine = steps["neuron"]
    slower = [LABELS[name] for name, theirs in steps.items() if name != "neuron" and not _fewer(mine, theirs)]
    if not slower:
        return "NM takes fewer steps than each of the others, as was claimed."
    return f"NM does not take fewer steps than: {', '.join(slower)} (claimed: fewer than each)."


def _fewer(mine: list[int | None], theirs: list[int | None]) -> bool:
    if None in mine:
        return False
    return None in theirs or sum(a for a in mine if a) < sum(b for b in theirs if b)


def _shown(steps: list[int | None]) -> str:
    reached = [float(count) for count in steps if count is not None]
    if len(reached) < len(steps):
        return f"reached by {len(reached)} of {len(steps)} seeds"
    return str(estimate(reached))


def _difference(mine: list[int | None], theirs: list[int | None]) -> str:
    both = [(float(a), float(b)) for a, b in zip(mine, theirs, strict=True) if a is not None and b is not None]
    return str(paired(*zip(*both, strict=True))) if len(both) == len(mine) else ""


def _steps(run: dict[str, Any], accuracy: float = ACCURACY) -> int | None:
    return steps_to(run.get("curve", []), accuracy)


def _key(name: str, seed: int) -> str:
    return f"comparison/{name}/{seed}"


def _tuning_key(name: str, rate: float) -> str:
    return f"tuning/{name}/{rate:g}"


def _config(name: str, seed: int, rate: float, share: float, *, small: bool) -> TrainConfig:
    data = DataConfig(name="mnist", validation=0.1)
    if small:
        data = data.model_copy(update={"train_split": "train[:4%]", "test_split": "test[:4%]"})
    return TrainConfig(
        seed=seed,
        epochs=EPOCHS * share * (25 if small else 1),
        batch_size=BATCH,
        data=data,
        model=ModelConfig(name="mlp", widths=(32, 32) if small else WIDTHS),
        optimizer=OptimizerConfig(learning_rate=rate, momentum=0.9, weight_decay=0.0),
        schedule=ScheduleConfig(name="constant", warmup_epochs=0),
        run=RunConfig(threads=1, log_every=50, validate_every=VALIDATE_EVERY, keep=1),
        **CONTENDERS[name],
    )
