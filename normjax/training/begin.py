"""A run that begins with a network that is there already."""

import math
import shutil
from typing import Any

import jax
import numpy as np

from normjax.data import Dataset
from normjax.training.checkpoint import Checkpoints
from normjax.training.config import TrainConfig
from normjax.training.evaluate import Evaluator
from normjax.training.metrics import MetricsLog
from normjax.training.run_directory import RunDirectory
from normjax.training.session import build_session


def begin_run(
    target: RunDirectory, config: TrainConfig, dataset: Dataset, variables: dict[str, Any], reference: Any = None
) -> None:
    """Writes a network as checkpoint 0 of a run, which any trainer then goes on with.

    Where there is a validation split the network is measured on it, so that training that makes it worse is not what
    the run is known by.

    Args:
      target: a directory that this process has taken.
      config: of the run.
      dataset: of the run.
      variables: of the network.
      reference: images of its reference batch; None where no layer wants them.

    Raises:
      UserError: it cannot be written.
    """
    shutil.rmtree(target.checkpoints, ignore_errors=True)  # of an attempt that was cut short
    session = build_session(config, dataset.info)
    variables = jax.tree.map(np.asarray, dict(variables))
    average = variables if config.ema_decay is not None else None
    variables = dict(variables)
    params = variables.pop("params")
    optimizer = jax.tree.map(np.asarray, session.optimizer.init(params))
    state = session.state_like().replace(
        params=params, model_state=variables, opt_state=optimizer, ema=average, reference=reference
    )
    accuracy = None
    if dataset.validation is not None:
        replicated = session.parallel.replicate(state)
        scores = Evaluator(session).score(replicated, dataset.validation, dataset.prepare)
        accuracy = scores.accuracy if math.isfinite(scores.loss) else None
        log = MetricsLog(target, -1)
        log.write(0, 0.0, "validation", **scores.figures())
        log.close()
    checkpoints = Checkpoints(target.checkpoints, config.run.keep)
    try:
        checkpoints.save(0, state, {"seconds": {}, "skipped": 0}, accuracy)
        checkpoints.wait()
    finally:
        checkpoints.close()
    # Last: without a config the directory is no run yet.
    target.record(config, dataset.info)
