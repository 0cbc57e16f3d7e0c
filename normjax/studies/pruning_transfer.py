"""A network for eight classes is fine-tuned on two others and pruned: what may go, and what tells it? (Wang, 2017)

The thesis takes VGG-16 with ImageNet weights to cats and dogs (``configs/cats_vs_dogs_vgg16.py``); here it is a ConvNet
on CIFAR-10: trained without cats and dogs, fine-tuned on these, and pruned as far as two points of accuracy allow.
The thesis finds that dense layers go almost free and convolutions do not, and that scores of data win at first.
"""

from pathlib import Path
from typing import Any

import numpy as np

from normjax.pruning.config import PruneConfig, PruningConfig
from normjax.studies.comparison import markdown
from normjax.studies.network import CIFAR10
from normjax.studies.pruning import accuracy_at, curve
from normjax.studies.trials import Results, Trial
from normjax.training.config import ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig

REQUIRES = ()
PAIR = ("cat", "dog")
OTHERS = ("airplane", "automobile", "bird", "deer", "frog", "horse", "ship", "truck")
DROP = 0.02  # validation accuracy that may be lost
_VALIDATION = 1000  # images of the two classes
EARLY = 0.7  # of the multiplications: where scores are compared before fine-tuning has done its work
CONVOLUTIONS = ("conv0_0", "conv0_1", "conv1_0", "conv1_1", "conv2_0", "conv2_1")
DENSE = ("dense0", "dense1")
SCORES = ("l2", "group_magnitude", "taylor_activation", "taylor_gate")  # the last two need data
PARTS = SCORES[::3]  # by which dense layers and convolutions are pruned alone, too
WHAT = {"all": (), "dense": CONVOLUTIONS, "convolutions": DENSE}  # what goes: the layers that stay whole
LABELS = {"all": "all layers", "dense": "dense layers only", "convolutions": "convolutions only"}
_BEFORE, _TUNED = "eight classes", "fine-tuned"


def plan(results: Results, budget: float = 1.0) -> list[Trial]:
    """The runs of the study: training, fine-tuning, then the searches.

    Args:
      results: of the runs so far.
      budget: share of the full length; below 0.1 with two searches, a part of the data and a smaller network.
    """
    small = budget < 0.1
    first = _training(OTHERS, 4.0 * budget, 0.1, None, small=small)
    trials = [Trial(_BEFORE, first, weights=_file("others", budget))]
    if "test" in results.get(_BEFORE, {}):
        tuned = _training(PAIR, 8.0 * budget, 0.03, _file("others", budget), small=small)
        trials.append(Trial(_TUNED, tuned, weights=_file("pair", budget)))
    if "test" in results.get(_TUNED, {}):
        whole = tuned.model_copy(
            update={"model": tuned.model.model_copy(update={"weights": Path(_file("pair", budget))})}
        )
        wanted = [(score, what) for score in SCORES for what in WHAT if what == "all" or score in PARTS]
        for score, what in (("l2", "dense"), ("taylor_gate", "all")) if small else wanted:
            search = _search(score, WHAT[what], small=small)
            trials.append(Trial(_key(score, what), PruningConfig(training=whole, pruning=search)))
    return trials


def _search(score: str, protected: tuple[str, ...], *, small: bool) -> PruneConfig:
    if small:
        protected = tuple(name for name in protected if name in ("conv0_0", "conv0_1", "conv1_0", "conv1_1", "dense0"))
    return PruneConfig(
        max_drop=DROP,
        score=score,
        protected=protected,
        epochs=1.0,
        final_epochs=3.0,
        learning_rate=0.02,
        step=0.2 if small else 0.1,
        min_step=0.1 if small else 0.02,
        multiple=1,
    )


def table(results: Results) -> str:
    """The tables of the study in Markdown, made of the raw numbers alone."""
    keys = {
        (score, what): _key(score, what)
        for score in SCORES
        for what in WHAT
        if "test" in results.get(_key(score, what), {})
    }
    if not keys:
        return "Inconclusive: nothing is pruned yet.\n"
    rows = []
    for (score, what), key in keys.items():
        told = results[key]
        first, last = told["before"], told["after"]
        tried = [r for r in told["rounds"][1:] if r["accepted"]]
        rows.append(
            [
                LABELS[what],
                f"{score} ({'data' if score.startswith('taylor') else 'weights'})",
                f"{100 * last['parameters'] / first['parameters']:.1f}",
                f"{_macs_left(told):.1f}",
                "" if what != "all" or (early := _early(told)) is None else f"{early:.1f}",
                str(len(tried)),
                f"{100 * told['test']['accuracy']:.2f}",
            ]
        )
    before, tuned = results[_BEFORE], results[_TUNED]
    chance = _chance(100 * tuned["validation_accuracy"])
    said = (
        f"ConvNet of {before['parameters']:,} parameters, {100 * before['test']['accuracy']:.2f} % on eight classes of "
        f"CIFAR-10, then {100 * tuned['test']['accuracy']:.2f} % on cats against dogs "
        f"({tuned['test']['examples']:,} test images); rounds of one pass over the two classes, as long as at most "
        f"{100 * DROP:g} points of validation accuracy are lost; one seed. On {_VALIDATION:,} validation "
        f"images two networks differ by {chance:.1f} points by chance, so that where a "
        "search ends is in part luck.\n"
    )
    header = [
        "what goes",
        "score",
        "parameters left [%]",
        "MACs left [%]",
        f"validation at {EARLY:.0%} of MACs [%]",
        "rounds held",
        "test after [%]",
    ]
    return f"{said}\n{_findings(results, keys)}\n\n{markdown(header, rows)}"


