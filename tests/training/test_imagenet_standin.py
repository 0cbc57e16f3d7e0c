"""configs/imagenet_resnet50.py runs: the same code, on a few pictures in the format of TensorFlow Datasets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tfds_standin import write_standin

from normjax.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
# The config as it stands but for size: narrow, small pictures, three steps, on one device.
SMALLER = (
    "--epochs 1 --batch-size 8 --data.image-size 32 --model.widths 4 4 8 8 --schedule.warmup-epochs 0 "
    "--optimizer.learning-rate 0.01 --run.eval-batch-size 8 --run.log-every 1 --run.threads 2"
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*tqdm.*")  # TFDS shows its bars through it while it writes the stand-in
def test_the_imagenet_config_trains_on_a_standin(tmp_path):
    write_standin(tmp_path / "data", "imagenet2012", sizes={"train": 24, "validation": 11})
    command = [sys.executable, "train.py", "--config", "configs/imagenet_resnet50.py", "--data-dir", tmp_path / "data"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*command, "--workdir", tmp_path / "run", *SMALLER.split()],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["steps"], summary["skipped_steps"], summary["test"]["examples"]) == (3, 0, 11)
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["split"] == "train"]
    assert [line["examples"] for line in lines] == [8, 8, 8]
    # 1000 classes, a scale of zero at the end of each block: the first loss is that of a guess, ln 1000 = 6.9.
    assert 6 < lines[0]["loss"] < 8
