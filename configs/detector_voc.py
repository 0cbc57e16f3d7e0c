"""The same detector on Pascal VOC 2012, for those who have it: boxes only.

    normjax detect RUN --config configs/detector_voc.py --data-dir DATA

RUN is a run of a convnet on RGB pictures, for example of configs/cifar10_reference.py.
Expected: not run by us (VOC is not at hand); it reads what TFDS calls voc/2012.
"""

from normjax.detection.config import DetectionConfig, SceneConfig

config = DetectionConfig(
    epochs=40,
    batch_size=64,
    features=128,
    data=SceneConfig(
        name="voc/2012",
        image_size=256,
        train_split="train",
        test_split="validation",
        train_examples=None,
        test_examples=None,
        objects=20,
    ),
)
