"""The command ``normjax``: a few lines over the library for each subcommand."""

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import ValidationError

from normjax import cli_runs
from normjax.compilation_cache import use_compilation_cache
from normjax.complaints import one_line
from normjax.detection.config import DetectionConfig
from normjax.errors import UserError
from normjax.training.cluster_options import ALONE
from normjax.training.config import Config, TrainConfig, describe_validation_error, load_config
from normjax.training.stop import StoppedError, StopRequest


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with 2 and one line on a user's error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Orbax warns of each checkpoint that has no validation, and logs with tracebacks what it raises anyway.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        command = _parse(arguments)
        use_compilation_cache()
        command()
    except StoppedError as stopped:
        print(stopped)
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("normjax: interrupted", file=sys.stderr)
        sys.exit(130)


def train_command(default: TrainConfig) -> Callable[..., Callable[[], None]]:
    """The subcommand ``train``, whose options start from a config."""

    def train(
        options: Annotated[TrainConfig, tyro.conf.arg(name="")] = default,
        config: Path | None = None,
        workdir: Path | None = None,
        data_dir: Path | None = None,
        cluster: cli_runs.ClusterOptions = ALONE,
    ) -> Callable[[], None]:
        """Train a network; without options a small convolutional network on handwritten digits.

        Args:
            options: what the options below change.
            config: a file of configs/, or the config.json of a run, to start from
            workdir: directory of the run; that of an earlier run resumes it; None: a new one in runs/
            data_dir: folder with data sets; None: $TFDS_DATA_DIR, else TFDS's own
            cluster: of which this process is one
        """

        def run() -> None:
            from normjax.training.loop import train as train_run
            from normjax.training.output import steady_console
            from normjax.training.report import print_summary

            console = steady_console()
            if cluster.distributed and workdir is None:
                raise UserError("--distributed needs --workdir, a directory that all processes see.")
            path = workdir or _new_workdir(config.stem if config else options.data.name)
            with StopRequest() as stop, cluster.joined():
                summary = train_run(options, path, data_dir=cli_runs.data_dir_of(data_dir), console=console, stop=stop)
                if cluster.is_first():
                    print_summary(summary, path, console)

        return run

    return train


def detect_command(default: DetectionConfig) -> Callable[..., Callable[[], None]]:
    """The subcommand ``detect``, whose options start from a config."""

    def detect(
        backbone: cli_runs.Run,
        options: Annotated[DetectionConfig, tyro.conf.arg(name="")] = default,
        config: Path | None = None,
        workdir: Path | None = None,
        data_dir: Path | None = None,
    ) -> Callable[[], None]:
        """Train a detector on a convnet that a run has trained, and score its boxes and masks.

        Args:
            backbone: directory of the run
            options: what the options below change.
            config: a file of configs/ that describes a detector, to start from
            workdir: directory for the detector; None: a new one in runs/
            data_dir: folder with data sets; None: $TFDS_DATA_DIR, else TFDS's own
        """

        def run() -> None:
            from normjax.detection.train import train_detector
            from normjax.training.output import steady_console
            from normjax.training.report import print_detection

            console = steady_console()
            path = workdir or _new_workdir(config.stem if config else f"detector-{options.data.name}")
            done = train_detector(options, backbone, path, data_dir=cli_runs.data_dir_of(data_dir), console=console)
            print_detection(done.summary, path, console)

        return run

    return detect


def study(
    name: Annotated[
        Literal[
            "reference-batch",
            "reference-batch-transfer",
            "dswn-neuron",
            "dswn-sparsity",
            "pruning",
            "pruning-transfer",
        ],
        tyro.conf.Positional,
    ],
    data_dir: Path | None = None,
    results: Path = Path("results"),
    jobs: int = 2,
    budget: float = 1.0,
    report: bool = False,
) -> Callable[[], None]:
    """Put a published claim to the test: all its runs, tables and figures; again: goes on where it stopped.

    Args:
        name: which study
        data_dir: folder with data sets; None: $TFDS_DATA_DIR, else TFDS's own
        results: folder of raw numbers, tables and figures
        jobs: runs at a time, each on processors of its own
        budget: share of the full length, 0 to 1, for a trial of the study
        report: make tables and figures of the numbers that are there, and run nothing
    """

    def command() -> None:
        if not 0 < budget <= 1:
            raise UserError(f"budget={budget:g}: use more than 0, and 1 at most.")
        if jobs < 1:
            raise UserError(f"jobs={jobs}: use 1 or more.")
        from normjax.studies.report import carry_out_study
        from normjax.training.output import steady_console

        options: dict[str, Any] = {"jobs": jobs, "budget": budget, "report": report, "console": steady_console()}
        carry_out_study(name, results, data_dir=cli_runs.data_dir_of(data_dir), **options)

    return command


