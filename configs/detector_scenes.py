"""A small anchor-free detector with masks, on scenes made of MNIST's digits.

    normjax detect RUN --config configs/detector_scenes.py --data-dir DATA

RUN is a run of a convnet on grey pictures, for example
`python train.py --data.name mnist --data-dir DATA --workdir RUN --epochs 1 --schedule.name one_cycle`.
The defaults: 2,000 scenes of 64x64 pixels, eight epochs.
Expected: see results/reference-batch-transfer.md.
"""

from normjax.detection.config import DetectionConfig

config = DetectionConfig()
