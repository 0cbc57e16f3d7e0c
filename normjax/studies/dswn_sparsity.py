"""Does the L1,2 norm inside weight normalization (DSWN-SM) make networks sparse at no cost? (Yuan et al., 2021)

A multilayer perceptron on MNIST and a small convolutional network on CIFAR-10, trained with the same number of
images: SM, exclusive sparsity without a base, magnitude pruning, L1, group lasso and CGES. The whole curve of accuracy
against the share of exact zeros comes from one grid of strengths; for the comparison at 80 % zeros the strength of each
contender is searched for on one seed, from that grid on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from normjax.data.options import DataConfig
from normjax.studies.calibration import found_strength, next_strength
from normjax.studies.comparison import estimate, markdown, paired
from normjax.studies.network import CIFAR10
from normjax.studies.rates import chosen_rate
from normjax.studies.trials import Results, Trial
from normjax.training.config import (
    ModelConfig,
    OptimizerConfig,
    ProximalConfig,
    RunConfig,
    ScheduleConfig,
    TrainConfig,
    WeightNormConfig,
)

REQUIRES = ()
SEEDS = (0, 1, 2)
LOW, HIGH = 0.80, 0.82  # share of zeros at which contenders are compared
_TRIES = 4  # strengths beyond the grid
DENSE, SM = "dense", "sm"
LABELS = {
    DENSE: "dense",
    SM: "structural weight norm, SM",
    "exclusive": "exclusive sparsity, no base",
    "magnitude": "magnitude pruning",
    "l1": "L1",
    "group": "group lasso",
    "cges": "CGES",
}
_PENALTIES: dict[str, dict[str, Any]] = {
    "exclusive": {"penalty": "exclusive_sparsity"},
    "magnitude": {"penalty": "magnitude", "rise": 0.5},
    "l1": {"penalty": "l1"},
    "group": {"penalty": "group_sparsity"},
    "cges": {"penalty": "combined", "rule": "cges"},
}


class Task(NamedTuple):
    """A network and its data, and what is tried on them."""

    name: str
    data: DataConfig
    model: ModelConfig
    epochs: float
    batch: int
    contenders: tuple[str, ...]
    strengths: tuple[float, ...]  # of the penalties
    shares: tuple[float, ...]  # of zeros, of magnitude pruning
    rates: tuple[float, ...]
    curve_seeds: tuple[int, ...]  # of each strength of the grid

    def grid(self, contender: str) -> tuple[float, ...]:
        """The strengths that are tried on a contender; of the dense network the only one."""
        return (0.0,) if contender == DENSE else self.shares if contender == "magnitude" else self.strengths


TASKS = (
    Task(
        "mnist",
        DataConfig(name="mnist", validation=0),
        ModelConfig(name="mlp", widths=(256, 256)),
        5.0,
        128,
        tuple(LABELS),
        (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
        (0.5, 0.7, 0.81, 0.9, 0.95, 0.98),
        (0.02, 0.06, 0.2),
        SEEDS,
    ),
    Task(
        "cifar10",
        CIFAR10.model_copy(update={"validation": 0}),
        ModelConfig(name="convnet", widths=(16, 32, 64), dense=(64,)),
        3.0,
        64,
        (DENSE, SM, "magnitude", "l1"),
        (1e-3, 1e-2, 1e-1),
        (0.5, 0.81, 0.9),
        (0.06,),
        SEEDS[:1],
    ),
)


def plan(results: Results, budget: float = 1.0) -> list[Trial]:
    """The runs of the study: learning rates, then the curves, then the comparison at 80 % zeros.

    Args:
      results: of the runs so far.
      budget: share of the full length; below 1 there is one seed, below 0.1 one strength and learning rate, a part of
        the data and smaller networks.
    """
    small = budget < 0.1
    trials = []
    for task in TASKS:
        rates = task.rates[:1] if small else task.rates
        trials += [
            Trial(_rate_key(task, base, rate), _config(task, base, 0.01, 0, rate, budget, small=small, tuning=True))
            for base in (DENSE, SM)
            for rate in rates
            if len(rates) > 1
        ]
        for name in task.contenders:
            rate = _rate(results, task, name, rates)
            if rate is None:
                continue
            seeds = task.curve_seeds if budget >= 1 else SEEDS[:1]
            points = [(strength, seed) for seed in seeds for strength in task.grid(name)]
            if small:
                points = points[-1:]
            else:
                points += _comparison(results, task, name, SEEDS if budget >= 1 else SEEDS[:1])
            for strength, seed in dict.fromkeys(points):
                config = _config(task, name, strength, seed, rate, budget, small=small)
                trials.append(Trial(_key(task, name, strength, seed), config, "zeros"))
    return trials


def _comparison(results: Results, task: Task, name: str, seeds: Sequence[int]) -> list[tuple[float, int]]:
    """Strengths and seeds of the runs at the share of zeros that is compared, as far as it is known."""
    if name == DENSE:
        return [(0.0, seed) for seed in seeds]
    tried = tried_strengths(results, task, name)
    if not set(task.grid(name)) <= {strength for strength, _ in tried}:
        return []
    extra = [(strength, 0) for strength, _ in tried if strength not in task.grid(name)]
    if (found := compared_strength(results, task, name)) is not None:
        return extra + [(found, seed) for seed in seeds]
    following = next_strength(tried, LOW, HIGH) if len(extra) < _TRIES else None
    return extra if following is None else [*extra, (following, 0)]


def tried_strengths(results: Results, task: Task, name: str) -> list[tuple[float, float]]:
    """Strengths of the first seed and the shares of zeros that they gave."""
    start = f"{task.name}/{name}/"
    keys = [key for key in results if key.startswith(start) and key.endswith("/0") and "probe" in results[key]]
    return sorted((float(key.split("/")[2]), results[key]["probe"]["zeros"]) for key in keys)


def compared_strength(results: Results, task: Task, name: str) -> float | None:
    """The strength with which a contender has 80 % zeros; None where it is not found."""
    return 0.0 if name == DENSE else found_strength(tried_strengths(results, task, name), LOW, HIGH)


def table(results: Results) -> str:
    """The tables of the study in Markdown, made of the raw numbers alone."""
    parts = [_task_table(results, task) for task in TASKS]
    return "\n".join(part for part in parts if part)


def draw(results: Results, stem: Path, data_dir: Path | None = None) -> None:
    """The figures of the study, beside its numbers: ``STEM-mnist.png`` and ``STEM-cifar10.png``."""
    del data_dir  # the numbers are enough
    from normjax.studies.dswn_sparsity_figures import draw_zeros

    for task in TASKS:
        if points := {name: curve(results, task, name) for name in task.contenders if curve(results, task, name)}:
            draw_zeros(points, LABELS, stem.with_name(f"{stem.name}-{task.name}.png"), task.name)


def curve(results: Results, task: Task, name: str) -> list[tuple[float, float]]:
    """Share of zeros and test accuracy of all runs of a contender, in per cent, by strength."""
    runs = [results[key] for key in results if key.startswith(f"{task.name}/{name}/") and "probe" in results[key]]
    return sorted((100 * run["probe"]["zeros"], 100 * run["test"]["accuracy"]) for run in runs)


def _task_table(results: Results, task: Task) -> str:
    known = {name: compared_strength(results, task, name) for name in task.contenders}
    ready = {
        name: [results.get(_key(task, name, strength, seed), {}) for seed in SEEDS]
        for name, strength in known.items()
        if strength is not None
    }
    seeds = [i for i in range(len(SEEDS)) if all("probe" in runs[i] for runs in ready.values())]
    if DENSE not in ready or not seeds:
        return f"{task.name}: inconclusive, no seed has all contenders yet.\n"
    accuracy = {name: [100 * runs[i]["test"]["accuracy"] for i in seeds] for name, runs in ready.items()}
    rows = []
    for name in task.contenders:
        if name not in ready:
            rows.append([LABELS[name], "", f"none from {LOW:.0%} to {HIGH:.0%}", "", "", ""])
            continue
        zeros = [100 * ready[name][i]["probe"]["zeros"] for i in seeds]
        against = [
            "" if other not in accuracy or name == other else str(paired(accuracy[name], accuracy[other]))
            for other in (DENSE, SM)
        ]
        rows.append([LABELS[name], f"{known[name]:g}", str(estimate(zeros)), str(estimate(accuracy[name])), *against])
    run = ready[DENSE][seeds[0]]
    dense = estimate(accuracy[DENSE]).mean
    images = run["steps"] * run["config"]["batch_size"]
    said = (
        f"**{task.name}**: {task.model.name} of {run['parameters']:,} parameters, {images:,} images processed, "
        f"{run['test']['examples']:,} test images, {len(seeds)} seeds; zeros of the hidden kernels; mean ± half of the "
        "95 % interval, differences paired over seeds.\n"
    )
    if task.name == "cifar10" and dense < 75:
        said = f"Inconclusive (wanted: 75 % dense). {said}"
    header = ["contender", "strength", "zeros [%]", "test accuracy [%]", "less dense", "less SM"]
    return f"{said}\n{_claim(accuracy)}\n\n{markdown(header, rows)}"


def _claim(accuracy: dict[str, list[float]]) -> str:
    if SM not in accuracy:
        return f"SM has no strength with {LOW:.0%} to {HIGH:.0%} zeros yet."
    loss = estimate(accuracy[DENSE]).mean - estimate(accuracy[SM]).mean
    others = [name for name in accuracy if name not in (DENSE, SM)]
    above = [LABELS[name] for name in others if estimate(accuracy[name]).mean >= estimate(accuracy[SM]).mean]
    said = f"SM loses {loss:.2f} points to the dense network (wanted: 0.5 or less)"
    return f"{said}; as good or better: {', '.join(above) or 'none'} (wanted: none)."


def _key(task: Task, name: str, strength: float, seed: int) -> str:
    return f"{task.name}/{name}/{strength:g}/{seed}"


def _rate_key(task: Task, base: str, rate: float) -> str:
    return f"tuning/{task.name}/{base}/{rate:g}"


def _rate(results: Results, task: Task, name: str, rates: tuple[float, ...]) -> float | None:
    """The learning rate of a contender: that of SM, or of the dense network; None where the choice is not over."""
    base = SM if name == SM else DENSE
    return chosen_rate(results, [_rate_key(task, base, rate) for rate in rates], rates)


def _config(
    task: Task, name: str, strength: float, seed: int, rate: float, share: float, *, small: bool, tuning: bool = False
) -> TrainConfig:
    data, model = task.data, task.model
    epochs = task.epochs * share
    if tuning:
        data = data.model_copy(update={"validation": 0.1})
    if small:
        data = data.model_copy(update={"train_split": "train[:4%]", "test_split": "test[:4%]"})
        model = model.model_copy(update={"widths": (16, 16), "dense": ()})
        epochs *= 25
    structure: dict[str, Any] = {}
    if name == SM:
        structure["weight_norm"] = WeightNormConfig(
            name="structural", options={"measure": "sparsity", "strength": strength}
        )
    elif name != DENSE:
        structure["proximal"] = ProximalConfig(strength=strength, **_PENALTIES[name])
    return TrainConfig(
        seed=seed,
        epochs=epochs,
        batch_size=task.batch,
        data=data,
        model=model,
        optimizer=OptimizerConfig(learning_rate=rate, momentum=0.9, weight_decay=5e-4),
        schedule=ScheduleConfig(name="one_cycle", peak=0.3),
        run=RunConfig(threads=1, log_every=100, keep=1),
        **structure,
    )
