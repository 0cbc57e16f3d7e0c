"""The training loop: from a config to a run directory with a trained network."""

import contextlib
import logging
import math
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from normjax.data import Dataset, draw_reference, load_dataset, make_drift, make_stream, training_batches
from normjax.errors import UserError
from normjax.training.checkpoint import Checkpoints
from normjax.training.clock import Clock
from normjax.training.cluster import is_first, on_first, own_shard, require_same
from normjax.training.config import TrainConfig
from normjax.training.diagnosis import first_non_finite
from normjax.training.evaluate import Evaluator, Scores
from normjax.training.metrics import MetricsLog, read_metrics
from normjax.training.plots import plot_confusion, plot_curves
from normjax.training.progress import Progress
from normjax.training.run_directory import RunDirectory, write_json
from normjax.training.session import Session, build_session
from normjax.training.step import StepMetrics
from normjax.training.stop import StopRequest, TrainingStoppedError

_log = logging.getLogger(__name__)
_IN_FLIGHT = 2  # steps handed to the devices before the loop waits for one


def train(
    config: TrainConfig,
    workdir: Path,
    *,
    data_dir: Path | None = None,
    console: Console | None = None,
    stop: StopRequest | None = None,
) -> dict:
    """Trains a network, or goes on with a run where it stopped.

    1. The run directory is taken, and its config checked.
    2. The data are loaded, network and steps built.
    3. The latest checkpoint is restored, if there is one.
    4. Each epoch ends with a validation and a checkpoint; the test set is read once, at the end, by the best.

    Args:
      config: what to do.
      workdir: the run directory; that of an earlier run resumes it.
      data_dir: where data sets lie.
      console: where progress is shown.
      stop: tells whether to end early.

    Returns:
      The summary, as in ``summary.json``.

    Raises:
      UserError: bad options, missing data, a busy or unwritable directory, too many non-finite steps.
      TrainingStoppedError: it was asked to stop; all that was done is saved.
    """
    console = console if console is not None and is_first() else Console(quiet=True)
    run = RunDirectory(workdir)
    on_first(run.acquire)
    try:
        return _Run(run, config, data_dir, console, stop or StopRequest()).carry_out()
    finally:
        run.release()


