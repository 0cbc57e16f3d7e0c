"""configs/imagenet_resnet50.py runs: the same code, on a few pictures in the format of TensorFlow Datasets."""

from pathlib import Path

import jax
import pytest
from tfds_standin import write_standin

from normjax.training.config import load_config
from normjax.training.loop import train
from normjax.training.metrics import read_metrics

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.filterwarnings("ignore:.*tqdm.*")  # TFDS shows its bars through it while it writes the stand-in
def test_the_imagenet_config_trains_on_a_standin(tmp_path):
    write_standin(tmp_path / "data", "imagenet2012", sizes={"train": 24, "validation": 11})
    full = load_config(CONFIGS / "imagenet_resnet50.py")
    # As it stands but for size: narrow, small pictures, three steps.
    config = full.model_copy(
        update={
            "epochs": 1.0,
            "batch_size": 8,
            "data": full.data.model_copy(update={"image_size": 32}),
            "model": full.model.model_copy(update={"widths": (4, 4, 8, 8)}),
            "schedule": full.schedule.model_copy(update={"warmup_epochs": 0.0}),
            "optimizer": full.optimizer.model_copy(update={"learning_rate": 0.01}),
            "run": full.run.model_copy(update={"eval_batch_size": 8, "log_every": 1, "threads": 2}),
        }
    )
    with jax.numpy_rank_promotion("allow"):  # Flax's bias add
        summary = train(config, tmp_path / "run", data_dir=tmp_path / "data")
    assert (summary["steps"], summary["skipped_steps"], summary["test"]["examples"]) == (3, 0, 11)
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["split"] == "train"]
    assert [line["examples"] for line in lines] == [8, 8, 8]
    # 1000 classes, a scale of zero at the end of each block: the first loss is that of a guess, ln 1000 = 6.9.
    assert 6 < lines[0]["loss"] < 8