def draw(results: Results, stem: Path, data_dir: Path | None = None) -> None:
    """The figure of the study: ``STEM-curves.png``."""
    del data_dir  # the numbers are enough
    from normjax.studies.pruning_figures import draw_accuracy

    curves = {
        score: [curve(results[_key(score, "all")])] for score in SCORES if "test" in results.get(_key(score, "all"), {})
    }
    if curves:
        whole = next(iter(curves.values()))[0][0, 1]
        draw_accuracy(curves, whole, stem.with_name(f"{stem.name}-curves.png"), "Cats against dogs, all layers")


def _findings(results: Results, keys: dict[tuple[str, str], str]) -> str:
    """Of each finding of the thesis whether it is found here."""

    said = []
    for score in PARTS:
        if {(score, "dense"), (score, "convolutions")} <= keys.keys():
            dense, convolutions = (results[keys[score, what]] for what in ("dense", "convolutions"))
            said.append(
                f"Dense layers or convolutions alone, by {score}: {_neurons_left(dense, DENSE):.0%} of the dense "
                f"neurons are left, {_neurons_left(convolutions, CONVOLUTIONS):.0%} of the convolutions', which do "
                f"{_macs_left(convolutions):.0f} % of the multiplications."
            )
    early = {score: _early(results[keys[score, "all"]]) for score in SCORES if (score, "all") in keys}
    weights = [value for score, value in early.items() if score in SCORES[:2] and value is not None]
    data = [value for score, value in early.items() if score in SCORES[2:] and value is not None]
    if weights and data:
        chance = _chance(max(data))
        further = max(data) - max(weights)
        wins = "no difference beyond chance" if abs(further) <= chance else "found" if further > 0 else "not found"
        said.append(
            f"Scores of data win at first: {wins} (at {EARLY:.0%} of the multiplications {max(data):.1f} % against "
            f"{max(weights):.1f} %)."
        )
        ends = []
        for scores in (SCORES[2:], SCORES[:2]):
            found = [results[keys[score, "all"]] for score in scores if score in early]
            best = min(found, key=_macs_left)
            ends.append(
                f"{_macs_left(best):.0f} % of the multiplications ({100 * best['test']['accuracy']:.2f} % test)"
            )
        said.append(f"At the end scores of data leave {ends[0]} at best, scores of weights {ends[1]}.")
    return "\n".join(f"- {line}" for line in said)


def _chance(accuracy: float) -> float:
    """Twice the standard error of a difference between two networks on the validation split, in percent."""
    return float(2 * np.sqrt(2 * accuracy * (100 - accuracy) / _VALIDATION))


def _early(told: dict[str, Any]) -> float | None:
    """Of all rounds: one that missed the target before tells most."""
    return accuracy_at(told, EARLY, refused=True)


def _macs_left(told: dict[str, Any]) -> float:
    """In percent."""
    return 100 * told["after"]["multiply_adds"] / told["before"]["multiply_adds"]


def _neurons_left(told: dict[str, Any], layers: tuple[str, ...]) -> float:
    sizes = {name: size for name, size in told["neurons"].items() if name in layers}
    return sum(len(told["kept"][name]) for name in sizes) / sum(sizes.values())


def _key(score: str, what: str) -> str:
    return f"search/{what}/{score}"


def _file(name: str, budget: float) -> str:
    return f"pruning-transfer-{name}{'' if budget == 1 else f'-{budget:g}'}.safetensors"


def _training(classes: tuple[str, ...], epochs: float, rate: float, weights: str | None, *, small: bool) -> TrainConfig:
    model = ModelConfig(widths=(16, 32, 64), dense=(64, 64), weights=weights and Path(weights))
    data = CIFAR10.model_copy(update={"classes": classes})
    if small:
        data = data.model_copy(update={"train_split": "train[:4%]", "test_split": "test[:4%]"})
        model, epochs = model.model_copy(update={"widths": (8, 8), "dense": (16,)}), 25 * epochs
    return TrainConfig(
        epochs=epochs,
        batch_size=128,
        data=data,
        model=model,
        optimizer=OptimizerConfig(learning_rate=rate, momentum=0.9, weight_decay=5e-4),
        schedule=ScheduleConfig(name="one_cycle", peak=0.3),
        run=RunConfig(threads=1, log_every=100, keep=1),
    )