class _Run:
    """One process's part in a run, from opening the directory to the summary."""

    def __init__(
        self, run: RunDirectory, config: TrainConfig, data_dir: Path | None, console: Console, stop: StopRequest
    ):
        self.run, self.config, self.console, self.stop = run, config, console, stop
        self.clock = Clock()
        on_first(lambda: run.check_config(config))
        with self.clock("data"), console.status(f"reading {config.data.name} …"):
            self.dataset: Dataset = load_dataset(
                config.data, seed=config.seed, data_dir=data_dir, cache_mib=config.run.cache_mib
            )
        on_first(lambda: run.check_dataset(self.dataset.info))
        self.session: Session = build_session(config, self.dataset.info)
        self.parallel = self.session.parallel
        self.evaluator = Evaluator(self.session)
        self.stream = make_stream(config.stream, self.dataset.train, batch_size=config.batch_size, seed=config.seed)
        with self.clock("compile"):
            # One that goes on does not need the file of weights any more, which may have gone.
            fresh = not (run.checkpoints.is_dir() and any(entry.name.isdigit() for entry in run.checkpoints.iterdir()))
            self.initial = self.session.initial_state(self._draw_reference(), self._draw_first(), weights=fresh)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.initial.params))
        on_first(lambda: run.record(config, self.dataset.info))
        self.checkpoints = Checkpoints(run.checkpoints, config.run.keep)
        self._require_same_processes()
        self.pending: list[StepMetrics] = []
        self.skipped = 0
        self.stopping = False

    def _require_same_processes(self) -> None:
        """Processes that differ would part in silence, or wait for each other for ever."""
        config = self.config.model_dump(mode="json")
        for own in ("threads", "cache_mib"):  # of each process
            del config["run"][own]
        sections = {name: value for name, value in config.items() if isinstance(value, dict)}
        rest = {name: value for name, value in config.items() if name not in sections}
        files = {"the data": self.dataset.info.model_dump(), "the latest checkpoint": self.checkpoints.latest}
        require_same({**sections, **rest, **files, "devices": jax.local_device_count()})

    def carry_out(self) -> dict[str, Any]:
        """Trains what is left to train, tests, and writes the summary."""
        state, latest = self.initial, self.checkpoints.latest
        start = latest or 0
        # A checkpoint 0 holds a network to begin with.
        if latest is not None:
            with self.clock("checkpoint"):
                state, meta = self.checkpoints.restore(latest, state)
            self.clock.add(meta["seconds"])
            self.skipped = meta["skipped"]
        self._announce(start)
        self.log = MetricsLog(self.run, start, _log.warning, silent=not is_first())
        try:
            replicated = self._train(self.parallel.replicate(state), start)
            scores, tested = self._test(replicated)
        except BaseException:
            # On a full disk closing fails too; what went wrong first is what is reported.
            for resource in (self.log, self.checkpoints):
                with contextlib.suppress(UserError):
                    resource.close()
            raise
        self.checkpoints.close()
        self.log.close()
        return self._summarize(scores, tested)

    def _draw_reference(self) -> np.ndarray | None:
        config, data = self.config, self.dataset
        if not config.has_reference:
            return None
        reference = config.reference
        return draw_reference(data.train, data.prepare, size=reference.size, draw=reference.draw, seed=config.seed)

    def _draw_first(self) -> np.ndarray | None:
        size = self.config.weight_norm.initialize_from
        if size is None:
            return None
        name = "weight_norm.initialize_from"
        data = self.dataset
        return draw_reference(data.train, data.prepare, size=size, draw="random", seed=self.config.seed, name=name)

    def _train(self, state: Any, start: int) -> Any:
        total = self.session.total_steps
        if start == total:
            return state
        batches = self._batches(start, total)
        with self.clock("compile"), self.console.status("compiling …"):
            first = next(batches)
            step_function = self.parallel.map(self.session.train_step, ("replicated", "replicated"), donate=True)
            step_function = step_function.lower(state, first).compile()
            refresh = self.session.refresh
            refresh = refresh and self.parallel.map(refresh, "replicated", inputs=("replicated",), donate=True)
        every, between = self.config.run.checkpoint_every, self.config.run.validate_every
        with self.clock("training"), Progress(self.console, total, start, self.config.batch_size) as progress:
            batch: Any = first
            for step in range(start + 1, total + 1):
                if self.stopping or (jax.process_count() == 1 and self.stop.signal is not None):
                    self._stop(state, step - 1, start)
                if self.session.refreshes_before(step):
                    state = refresh(state)
                state, metrics = step_function(state, batch)
                self.pending.append(metrics)
                if len(self.pending) > _IN_FLIGHT:
                    done = self.pending[-1 - _IN_FLIGHT]
                    done.loss.block_until_ready()
                    self._hear(done)
                if step < total:
                    batch = next(batches)
                ends_epoch, due = self.session.ends_epoch(step), every is not None and step % every == 0
                validates = between is not None and step % between == 0
                if ends_epoch or due or validates or step % self.config.run.log_every == 0:
                    line = self._flush(step, state)
                    progress.advance(step, line)
                if ends_epoch or due:
                    accuracy = self._validate(state, step, progress) if ends_epoch else None
                    self._save(state, step, accuracy)
                if validates and not ends_epoch:
                    self._validate(state, step, progress)
        with self.clock("checkpoint"), self._failed_saves():
            self.checkpoints.wait()
        return state

    def _batches(self, start: int, stop: int) -> Iterator[Any]:
        """Batches on the devices, the next one on its way while a step runs."""
        source = training_batches(
            self.dataset.train,
            self.dataset.augment,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            start=start,
            stop=stop,
            stream=self.stream,
            drift=make_drift(self.config.stream),
            shard=own_shard(),
            threads=self.config.run.threads,
        )
        return (self.parallel.shard(self._with_stop(batch)) for batch in source)

    def _with_stop(self, batch: Any) -> dict[str, Any]:
        """The batch, which among several processes tells the others whether this one is to stop."""
        if jax.process_count() == 1:
            return batch
        asked = np.full(self.parallel.own, self.stop.signal is not None, np.int32)
        return {**batch, "stop": asked}

    def _stop(self, state: Any, step: int, start: int) -> None:
        """Saves the state after ``step`` where it is not saved yet, and ends the run."""
        self.checkpoints.wait()
        if step > start and step != self.checkpoints.latest:
            if self.pending:
                self._flush(step, state)
            self._save(state, step, None)
            self.checkpoints.wait()
        raise TrainingStoppedError(self.checkpoints.latest or 0, self.session.total_steps, self.run.path)

    def _hear(self, told: Any) -> None:
        """Learns from the numbers of a step, the same on all processes, whether one of them is to stop."""
        if told.stop is not None and int(self.parallel.fetch(told.stop)):
            self.stopping = True

    def _flush(self, step: int, state: Any) -> dict[str, Any]:
        """Writes the metrics of the steps since the last line; ends the run where too many were not finite."""
        for metrics in self.pending:
            self._hear(metrics)
        steps = [self.parallel.fetch(metrics)._asdict() for metrics in self.pending]
        self.pending = []
        good = [m for m in steps if m["skipped_in_row"] == 0]
        examples = sum(float(m["examples"]) for m in good)
        self.skipped += len(steps) - len(good)

        def mean(name: str, weight: str | None = None) -> float | None:
            if not good or (weight and not examples):
                return None
            return sum(float(m[name] * m[weight] if weight else m[name]) for m in good) / (
                examples if weight else len(good)
            )

        line = self.log.write(
            step,
            self.session.epoch_of(step),
            "train",
            loss=mean("loss", "examples"),
            accuracy=sum(float(m["correct"]) for m in good) / examples if examples else None,
            learning_rate=float(steps[-1]["learning_rate"]),
            gradient_norm=mean("gradient_norm"),
            examples=int(examples),
            skipped=len(steps) - len(good),
        )
        limit = self.config.max_skipped_steps
        for number, metrics in enumerate(steps, step - len(steps) + 1):
            if metrics["skipped_in_row"] >= limit:
                self._give_up(number, metrics, state)
        return line

    def _give_up(self, step: int, metrics: dict[str, Any], state: Any) -> None:
        self.checkpoints.wait()
        limit, latest = self.config.max_skipped_steps, self.checkpoints.latest
        first = step - limit + 1
        # Skipped steps leave the state as it was, so the first of them can be taken again.
        place = first_non_finite(self.session, state, next(self._batches(first - 1, first)))
        raise UserError(
            f"step {step}: {limit} steps in a row were not finite (loss {metrics['loss']}, gradient norm "
            f"{metrics['gradient_norm']}), the first of them step {first}, where the first value that is not finite "
            f"is {place or 'not to be found again'}; "
            + (f"the last checkpoint is step {latest}." if latest else "there is no checkpoint yet.")
        )

    def _validate(self, state: Any, step: int, progress: Progress) -> float | None:
        if self.dataset.validation is None:
            progress.report(None)
            return None
        with self.clock("evaluation"):
            scores = self.evaluator.score(state, self.dataset.validation, self.dataset.prepare)
        line = self.log.write(step, self.session.epoch_of(step), "validation", **scores.figures())
        progress.report(line)
        # A network that gives NaN is nobody's best.
        return scores.accuracy if math.isfinite(scores.loss) else None

    def _save(self, state: Any, step: int, accuracy: float | None) -> None:
        with self.clock("checkpoint"):
            meta = {"seconds": self.clock.read(), "skipped": self.skipped}
            # Whether the checkpoint before could be written is known by now.
            with self._failed_saves():
                self.checkpoints.wait()
            with self._failed_saves():
                self.checkpoints.save(step, self.parallel.fetch(state), meta, accuracy)

    @contextlib.contextmanager
    def _failed_saves(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            if self.config.run.failed_save == "end":
                raise
            _log.warning("%s Training goes on.", error)

    def _test(self, state: Any) -> tuple[Scores, int]:
        """The test set, read once, by the best checkpoint (the last where no validation chose one)."""
        total = self.session.total_steps
        best = self.checkpoints.best
        tested = total if best is None else best
        with self.clock("evaluation"), self.console.status("testing …"):
            if tested != total:
                restored, _ = self.checkpoints.restore(tested, self.initial)
                state = self.parallel.replicate(restored)
            scores = self.evaluator.score(state, self.dataset.test, self.dataset.prepare)
        if not math.isfinite(scores.loss):
            raise UserError(f"the network of step {tested} gives a loss that is not finite on the test set.")
        self.log.write(total, self.session.epoch_of(total), "test", **scores.figures())
        return scores, tested

    def _summarize(self, scores: Scores, tested: int) -> dict[str, Any]:
        seconds = {name: round(value, 3) for name, value in self.clock.read().items()}
        lines = read_metrics(self.run.metrics_file)
        validation = {line["step"]: line["accuracy"] for line in lines if line["split"] == "validation"}
        examples = self.session.total_steps * self.config.batch_size
        summary = {
            "test": scores.figures(),
            "validation_accuracy": validation.get(tested),
            "tested_step": tested,
            "steps": self.session.total_steps,
            "skipped_steps": self.skipped,
            "unreadable_records": self._unreadable(),
            "epochs": self.config.epochs,
            "parameters": self.parameters,
            "seconds": seconds,
            "images_per_second": round(examples / seconds["training"], 1) if seconds.get("training") else None,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
        }
        if is_first():
            write_json(self.run.summary_file, summary)
            self._draw(lines, scores)
        return summary

    def _draw(self, lines: list[dict[str, Any]], scores: Scores) -> None:
        """The pictures of the run, whose lack is no loss of its figures."""
        info = self.dataset.info
        name = f"{self.config.model.name} with {self.config.norm.name} on {info.name}, seed {self.config.seed}"
        title = f"{name}: {100 * scores.accuracy:.2f} % of {scores.examples} test images"
        try:
            plot_curves(lines, self.run.curves, name)
            plot_confusion(scores.confusion[:, : len(info.classes)], info.classes, self.run.confusion, title)
        except OSError as error:
            _log.warning("%s cannot be drawn: %s.", error.filename or self.run.curves, error.strerror)

    def _unreadable(self) -> list[str]:
        """What is wrong with the records that this process left out."""
        parts = (self.dataset.train, self.dataset.validation, self.dataset.test)
        return sorted({reason for part in parts if part is not None for reason in (part.unreadable or {}).values()})

    def _announce(self, start: int) -> None:
        info, devices = self.dataset.info, self.parallel.devices
        processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        self.console.print(
            f"[bold]{self.config.model.name}[/] with {self.config.norm.name}, {self.parameters:,} parameters, on "
            f"{info.name}: {info.train_examples:,} images to train, {info.validation_examples:,} to validate, "
            f"{info.test_examples:,} to test; {len(devices)} {devices[0].platform} device(s){processes}, "
            f"{self.config.run.parallel}; {self.session.total_steps:,} steps of {self.config.batch_size}",
            highlight=False,
        )
        for step, wrong in self.checkpoints.damaged.items():
            told = f"checkpoint {step} is damaged ({wrong}); it was moved to {self.run.path / 'damaged'}"
            self.console.print(told, soft_wrap=True, markup=False, highlight=False)
        if start:
            self.console.print(f"going on from step {start:,} of {self.session.total_steps:,}", highlight=False)


def machine() -> dict[str, Any]:
    """What a run was carried out on."""
    devices = jax.devices()
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        **{name: version(name) for name in ("normjax", "jax", "flax", "optax", "orbax-checkpoint", "grain")},
    }
