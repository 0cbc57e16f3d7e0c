"""Loss, accuracy and predictions of a network over all examples of a source."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from normjax.data import evaluation_batches, load_dataset
from normjax.data.source import Source
from normjax.data.transforms import Transform
from normjax.errors import UserError
from normjax.training.checkpoint import Checkpoints
from normjax.training.cluster import own_shard, sum_over_processes
from normjax.training.exported import check_exported, is_exported, read_exported
from normjax.training.run_directory import RunDirectory
from normjax.training.session import Session, build_session
from normjax.training.state import evaluated_variables


class Scores(NamedTuple):
    """How a network does on a set of examples, each counted exactly once."""

    loss: float
    accuracy: float
    top5: float
    examples: int
    confusion: np.ndarray  # counts, rows true and columns predicted

    def figures(self) -> dict[str, float | int]:
        """All but the confusion matrix."""
        return {"loss": self.loss, "accuracy": self.accuracy, "top5": self.top5, "examples": self.examples}


class Evaluator:
    """The compiled steps that evaluate states of a run.

    Args:
      session: of the run.
    """

    def __init__(self, session: Session):
        self.session = session
        parallel = session.parallel
        self._step = parallel.map(session.eval_step, ("replicated", "sharded"))
        self._ready = session.ready and parallel.map(session.ready, "replicated", inputs=("replicated",))

    def ready(self, state: Any) -> Any:
        """A replicated state with the reference statistics of the weights that are evaluated."""
        return self._ready(state) if self._ready else state

    def score(self, state: Any, source: Source, prepare: Transform) -> Scores:
        """Evaluates every example of a source exactly once.

        Args:
          state: the replicated state, as training has it.
          source: the examples.
          prepare: what is done to their images.

        Raises:
          UserError: no example can be read.
        """
        session, state = self.session, self.ready(state)
        classes = session.config.model.num_classes or len(session.info.classes)
        confusion = np.zeros((classes, classes), np.int64)
        totals = np.zeros(4)
        batches = evaluation_batches(
            source,
            prepare,
            batch_size=session.eval_batch_size,
            shard=own_shard(),
            threads=session.config.run.threads,
        )
        for batch in batches:
            sums, logits = self._step(state, session.parallel.shard(batch))
            predicted = session.parallel.gather(logits).argmax(-1)
            totals += np.array([float(value) for value in session.parallel.fetch(sums)])
            valid = batch["mask"]
            np.add.at(confusion, (batch["label"][valid], predicted[valid]), 1)
        loss, correct, top5, examples = totals.tolist()
        if not examples:
            raise UserError(f"none of the {len(source)} examples of {source.name} can be read.")
        confusion = sum_over_processes(confusion)[: len(session.info.classes)]
        return Scores(loss / examples, correct / examples, top5 / examples, int(examples), confusion)


def restore_run(path: Path, checkpoint: str = "best") -> tuple[Session, Any, int]:
    """A finished or running run as a checkpoint has it.

    Args:
      path: the run directory.
      checkpoint: ``best`` (the last where no validation chose one), ``last``, or a step.

    Returns:
      The session, the state as numpy arrays, the step of the checkpoint.

    Raises:
      UserError: there is no run, or no such checkpoint.
    """
    run = RunDirectory(path)
    session = build_session(run.read_config(), run.read_dataset(), training=False)
    if not run.checkpoints.is_dir():
        raise UserError(f"{path} has no checkpoint yet.")
    checkpoints = Checkpoints(run.checkpoints, read_only=True)
    try:
        step = _choose(checkpoints, checkpoint, path)
        state, _ = checkpoints.restore(step, session.state_like())
    finally:
        checkpoints.close()
    return session, state, step


def restore_network(path: Path, checkpoint: str = "best") -> tuple[Session, dict[str, Any], int]:
    """The network of a run, with the variables that are evaluated.

    Args:
      path: the run directory, or that of an exported network, which is what one checkpoint was.
      checkpoint: ``best`` (the last where no validation chose one), ``last``, or a step.

    Returns:
      The session, the variables as numpy arrays, the step of the checkpoint.

    Raises:
      UserError: there is no run, or no such checkpoint.
    """
    if is_exported(path):
        check_exported(path)
        run = RunDirectory(path)
        session = build_session(run.read_config(), run.read_dataset(), training=False)
        variables, step = read_exported(path, session)
        if checkpoint not in ("best", "last", str(step)):
            raise UserError(f"checkpoint={checkpoint!r} is not in {path}, which holds step {step} alone.")
        return session, variables, step
    session, state, step = restore_run(path, checkpoint)
    state = Evaluator(session).ready(session.parallel.replicate(state))
    return session, evaluated_variables(session.parallel.fetch(state)), step


def evaluate_run(path: Path, *, split: str, checkpoint: str, data_dir: Path | None) -> dict[str, Any]:
    """Evaluates a run on one of its splits.

    Args:
      path: the run directory.
      split: ``train``, ``validation`` or ``test``.
      checkpoint: ``best``, ``last`` or a step.
      data_dir: where data sets lie.

    Returns:
      Run, split, step, loss, accuracy, top5 and number of examples.

    Raises:
      UserError: the run, the checkpoint, the split or the data are not there.
    """
    session, state, step = restore_run(path, checkpoint)
    config, info = session.config, session.info
    # As the run saw its pixels, whatever is measured today.
    options = config.data.model_copy(update={"mean": info.mean, "std": info.std})
    dataset = load_dataset(
        options, seed=config.seed, data_dir=data_dir, cache_mib=config.run.cache_mib, test_only=split == "test"
    )
    source = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}[split]
    if source is None:
        raise UserError(f"{path} has no validation split (data.validation=0); use train or test.")
    if dataset.info.classes != info.classes:
        raise UserError(f"{path} was trained on other classes than {dataset.info.name} has here.")
    scores = Evaluator(session).score(session.parallel.replicate(state), source, dataset.prepare)
    if not math.isfinite(scores.loss):
        raise UserError(f"checkpoint {step} of {path} gives a loss that is not finite.")
    return {"run": str(path), "split": split, "step": step, **scores.figures()}


def _choose(checkpoints: Checkpoints, wanted: str, path: Path) -> int:
    if checkpoints.latest is None:
        raise UserError(f"{path} has no checkpoint yet.")
    if wanted in ("best", "last") and checkpoints.damaged:
        # Which one is best may stand in the damaged one; another must not be taken for it in silence.
        step, wrong = max(checkpoints.damaged.items())
        whole = sorted(set(checkpoints.steps) - set(checkpoints.damaged))
        raise UserError(
            f"checkpoint {step} of {path} is damaged: {wrong}. "
            + (f"Name one that is whole: checkpoint={' or '.join(map(str, whole))}." if whole else "None is whole.")
        )
    if wanted == "best":
        best = checkpoints.best
        return checkpoints.latest if best is None else best
    if wanted == "last":
        return checkpoints.latest
    if not wanted.isdigit():
        raise UserError(f"checkpoint={wanted!r} is not known; use best, last or one of {checkpoints.steps}.")
    return int(wanted)
