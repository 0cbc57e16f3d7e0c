"""Carries out the runs of a study one by one or side by side, keeps what they gave, and goes on where it stopped."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from normjax.detection.config import TransferConfig
from normjax.errors import UserError
from normjax.pruning.config import PruningConfig
from normjax.training.config import TrainConfig, parse_config
from normjax.training.run_directory import write_json

Results = dict[str, dict[str, Any]]  # what each run gave, by its key


class Trial(NamedTuple):
    """One run of a study."""

    key: str  # tells it from the others, for example comparison/two classes/virtual/0
    config: TrainConfig | TransferConfig | PruningConfig  # model.weights lie beside the results
    probe: str | None = None  # what else is measured on the trained network: a module of normjax.studies
    weights: str | None = None  # file beside the results that the trained network is written to


Plan = Callable[[Results], list[Trial]]  # all runs that are known of so far; results decide what follows


def carry_out(
    plan: Plan, file: Path, *, data_dir: Path | None, jobs: int = 2, console: Console | None = None
) -> Results:
    """Runs what the plan names and the file does not hold yet.

    Each run is a process of its own on processors of its own, and is written to the file when it ends. What a run
    leaves on the way lies beside the file, so that a study goes on in the middle of a run.

    Args:
      plan: names the runs, from the results so far.
      file: the raw numbers, JSON.
      data_dir: where data sets lie.
      jobs: runs at a time; 0 runs them one by one in this process.
      console: where progress is shown.

    Returns:
      The results of all runs.

    Raises:
      UserError: a run failed, other than by losses that are not finite (these are a result), or the file holds runs
        with another config.
    """
    console = console or Console(quiet=True)
    results = read_results(file)
    scratch = file.parent / f".{file.stem}"
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("runs"), TimeRemainingColumn(), TextColumn("left"))
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        ThreadPoolExecutor(max(jobs, 1)) as pool,
    ):
        bar = progress.add_task("runs", total=len(plan(results)), completed=len(results))
        free = list(range(max(jobs, 1)))
        running: dict[Future[dict[str, Any]], tuple[Trial, int]] = {}
        failure: BaseException | None = None
        while True:
            trials = plan(results)
            _check_same(trials, results, file)
            progress.update(bar, total=len(trials), completed=len(results))
            busy = {trial.key for trial, _ in running.values()}
            waiting = [trial for trial in trials if trial.key not in results and trial.key not in busy]
            for trial in waiting[: len(free)] if failure is None else []:
                place = free.pop()
                running[pool.submit(_run, trial, scratch, data_dir, place, jobs)] = (trial, place)
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                trial, place = running.pop(future)
                free.append(place)
                if error := future.exception():
                    # The runs beside it end first: what they give is kept.
                    failure = failure or error
                    continue
                results[trial.key] = future.result()
                write_json(file, results)
                shutil.rmtree(scratch / _folder(trial.key), ignore_errors=True)
                console.print(_line(trial.key, results[trial.key]), highlight=False)
    if failure is not None:
        raise failure
    shutil.rmtree(scratch, ignore_errors=True)
    return results


def read_results(file: Path) -> Results:
    """The raw numbers of a study; none where there is no file.

    Raises:
      UserError: the file is damaged.
    """
    try:
        return json.loads(file.read_text()) if file.exists() else {}
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}") from error


def _check_same(trials: Sequence[Trial], results: Results, file: Path) -> None:
    """Refuses results of runs that are not those of the plan: numbers of two studies must not share a table."""
    for trial in trials:
        if trial.key in results and parse_config(results[trial.key]["config"], type(trial.config)) != trial.config:
            raise UserError(
                f"{file} holds the run {trial.key} with another config than the study has now; "
                "remove that run from it, or give another folder by --results."
            )


def _folder(key: str) -> str:
    return key.replace("/", "-")


def _run(trial: Trial, scratch: Path, data_dir: Path | None, place: int, jobs: int) -> dict[str, Any]:
    workdir = scratch / _folder(trial.key)
    task = {
        "kind": type(trial.config).__name__,
        "config": trial.config.model_dump(mode="json"),
        "workdir": str(workdir),
        "data_dir": data_dir and str(data_dir),
        "probe": trial.probe,
        "weights": trial.weights,
        "folder": str(scratch.parent),
    }
    if jobs == 0:
        from normjax.studies.run import run

        return run(task)
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    scratch.mkdir(parents=True, exist_ok=True)
    # Not with_suffix: the keys of runs end in rates, whose ".02" it would take for a suffix.
    told, complaint = (scratch / (workdir.name + suffix) for suffix in (".told", ".errors"))
    with told.open("w+") as out, complaint.open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "normjax.studies.run", *map(str, processors[place::jobs])],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=errors,
            # Seeds run the same programs: they are compiled once.
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled")},
            text=True,
        )
        assert process.stdin is not None
        # Left open: when this process ends, however it ends, the run reads the end of it and ends as well.
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        code = process.wait()
        process.stdin.close()
        if code:
            errors.seek(0)
            raise UserError(f"run {trial.key} of the study failed: {_last_line(errors.read())}")
        out.seek(0)
        result = json.loads(out.read().splitlines()[-1])
    told.unlink()
    complaint.unlink()
    return result


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def _line(key: str, result: dict[str, Any]) -> str:
    if "diverged" in result:
        return f"{key}: diverged"
    figures = ", ".join(f"{name} {value:.4g}" for name, value in result["test"].items() if name != "examples")
    return f"{key}: {figures}"
