"""A run that begins with a network that is there already."""

import shutil
from typing import Any

import jax
import numpy as np

from normjax.data.source import DatasetInfo
from normjax.training.checkpoint import Checkpoints
from normjax.training.config import TrainConfig
from normjax.training.run_directory import RunDirectory
from normjax.training.session import build_session


def begin_run(
    target: RunDirectory, config: TrainConfig, info: DatasetInfo, variables: dict[str, Any], reference: Any = None
) -> None:
    """Writes a network as checkpoint 0 of a run, which any trainer then goes on with.

    Args:
      target: a directory that this process has taken.
      config: of the run.
      info: of its data.
      variables: of the network.
      reference: images of its reference batch; None where no layer wants them.

    Raises:
      UserError: it cannot be written.
    """
    shutil.rmtree(target.checkpoints, ignore_errors=True)  # of an attempt that was cut short
    session = build_session(config, info)
    variables = jax.tree.map(np.asarray, dict(variables))
    average = variables if config.ema_decay is not None else None
    variables = dict(variables)
    params = variables.pop("params")
    optimizer = jax.tree.map(np.asarray, session.optimizer.init(params))
    state = session.state_like().replace(
        params=params, model_state=variables, opt_state=optimizer, ema=average, reference=reference
    )
    checkpoints = Checkpoints(target.checkpoints, config.run.keep)
    try:
        checkpoints.save(0, state, {"seconds": {}, "skipped": 0})
        checkpoints.wait()
    finally:
        checkpoints.close()
    # Last: without a config the directory is no run yet.
    target.record(config, info)
