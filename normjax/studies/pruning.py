"""Does one ranking of all layers, freed of the bias between them, find smaller networks? (Wang, 2017)

In short, three seeds: a convolutional network on CIFAR-10 is made ever smaller by the debiased ranking, by the scores
as they are, by these per product, and by an equal share of each layer; other controls have one seed.
At length, one seed: what two ConvNets and a ResNet-20 lose at a given size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from normjax.pruning.config import PruneConfig, PruningConfig
from normjax.studies.comparison import estimate, markdown, paired
from normjax.studies.network import CIFAR10
from normjax.studies.trials import Results, Trial
from normjax.training.config import ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig

REQUIRES = ()
SEEDS = (0, 1, 2)
LEFT = 0.2  # of the multiplications, at the end of each short search
SHARES = (0.7, 0.5, 0.35, 0.25)  # at which the curves are compared
SCRATCH = "scratch"
# What a search ranks by; the last ones are controls on one seed. Which debiasing stands for all, and that the worth of
# a neuron by what it costs takes part, was chosen by the first seed's validation split.
CONTENDERS: dict[str, dict[str, Any]] = {
    "debiased": {"score": "taylor_gate", "debias": "l2"},
    "raw": {"score": "taylor_gate", "debias": "none"},
    "equal": {"score": "taylor_gate", "debias": "rank"},
    "per_cost": {"score": "taylor_gate", "debias": "none", "per_cost": True},
    "weights": {"score": "l2", "debias": "mean"},
    "weights_raw": {"score": "l2", "debias": "none"},
    "in_turn": {"score": "taylor_gate", "debias": "l2", "order": "in_turn", "step": 0.3},
    "at_once": {"score": "taylor_gate", "debias": "l2", "step": 1.0, "layer_cap": 0.9},
}
SEEDED = ("debiased", "per_cost", "raw", "equal")  # on all seeds
LABELS = {
    "debiased": "Taylor with gates, all layers, debiased (l2)",
    "raw": "Taylor with gates, all layers, as they are",
    "equal": "Taylor with gates, equal share of each layer",
    "per_cost": "Taylor with gates, all layers, per product",
    "weights": "l2 of the weights, all layers, debiased (mean)",
    "weights_raw": "l2 of the weights, all layers, as they are",
    "in_turn": "Taylor with gates, layers in turn",
    "at_once": "Taylor with gates, all layers, debiased (l2), at once",
    SCRATCH: "the debiased shape, trained from nothing",
}


class Long(NamedTuple):
    """A network that is pruned at length, and what is wanted of it."""

    trained: str  # the entry that trains it
    model: ModelConfig
    epochs: float
    rate: float
    label_smoothing: float
    again: float  # epochs of a second cycle at half the rate, from where the first one ended; 0: none
    pruning: PruneConfig
    least: float  # test accuracy before, in per cent, below which nothing is concluded


_LONG: dict[str, Any] = {"score": "taylor_gate", "epochs": 0.5}
# Of two sizes: what is worth least for what it brings towards both.
_BOTH: dict[str, Any] = {
    "keep_macs": 0.4,
    "keep_params": 0.2,
    "debias": "none",
    "per_cost": True,
    "learning_rate": 0.05,
}
LONG = {
    "convnet": Long(
        trained="convnet",
        model=ModelConfig(name="convnet", widths=(32, 64, 128), dense=(128, 128)),
        epochs=20.0,
        rate=0.15,
        label_smoothing=0.1,
        again=12.0,
        pruning=PruneConfig(final_epochs=12.0, multiple=1, **_BOTH, **_LONG),
        least=90.0,
    ),
    "convnet-dense": Long(  # with most of its parameters in the dense layers, as VGG has
        trained="convnet-dense",
        model=ModelConfig(name="convnet", widths=(32, 64, 128), dense=(384, 384)),
        epochs=30.0,
        rate=0.15,
        label_smoothing=0.1,
        again=0.0,
        pruning=PruneConfig(final_epochs=20.0, **_BOTH, **_LONG),
        least=90.0,
    ),
    "resnet20": Long(
        trained="resnet20",
        model=ModelConfig(name="resnet20", widths=(16, 32, 64), dense=()),
        epochs=20.0,
        rate=0.3,
        label_smoothing=0.0,  # so small a network does not fit too closely
        again=0.0,
        pruning=PruneConfig(keep_macs=0.5, learning_rate=0.1, final_epochs=12.0, multiple=1, **_LONG),
        least=88.0,
    ),
}
# The same trained network: to the sizes asked for and no further, then at a higher rate for longer.
LONG["convnet-dense-longer"] = LONG["convnet-dense"]._replace(
    pruning=PruneConfig(final_epochs=30.0, multiple=1, **_BOTH | {"learning_rate": 0.1}, **_LONG),
)
MOST_LOST = 1.0  # points of test accuracy


def plan(results: Results, budget: float = 1.0) -> list[Trial]:
    """The runs of the study: the long form first, whose runs take hours of one processor and so end beside others.

    Args:
      results: of the runs so far.
      budget: share of the full length; below 1 there is one seed, below 0.1 a part of the data, smaller networks, two
        rankings and the short form only.
    """
    small = budget < 0.1
    seeds = SEEDS if budget >= 1 else SEEDS[:1]
    whole = {seed: _training("short", seed, budget, small=small) for seed in seeds}
    trials = [] if small else _at_length(results, budget)
    trials += [
        Trial(_baseline("short", seed), config, weights=_file("short", seed, budget)) for seed, config in whole.items()
    ]
    seeded = [(name, seed) for seed in seeds for name in SEEDED]
    controls = [(name, SEEDS[0]) for name in CONTENDERS if name not in SEEDED]
    for name, seed in [("debiased", 0), ("weights", 0)] if small else seeded + controls:
        if _trained(results, _baseline("short", seed)):
            trials.append(Trial(_key(name, seed), _search(name, whole[seed], seed, budget, small=small)))
    if "kept" in (found := results.get(_key("debiased", SEEDS[0]), {})):
        first = whole[SEEDS[0]]
        shape = ModelConfig.model_validate({**first.model.model_dump(), "kept": found["kept"]})
        trials.append(Trial(_key(SCRATCH, SEEDS[0]), first.model_copy(update={"model": shape})))
    return trials


def _at_length(results: Results, budget: float) -> list[Trial]:
    trials = []
    for name, long in LONG.items():
        config = _training(name, 0, budget, small=False)
        if long.again:
            first = f"{name}-first"
            trials.append(Trial(_baseline(first, 0), config, weights=_file(first, 0, budget)))
            if not _trained(results, _baseline(first, 0)):
                continue
            rate = config.optimizer.model_copy(update={"learning_rate": long.rate / 2})
            config = _from_file(config, first, 0, budget)
            config = config.model_copy(update={"epochs": long.again * budget, "optimizer": rate})
        if name == long.trained:
            trials.append(Trial(_baseline(name, 0), config, weights=_file(name, 0, budget)))
        if _trained(results, _baseline(long.trained, 0)):
            search = PruningConfig(training=_from_file(config, long.trained, 0, budget), pruning=long.pruning)
            trials.append(Trial(_key(name, 0), search))
    return trials


def _search(name: str, whole: TrainConfig, seed: int, share: float, *, small: bool) -> PruningConfig:
    training = _from_file(whole, "short", seed, share)
    share = 1.0 if small else share  # there are fewer images
    options: dict[str, Any] = {"keep_macs": LEFT, "learning_rate": 0.05, "multiple": 1, "step": 0.3 if small else 0.1}
    options |= {"epochs": 0.25 * share, "final_epochs": 0.5 * share, **CONTENDERS[name]}
    return PruningConfig(training=training, pruning=PruneConfig(**options))


def table(results: Results) -> str:
    """The tables of the study in Markdown, made of the raw numbers alone."""
    return "\n".join(part for part in (_short_table(results), _long_table(results)) if part)


def draw(results: Results, stem: Path, data_dir: Path | None = None) -> None:
    """The figures of the short form: ``STEM-curves.png`` and ``STEM-widths.png``."""
    del data_dir  # the numbers are enough
    from normjax.studies.pruning_figures import draw_accuracy, draw_widths

    curves = {
        LABELS[name]: [curve(results[key]) for seed in SEEDS if _trained(results, key := _key(name, seed))]
        for name in CONTENDERS
    }
    whole = [
        100 * results[_baseline("short", seed)]["validation_accuracy"]
        for seed in SEEDS
        if _trained(results, _baseline("short", seed))
    ]
    widths = {LABELS[name]: results[_key(name, 0)] for name in SEEDED if _trained(results, _key(name, 0))}
    if widths:  # the short form has begun
        draw_accuracy(curves, float(np.mean(whole)), stem.with_name(f"{stem.name}-curves.png"))
        draw_widths(widths, stem.with_name(f"{stem.name}-widths.png"))


def curve(result: dict[str, Any], *, refused: bool = False) -> np.ndarray:
    """Of a search the multiplications left and the validation accuracy of each round, in per cent; (rounds, 2).

    Args:
      result: of the search.
      refused: whether rounds that missed the target count, too; all are then in order of the multiplications.
    """
    rounds = [told for told in result["rounds"] if told["accepted"] or refused]
    whole = rounds[0]["multiply_adds"]
    if refused:
        rounds.sort(key=lambda told: -told["multiply_adds"])
    return np.array([[100 * told["multiply_adds"] / whole, 100 * told["accuracy"]] for told in rounds])


def accuracy_at(result: dict[str, Any], share: float, *, refused: bool = False) -> float | None:
    """Validation accuracy at a share of the multiplications, between the rounds around it; None beyond the last."""
    points = curve(result, refused=refused)[::-1]
    if 100 * share < points[0, 0]:
        return None
    return float(np.interp(100 * share, points[:, 0], points[:, 1]))


def _short_table(results: Results) -> str:
    seeds = [seed for seed in SEEDS if all(_key(name, seed) in results for name in SEEDED)]
    if not seeds:
        return "Short form: inconclusive, no seed has all contenders yet.\n"
    tested = {name: _tested(results, name, seeds if name in SEEDED else SEEDS[:1]) for name in (*CONTENDERS, SCRATCH)}
    rows = []
    for name, accuracies in tested.items():
        if not accuracies:
            continue
        at = [""] * len(SHARES)
        # What goes at once has no curve.
        if name not in (SCRATCH, "at_once"):
            at = [_at(results, name, list(accuracies), share) for share in SHARES]
        both = [seed for seed in accuracies if seed in tested["debiased"]]
        less = ""
        if name != "debiased" and both:
            less = str(paired(*([tested[which][seed] for seed in both] for which in ("debiased", name))))
        rows.append([LABELS[name], *at, str(estimate(list(accuracies.values()))), less])
    before = [results[_baseline("short", seed)] for seed in seeds]
    run = results[_key("debiased", seeds[0])]
    said = (
        f"**In short**: {before[0]['config']['model']['name']} of {before[0]['parameters']:,} parameters, "
        f"{before[0]['steps'] * before[0]['config']['batch_size']:,} images of CIFAR-10, test accuracy "
        f"{estimate([100 * told['test']['accuracy'] for told in before])} % before pruning; "
        f"{run['config']['pruning']['epochs'] * 45_000:,.0f} images a round, {len(seeds)} seeds (controls: one); mean "
        "± half of the 95 % interval, differences paired over seeds. The first columns are the validation split "
        f"between rounds; the test set is read once, at {LEFT:.0%} of the multiplications. A run that diverged counts "
        "as 0.\n"
    )
    header = ["ranking", *(f"{share:.0%} of MACs" for share in SHARES), f"test, {LEFT:.0%}", "debiased less it"]
    return f"{said}\n{_claim(results, tested)}\n\n{markdown(header, rows)}"


def _tested(results: Results, name: str, seeds: Sequence[int]) -> dict[int, float]:
    """Test accuracy by seed, in per cent; of a run that diverged 0."""
    found = {seed: results[_key(name, seed)] for seed in seeds if _key(name, seed) in results}
    return {seed: 100 * run["test"]["accuracy"] if "test" in run else 0.0 for seed, run in found.items()}


def _at(results: Results, name: str, seeds: Sequence[int], share: float) -> str:
    runs = [results[_key(name, seed)] for seed in seeds]
    values = [accuracy_at(run, share) for run in runs if "rounds" in run]
    reached = [value for value in values if value is not None]
    return str(estimate(reached)) if len(reached) == len(runs) else ""


def _claim(results: Results, tested: dict[str, dict[int, float]]) -> str:
    """Whether a ranking of all layers is above the scores as they are and an equal share, on the seeds in common."""
    said = []
    for leader in ("debiased", "per_cost"):
        verdicts = []
        for name in ("raw", "equal"):
            last = paired(*(list(tested[which].values()) for which in (leader, name)))
            middle = paired(*([_halfway(results, which, seed) for seed in tested[leader]] for which in (leader, name)))
            sure = last.half_width is not None and last.mean > last.half_width
            verdict = "yes" if sure else "not beyond the interval"
            verdicts.append(f"{LABELS[name]}: {verdict} ({last} points; at half of them, validation, {middle})")
        said.append(f"{LABELS[leader]}: above the others at {LEFT:.0%} of the multiplications? {'; '.join(verdicts)}.")
    return "\n\n".join(said)


def _halfway(results: Results, name: str, seed: int) -> float:
    """Validation accuracy at half of the multiplications, in per cent; 0 where a run diverged or did not get there."""
    run = results[_key(name, seed)]
    reached = accuracy_at(run, 0.5) if "rounds" in run else None
    return 0.0 if reached is None else reached


def _long_table(results: Results) -> str:
    rows = []
    for name, long in LONG.items():
        if not (_trained(results, _baseline(long.trained, 0)) and _trained(results, _key(name, 0))):
            continue
        before, found = results[_baseline(long.trained, 0)], results[_key(name, 0)]
        first, last, options = found["before"], found["after"], found["config"]["pruning"]
        accuracies = [100 * before["test"]["accuracy"], 100 * found["test"]["accuracy"]]
        lost = accuracies[0] - accuracies[1]
        verdict = "inconclusive" if accuracies[0] < long.least else "yes" if lost <= MOST_LOST else "no"
        rows.append(
            [
                name,
                *(f"{accuracy:.2f}" for accuracy in accuracies),
                f"{lost:.2f} ({verdict})",
                f"{options['epochs'] * (len(found['rounds']) - 1) + options['final_epochs']:g}",
                _change(first["multiply_adds"] / 1e6, last["multiply_adds"] / 1e6),
                _change(first["parameters"] / 1e3, last["parameters"] / 1e3),
                _change(*(size["milliseconds"]["128"] for size in (first, last))),
                (found.get("commit") or "")[:7],
            ]
        )
    if not rows:
        return ""
    least = " and ".join(f"{long.least:g} % ({name})" for name, long in LONG.items() if name == long.trained)
    said = (
        f"**At length**: one seed, so that a difference below a point is within chance; whether at most {MOST_LOST:g} "
        f"point of test accuracy is lost (wanted). Nothing is concluded from less than {least} before; what is left "
        "stands in brackets. The epochs are those that the pruned network was trained for besides. Milliseconds are "
        "those of a study, whose jobs run beside each other.\n"
    )
    header = [
        "network",
        "test before [%]",
        "after [%]",
        "lost",
        "epochs",
        "MACs [M]",
        "parameters [1000]",
        "128 images [ms]",
        "commit",
    ]
    return f"{said}\n{markdown(header, rows)}"


def _change(before: float, after: float) -> str:
    return f"{before:.1f} → {after:.1f} ({after / before:.0%})"


def _baseline(name: str, seed: int) -> str:
    return f"baseline/{name}/{seed}"


def _key(name: str, seed: int) -> str:
    return f"search/{name}/{seed}"


def _trained(results: Results, key: str) -> bool:
    """Whether a baseline is there to be pruned; one that diverged is not."""
    return "test" in results.get(key, {})


def _file(name: str, seed: int, budget: float) -> str:
    return f"pruning-{name}-{seed}{'' if budget == 1 else f'-{budget:g}'}.safetensors"  # as the results are named


def _from_file(whole: TrainConfig, name: str, seed: int, budget: float) -> TrainConfig:
    model = whole.model.model_copy(update={"weights": Path(_file(name, seed, budget))})
    return whole.model_copy(update={"model": model})


def _training(name: str, seed: int, share: float, *, small: bool) -> TrainConfig:
    """The training of the network before it is pruned."""
    data = CIFAR10
    if name == "short":
        model, epochs, rate, smoothing = ModelConfig(widths=(16, 32, 64), dense=(64, 64)), 4.0, 0.1, 0.0
    else:
        long = LONG[name]
        model, epochs, rate, smoothing = long.model, long.epochs, long.rate, long.label_smoothing
    epochs *= share
    if small:
        data = data.model_copy(update={"train_split": "train[:2%]", "test_split": "test[:2%]"})
        model, epochs = model.model_copy(update={"widths": (8, 8), "dense": (16,)}), 50 * epochs
    return TrainConfig(
        seed=seed,
        epochs=epochs,
        batch_size=128,
        label_smoothing=smoothing,
        data=data,
        model=model,
        optimizer=OptimizerConfig(learning_rate=rate, momentum=0.9, weight_decay=5e-4),
        schedule=ScheduleConfig(name="one_cycle", peak=0.3),
        run=RunConfig(threads=1, log_every=100, keep=1),
    )
