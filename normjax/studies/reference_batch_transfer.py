"""Do backbones that were pre-trained with a reference batch detect and segment better? (Luo, Li, Zuo, 2020)

A convolutional network learns MNIST's digits from batches of two classes, with batch norm and with reference-batch
norm; a small detector with a mask head is then fine-tuned on it, on scenes made of the same digits. The norms of the
backbone keep their statistics, as is the custom in detection. Batch norm from shuffled batches shows what is lost by
the stream.
"""

from pathlib import Path

import numpy as np

from normjax.data import load_scenes
from normjax.data.options import DataConfig, StreamConfig
from normjax.detection.config import DetectionConfig, SceneConfig, TransferConfig
from normjax.detection.picture import draw_detections
from normjax.detection.scores import Objects
from normjax.studies.comparison import estimate, markdown, paired
from normjax.studies.network import convnet_config, steps_of
from normjax.studies.rates import chosen_rate
from normjax.studies.trials import Results, Trial
from normjax.training.config import NormConfig, ReferenceConfig, TrainConfig

REQUIRES = ("pycocotools",)
SEEDS = (0, 1, 2)
RATES = (0.02, 0.06, 0.2)
EPOCHS, EXAMPLES = 1.0, 54_000
_DATA = DataConfig(name="mnist", validation=0.1, augmentation="shift", padding=2, mean=(0.1307,), std=(0.3081,))
SKEWED = StreamConfig(name="few_classes", classes=2)
# Name: norm, stream of the pre-training.
BACKBONES: dict[str, tuple[NormConfig, StreamConfig]] = {
    "BatchNorm, two classes": (NormConfig(momentum=0.99), SKEWED),
    "ReferenceBatchNorm, two classes": (NormConfig(name="reference_batch_norm"), SKEWED),
    "BatchNorm, shuffled": (NormConfig(momentum=0.99), StreamConfig()),
}
_SCORES = {"box_ap": "box AP", "box_ap50": "box AP50", "mask_ap": "mask AP", "mask_ap50": "mask AP50"}


def plan(results: Results, budget: float = 1.0) -> list[Trial]:
    """The runs of the study: first the learning rates of the pre-training, then both trainings, seed by seed.

    Args:
      results: of the runs so far.
      budget: share of the full length; below 1 there is one seed, below 0.1 one learning rate and a smaller network.
    """
    small = budget < 0.1
    rates = RATES[1:2] if small else RATES
    tuning = [
        Trial(_tuning_key(name, rate), _pretraining(name, 0, rate, budget / 5, small=small))
        for name in BACKBONES
        for rate in rates
        if len(rates) > 1
    ]
    compared = []
    for seed in SEEDS if budget >= 1 else SEEDS[:1]:
        for name in BACKBONES:
            rate = best_rate(results, name, rates)
            if rate is not None:
                pretraining = _pretraining(name, seed, rate, budget, small=small)
                config = TransferConfig(pretraining=pretraining, detection=_detection(seed, budget, small=small))
                compared.append(Trial(_key(name, seed), config))
    return tuning + compared


def best_rate(results: Results, name: str, rates: tuple[float, ...] = RATES) -> float | None:
    """The learning rate of the comparison; None where the choice is not over."""
    return chosen_rate(results, [_tuning_key(name, rate) for rate in rates], rates)


def table(results: Results) -> str:
    """The tables of the study in Markdown, made of the raw numbers alone."""
    seeds = [seed for seed in SEEDS if all(_key(name, seed) in results for name in BACKBONES)]
    if not seeds:
        return "Inconclusive: no seed has all backbones.\n"

    def values(name: str, score: str) -> list[float]:
        runs = [results[_key(name, seed)] for seed in seeds]
        if score == "accuracy":
            return [0.0 if "diverged" in run else 100 * run["pretraining"]["test"]["accuracy"] for run in runs]
        return [0.0 if "diverged" in run else run["test"][score] for run in runs]

    rows = [
        [
            name,
            str(estimate(values(name, "accuracy"))),
            *(str(estimate(values(name, score))) for score in _SCORES),
        ]
        for name in BACKBONES
    ]
    skewed, reference, _ = BACKBONES
    difference = [str(paired(values(reference, score), values(skewed, score))) for score in _SCORES]
    whole = [run for name in BACKBONES for seed in seeds if "diverged" not in (run := results[_key(name, seed)])]
    if not whole:
        return "Inconclusive: all runs diverged.\n"
    first, data = whole[0], whole[0]["config"]["detection"]["data"]
    examples, scenes = first["test"]["examples"], data["train_examples"]
    said = (
        f"Average precision [%] on {examples:,} scenes after training on {scenes:,}, mean over {len(seeds)} seed(s) ± "
        f"half of the 95 % interval; detector of {first['parameters']:,} parameters. Accuracy [%] is the "
        "backbone's on MNIST's test set. A run that diverged counts as 0.\n"
    )
    return "\n".join(
        [
            said,
            markdown(["backbone", "accuracy", *_SCORES.values()], rows),
            markdown(
                ["difference in points, two classes", *_SCORES.values()], [["reference less batch norm", *difference]]
            ),
        ]
    )


def draw(results: Results, stem: Path, data_dir: Path | None = None) -> None:
    """What the detectors of the first seed find: ``STEM-detections.png``."""
    runs = {name: results[_key(name, 0)] for name in BACKBONES if "found" in results.get(_key(name, 0), {})}
    if not runs:
        return
    options = SceneConfig.model_validate(next(iter(runs.values()))["config"]["detection"]["data"])
    _, test = load_scenes(options, seed=0, data_dir=data_dir)
    shown = [[_objects(found, options.image_size) for found in run["found"]] for run in runs.values()]
    scenes = test.read(range(len(shown[0])))
    names = [name.replace(", ", "\n") for name in runs]
    file = stem.with_name(f"{stem.name}-detections.png")
    draw_detections(scenes, list(zip(names, shown, strict=True)), test.classes, file)


def _objects(found: dict, size: int) -> Objects:
    """What ``run`` has written down."""
    rows = [np.frombuffer(bytes.fromhex(mask), np.uint8) for mask in found["masks"]]
    masks = [np.unpackbits(row).reshape(size, size).astype(bool) for row in rows]
    return Objects(
        np.array(found["boxes"]).reshape(-1, 4),
        np.array(found["labels"], int),
        np.array(found["scores"]),
        np.array(masks).reshape(-1, size, size),
    )


def _key(name: str, seed: int) -> str:
    return f"transfer/{name}/{seed}"


def _tuning_key(name: str, rate: float) -> str:
    return f"tuning/{name}/{rate:g}"


def _pretraining(name: str, seed: int, rate: float, share: float, *, small: bool) -> TrainConfig:
    norm, stream = BACKBONES[name]
    return convnet_config(
        _DATA,
        epochs=EPOCHS * share,
        steps=steps_of(EPOCHS * share * EXAMPLES),
        small=small,
        seed=seed,
        rate=rate,
        stream=stream,
        norm=norm,
        reference=ReferenceConfig(),
    )


def _detection(seed: int, share: float, *, small: bool) -> DetectionConfig:
    if small:
        data = SceneConfig(train_examples=64, test_examples=10, image_size=32)
        return DetectionConfig(seed=seed, epochs=1, features=8, data=data)
    return DetectionConfig(seed=seed, epochs=6 * share)
