"""Trains a small convolutional network on the digits with each norm, and evaluates those of another directory.

    python cluster_member.py WORKDIR [--distributed ...]

alone, or as one of the processes that ``normjax launch`` starts. The first process prints what the evaluations say.
"""

import argparse
import json
from pathlib import Path

from normjax.training.cluster_options import Cluster
from normjax.training.config import ModelConfig, NormConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig
from normjax.training.evaluate import evaluate_run
from normjax.training.loop import train

NORMS = ("batch_norm", "reference_batch_norm", "decorrelated_batch_norm")
STEPS = 20


def config_of(norm: str) -> TrainConfig:
    return TrainConfig(
        epochs=STEPS * 64 / 1295,
        model=ModelConfig(widths=(8, 16), dense=()),
        norm=NormConfig(name=norm, options={"group_size": 8} if norm == "decorrelated_batch_norm" else {}),
        # Small steps: a maximum that rounding decides another way would part the runs for good.
        optimizer=OptimizerConfig(learning_rate=0.002),
        schedule=ScheduleConfig(name="constant", warmup_epochs=0),
        run=RunConfig(log_every=5, eval_batch_size=100),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--evaluate", type=Path)
    parser.add_argument("--distributed", action="store_true")
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    given = parser.parse_args()
    cluster = Cluster(given.distributed, given.coordinator, given.processes, given.process)
    with cluster.joined():
        for norm in NORMS:
            train(config_of(norm), given.workdir / norm)
            told = evaluate_run(
                (given.evaluate or given.workdir) / norm, split="test", checkpoint="last", data_dir=None
            )
            if cluster.is_first():
                print(json.dumps({"norm": norm, **told}), flush=True)


if __name__ == "__main__":
    main()
