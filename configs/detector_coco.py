"""The same detector on COCO, for those who have it: boxes only, since TFDS has no masks of COCO.

    normjax detect RUN --config configs/detector_coco.py --data-dir DATA

RUN is a run of a convnet on RGB pictures, for example of configs/cifar10_reference.py.
Expected: not run by us (COCO is not at hand); it reads what TFDS calls coco/2017.
"""

from normjax.detection.config import DetectionConfig, SceneConfig

config = DetectionConfig(
    epochs=12,
    batch_size=64,
    features=128,
    data=SceneConfig(
        name="coco/2017",
        image_size=320,
        train_split="train",
        test_split="validation",
        train_examples=None,
        test_examples=None,
        objects=20,
    ),
)