def launch(
    command: Annotated[tuple[str, ...], tyro.conf.Positional],
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 2,
    devices: int | None = None,
) -> Callable[[], None]:
    """Start a run of several processes on this machine: normjax launch -n 4 -- train.py --workdir runs/four

    Args:
        command: train.py or normjax evaluate, behind --, with its options
        n: how many processes
        devices: simulated devices of each, on a CPU; None: as the machine has them
    """

    def run() -> None:
        from normjax.training.launch import launch as launch_command

        if not command:
            raise UserError("launch needs a command behind --, for example: launch -n 2 -- train.py --workdir runs/two")
        for name, value in (("n", n), ("devices", devices)):
            if value is not None and value < 1:
                raise UserError(f"{name}={value}: use 1 or more.")
        if status := launch_command(command, n, devices):
            sys.exit(status)

    return run


def app(
    home: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    origin: str = "",
    jobs: int = 1,
    data_dir: Path | None = None,
) -> Callable[[], None]:
    """Serve the recognition system: users, trainings and recognition in the browser.

    Args:
        home: directory of its database, runs and pictures; None: normjax in the user's data directory
        host: address to listen on
        port: to listen on
        origin: https://lab.example where a proxy with TLS stands before it; needed to listen on other than this machine
        jobs: trainings at a time
        data_dir: folder with data sets of TFDS to offer; None: $TFDS_DATA_DIR
    """

    def command() -> None:
        from normjax.app.serve import serve

        if data_dir is not None:
            os.environ["TFDS_DATA_DIR"] = str(data_dir.resolve())
        serve(home, host=host, port=port, origin=origin, jobs=jobs)

    return command


def _parse(arguments: list[str]) -> Callable[[], None]:
    """The chosen subcommand with its options; tyro's many-line complaints become one line."""
    train = _start_config(arguments, TrainConfig) if arguments[:1] == ["train"] else TrainConfig()
    detect = _start_config(arguments, DetectionConfig) if arguments[:1] == ["detect"] else DetectionConfig()
    commands: dict[str, Callable[..., Any]] = {
        "train": train_command(train),
        "evaluate": cli_runs.evaluate,
        "predict": cli_runs.predict,
        "fold": cli_runs.fold,
        "prune": cli_runs.prune,
        "structure": cli_runs.structure,
        "neurons": cli_runs.neurons,
        "see": cli_runs.see,
        "detect": detect_command(detect),
        "study": study,
        "launch": launch,
        "app": app,
    }
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(
                commands, prog="normjax", description="Normalization of deep networks in JAX.", args=arguments
            )
    except ValidationError as error:
        raise UserError(describe_validation_error(error)) from error
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(one_line(complaint.getvalue())) from stop


def _start_config(arguments: list[str], kind: type[Config]) -> Config:
    """The config that ``--config`` names, read before the options that change it."""
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--config":
            if not value and i + 1 == len(arguments):
                raise UserError("--config needs a file.")
            return load_config(Path(value or arguments[i + 1]), kind)
    return kind()


def _new_workdir(name: str) -> Path:
    plain = re.sub(r"[^\w.-]+", "-", name)  # a TFDS name may have a config behind a slash
    stem = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{plain}"
    path, count = stem, 1
    while path.exists():
        count += 1
        path = stem.with_name(f"{stem.name}-{count}")
    return path


def _fail(message: str) -> None:
    print(f"normjax: error: {message}", file=sys.stderr)
    sys.exit(2)
