"""Does a reference batch save batch normalization where batches are not drawn alike? (Luo, Li, Zuo, 2020)

A small convolutional network on CIFAR-10, the same number of images for every contender: shuffled batches, batches
of two classes, batches of one class. The learning rate of each contender is chosen on a validation split, by one
seed at a fifth of the length. Comparisons are paired over seeds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from normjax.data.options import StreamConfig
from normjax.studies.comparison import estimate, markdown, paired
from normjax.studies.network import CIFAR10, convnet_config, steps_of
from normjax.studies.rates import chosen_rate
from normjax.studies.trials import Results, Trial
from normjax.training.config import NormConfig, ReferenceConfig, TrainConfig

REQUIRES = ()
EPOCHS, IMAGES = 3.0, 45_000
SEEDS = (0, 1, 2)
RATES = (0.02, 0.06, 0.2)
STREAMS = {
    "shuffled": StreamConfig(),
    "two classes": StreamConfig(name="few_classes", classes=2),
    "one class": StreamConfig(name="few_classes", classes=1),
}
TUNED_AS = {"shuffled": "shuffled", "two classes": "two classes", "one class": "two classes"}
_REFERENCE_MODES = ("virtual", "mixed", "fixed", "renorm")
BASELINES = ("batch_norm", "batch_renorm", "group_norm")
ONCE = "mixed, once"  # the paper's reading
CONTENDERS = (*BASELINES, *_REFERENCE_MODES, ONCE)
_PROBED = ("batch_norm", "virtual")  # whose statistics are looked at as well
LABELS = {
    "batch_norm": "BatchNorm",
    "batch_renorm": "BatchRenorm",
    "group_norm": "GroupNorm",
    **{mode: f"ReferenceBatchNorm, {mode}" for mode in _REFERENCE_MODES},
    ONCE: "ReferenceBatchNorm, mixed, reference taken once",
}
FOOTNOTE = (
    "Test accuracy [%], mean over the seeds ± half of the 95 % interval (one seed where there is none); "
    "a run that diverged counts as 0."
)


def plan(results: Results, budget: float = 1.0) -> list[Trial]:
    """The runs of the study: first the choice of the learning rates, then, seed by seed, the comparison.

    Args:
      results: of the runs so far.
      budget: share of the full length; below 1 there is one seed, below 0.1 one learning rate, a part of the data,
        a smaller network and some of the contenders.
    """
    small = budget < 0.1
    rates = RATES[1:2] if small else RATES
    tuning = [
        Trial(_tuning_key(stream, contender, rate), _config(contender, stream, 0, rate, budget / 5, small=small))
        for stream in dict.fromkeys(TUNED_AS.values())
        for contender in CONTENDERS
        for rate in rates
        if len(rates) > 1
    ]
    comparison = []
    for seed in SEEDS if budget >= 1 else SEEDS[:1]:
        for stream in STREAMS:
            if stream == "one class" and seed:
                continue
            for contender in _few(stream) if small else CONTENDERS:
                rate = best_rate(results, stream, contender, rates)
                if rate is not None:
                    probe = "drift" if seed == 0 and contender in _PROBED else None
                    config = _config(contender, stream, seed, rate, budget, small=small)
                    comparison.append(Trial(_key(stream, contender, seed), config, probe))
    return tuning + comparison


def _few(stream: str) -> Sequence[str]:
    return (*_PROBED, "group_norm", ONCE) if stream == "two classes" else _PROBED


def best_rate(results: Results, stream: str, contender: str, rates: tuple[float, ...] = RATES) -> float | None:
    """The learning rate of the comparison; None where the choice is not over."""
    return chosen_rate(results, [_tuning_key(TUNED_AS[stream], contender, rate) for rate in rates], rates)


def table(results: Results) -> str:
    """The tables of the study in Markdown, made of the raw numbers alone."""
    seeds = sorted({int(key.rsplit("/", 1)[1]) for key in results if key.startswith("comparison/")})
    parts = [
        _network(results),
        _claims(results),
        FOOTNOTE,
        _accuracy_table(results, seeds),
        _difference_table(results, seeds),
    ]
    if rates := _rate_table(results):
        parts += ["Learning rates chosen on the validation split (one class: those of two classes):", rates]
    return "\n".join(part if part.endswith("\n") else part + "\n" for part in parts if part)


def draw(results: Results, stem: Path, data_dir: Path | None = None) -> None:
    """The figures of the study, beside its numbers: ``STEM-accuracy.png`` and ``STEM-drift.png``."""
    del data_dir  # the numbers are enough
    # Drawing is for the end: it brings matplotlib.
    from normjax.studies.reference_batch_figures import draw_accuracy, draw_drift

    curves = {
        stream: {
            LABELS[contender]: [run["curve"] for run in runs_of(results, stream, contender) if "curve" in run]
            for contender in CONTENDERS
        }
        for stream in STREAMS
    }
    draw_accuracy(curves, stem.with_name(f"{stem.name}-accuracy.png"))
    networks = [
        (LABELS[contender], kept, next((run["probe"] for run in found if "probe" in run), None))
        for contender, kept in (("batch_norm", "running averages"), ("virtual", "reference"))
        for found in [runs_of(results, "two classes", contender)]
    ]
    draw_drift(networks, stem.with_name(f"{stem.name}-drift.png"))


def runs_of(results: Results, stream: str, contender: str) -> list[dict[str, Any]]:
    """The runs of the comparison that are there, by seed."""
    found = (results.get(_key(stream, contender, seed)) for seed in SEEDS)
    return [result for result in found if result is not None]


def _key(stream: str, contender: str, seed: int) -> str:
    return f"comparison/{stream}/{contender}/{seed}"


def _tuning_key(stream: str, contender: str, rate: float) -> str:
    return f"tuning/{stream}/{contender}/{rate:g}"


def _config(contender: str, stream: str, seed: int, rate: float, share: float, *, small: bool) -> TrainConfig:
    steps = steps_of(EPOCHS * share * IMAGES)
    return convnet_config(
        CIFAR10,
        epochs=EPOCHS * share,
        steps=steps,
        small=small,
        seed=seed,
        rate=rate,
        stream=STREAMS[stream],
        norm=_norm(contender, steps),
        reference=ReferenceConfig(refresh="once") if contender == ONCE else ReferenceConfig(),
    )


def _norm(contender: str, steps: int) -> NormConfig:
    match contender:
        case "batch_norm":
            return NormConfig(momentum=0.99)
        case "batch_renorm":
            # The paper's course of the limits, in shares of its 160,000 steps.
            course = {"warmup_steps": steps // 32, "r_steps": steps // 4, "d_steps": steps // 6}
            return NormConfig(name="batch_renorm", momentum=0.99, options=course)
        case "group_norm":
            return NormConfig(name="group_norm", options={"num_groups": 8})
        case _:
            return NormConfig(name="reference_batch_norm", options={"mode": contender.split(",")[0]})


def _accuracy_table(results: Results, seeds: list[int]) -> str:
    rows = []
    for contender in CONTENDERS:
        cells = []
        for stream in STREAMS:
            values = _accuracies(results, [_key(stream, contender, seed) for seed in _seeds(results, stream, seeds)])
            cells.append(str(estimate(values)) if values else "not run")
        rows.append([LABELS[contender], *cells])
    return markdown(["norm", *STREAMS], rows)


def _difference_table(results: Results, seeds: list[int]) -> str:
    rows = []
    for contender in CONTENDERS:
        cells = []
        for stream, other in (("shuffled", "batch_norm"), ("two classes", "group_norm"), ("two classes", "batch_norm")):
            both = [
                _accuracies(results, [_key(stream, name, seed) for seed in _seeds(results, stream, seeds)])
                for name in (contender, other)
            ]
            same = contender == other or not both[0] or not both[1]
            cells.append("" if same or both[0] is None or both[1] is None else f"{paired(both[0], both[1])}")
        rows.append([LABELS[contender], *cells])
    header = [
        "difference in points",
        "shuffled, to BatchNorm",
        "two classes, to GroupNorm",
        "two classes, to BatchNorm",
    ]
    return markdown(header, rows)


def _seeds(results: Results, stream: str, seeds: list[int]) -> list[int]:
    """The seeds that all contenders have on a stream."""
    return [seed for seed in seeds if all(_key(stream, contender, seed) in results for contender in CONTENDERS)]


def _rate_table(results: Results) -> str:
    rows = []
    for contender in CONTENDERS:
        rates = [best_rate(results, stream, contender) for stream in dict.fromkeys(TUNED_AS.values())]
        if all(rate is not None for rate in rates):
            rows.append([LABELS[contender], *(f"{rate:g}" for rate in rates)])
    return markdown(["norm", *dict.fromkeys(TUNED_AS.values())], rows) if rows else ""


def _accuracies(results: Results, keys: Sequence[str]) -> list[float] | None:
    """Test accuracies [%] of runs, 0 where one diverged; None where one is missing."""
    if any(key not in results for key in keys):
        return None
    return [0.0 if "diverged" in results[key] else 100 * results[key]["test"]["accuracy"] for key in keys]


def _means(results: Results, stream: str) -> dict[str, float]:
    """Mean test accuracy of each contender, over the seeds that all have."""
    seeds = _seeds(results, stream, list(SEEDS))
    values = {name: _accuracies(results, [_key(stream, name, seed) for seed in seeds]) for name in CONTENDERS}
    return {name: estimate(found).mean for name, found in values.items() if found}


def _network(results: Results) -> str:
    """What was trained on what, and whether that is enough to conclude from."""
    shuffled = [run for name in CONTENDERS for run in runs_of(results, "shuffled", name) if "diverged" not in run]
    means = {name: mean for name, mean in _means(results, "shuffled").items() if name in BASELINES}
    if not shuffled or not means:
        return "Inconclusive: no seed has all contenders on the shuffled stream."
    run = shuffled[0]
    images, best = run["steps"] * run["config"]["batch_size"], max(means.values())
    whole = run["config"]["data"]["train_split"] == "train"
    seeds = ", ".join(f"{len(_seeds(results, stream, list(SEEDS)))} on {stream}" for stream in STREAMS)
    said = (
        f"Convolutional network of {run['parameters']:,} parameters, CIFAR-10 (45,000 images to train, 5,000 to "
        f"validate), {images:,} images processed, {run['test']['examples']:,} test images; seeds that all contenders "
        f"have: {seeds}. Best baseline on the shuffled stream {best:.2f} %. Where each step takes the reference, it "
        "passes 64 more images."
    )
    enough = best >= 75 and run["parameters"] >= 100_000 and run["test"]["examples"] == 10_000 and whole
    return said if enough else f"Inconclusive (wanted: 75 %, 100,000 parameters, 10,000 test images). {said}"


def _claims(results: Results) -> str:
    """The figures that were claimed or aimed at, beside those that were measured."""
    lines = []
    if shuffled := _means(results, "shuffled"):
        best = max(_REFERENCE_MODES, key=lambda mode: shuffled[mode])
        gain = shuffled[best] - shuffled["batch_norm"]
        lines.append(f"- Shuffled: the best mode, {best}, is {gain:+.2f} points from BatchNorm (the paper: +0.3).")
    if skewed := _means(results, "two classes"):
        best = max(_REFERENCE_MODES, key=lambda mode: skewed[mode])
        gain = skewed[best] - skewed["group_norm"]
        line = f"- Two classes: the best mode, {best}, is {gain:+.2f} points from GroupNorm (wanted: -3 or more)"
        if shuffled:
            line += (
                f"; BatchNorm is {skewed['batch_norm'] - shuffled['batch_norm']:+.2f} from itself on shuffled batches"
            )
        lines.append(f"{line}.")
    return "\n".join(lines)
