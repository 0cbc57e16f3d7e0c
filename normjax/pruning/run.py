"""Pruning a finished run: a run directory with a smaller network, and what became of it round by round."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from rich.console import Console

from normjax.data import load_dataset
from normjax.errors import UserError
from normjax.inference import Shrunken
from normjax.pruning.config import PruneConfig
from normjax.pruning.evidence import plain_network
from normjax.pruning.latency import milliseconds
from normjax.pruning.rounds import Found, Round
from normjax.pruning.scores import SCORES, score
from normjax.pruning.search import Search, fine_tuning
from normjax.pruning.select import of_the_original
from normjax.tracing.neurons import Neurons, trace
from normjax.training.begin import begin_run
from normjax.training.evaluate import restore_run
from normjax.training.loop import machine, train
from normjax.training.run_directory import SEARCH, RunDirectory, write_json
from normjax.training.session import build_session
from normjax.training.state import evaluated_variables
from normjax.training.stop import StopRequest


def prune_run(
    path: Path,
    output: Path,
    options: PruneConfig,
    *,
    checkpoint: str = "best",
    data_dir: Path | None = None,
    console: Console | None = None,
    stop: StopRequest | None = None,
) -> dict[str, Any]:
    """Makes the network of a run smaller while a target holds, and trains what is left as a run of its own.

    1. Rounds of scoring, removing and fine-tuning with masks, judged on the validation split.
    2. The smallest network that met the target is written with its real shapes, and trained for the final epochs.
    3. The test set is read once, at the end.

    Started again after an interruption it goes on.

    Args:
      path: directory of the run.
      output: directory of the smaller network's run.
      options: target and search.
      checkpoint: ``best``, ``last`` or a step.
      data_dir: where data sets lie.
      console: where progress is shown.
      stop: tells whether to end early.

    Returns:
      As in ``pruning.json``: the options, every round with its milliseconds, the neurons that stay, sizes, milliseconds
      and accuracies before and after, and what could not be followed.

    Raises:
      UserError: the run is not there or has no validation split, no neuron of its network can go, or the directory
        holds something else.
      StoppedError: it was asked to stop; what was done is saved.
    """
    console, stop = console or Console(quiet=True), stop or StopRequest()
    target, source = RunDirectory(output), RunDirectory(path)
    session, state, step = restore_run(path, checkpoint)
    config, variables = plain_network(
        session.config, session.model, session.info.image_shape, evaluated_variables(state)
    )
    dataset = load_dataset(config.data, seed=config.seed, data_dir=data_dir, cache_mib=config.run.cache_mib)
    if dataset.validation is None:
        raise UserError(f"{path} has no validation split, by which a smaller network is judged; train with one.")
    model = build_session(config, dataset.info, training=False).model
    example = jnp.zeros((1, *dataset.info.image_shape))
    neurons = trace(model, variables, example, train=False)
    if not neurons.groups:
        reasons = "; ".join(dict.fromkeys(reason for whole in neurons.whole for reason in whole.reasons))
        raise UserError(f"no neuron of {path} can be removed: {reasons}.")
    _check_score(neurons, variables, options)
    target.acquire()
    try:
        _check_output(target, path, options, step)
        search = Search(
            config, variables, state.reference, neurons, dataset, options, output / SEARCH / "rounds", console, stop
        )
        found = search.carry_out()
        smaller = Shrunken(model, neurons, found.kept)
        kept = of_the_original(config.model.kept, found.kept)
        small_config = fine_tuning(
            config, options, options.final_epochs, model=config.model.model_copy(update={"kept": kept, "weights": None})
        )
        if not target.config_file.exists():
            begin_run(target, small_config, dataset, smaller.shrink(found.variables), state.reference)
    finally:
        target.release()
    summary = train(small_config, output, data_dir=data_dir, console=console, stop=stop)
    if summary["tested_step"] == 0:
        console.print("the final epochs made it no better: the network that the search found is what counts")
    small = build_session(small_config, dataset.info, training=False).model
    before, after = found.rounds[0], next(r for r in reversed(found.rounds) if r.accepted)
    latency = milliseconds([(model, variables), (small, smaller.shrink(found.variables))], dataset.info.image_shape)
    told = {
        "run": str(path),
        "output": str(output),
        "options": options.model_dump(mode="json"),
        "rounds": _timed(found.rounds, model, variables, neurons, dataset.info.image_shape),
        "cut": found.cut and found.cut._asdict(),
        "kept": kept,
        "neurons": {group.name: group.size for group in neurons.groups},
        "not_followed": _not_followed(neurons),
        "before": _told(before, latency[0], _tested(source, step)),
        "after": _told(after, latency[1], summary["test"]["accuracy"])
        | {"validation_accuracy": summary["validation_accuracy"]},
        "target": _target(options, found, summary["validation_accuracy"]),
        "machine": machine(),
    }
    write_json(output / "pruning.json", told)
    return told


def _timed(rounds: Sequence[Round], model: Any, variables: Any, neurons: Neurons, shape: tuple[int, ...]) -> list[Any]:
    """The rounds with the time that each network takes at its real shapes; one by one, as memory is finite."""
    told = []
    for round_ in rounds:
        # Time depends on the widths alone, whichever neurons these are.
        small = Shrunken(model, neurons, {name: tuple(range(width)) for name, width in round_.widths.items()})
        told.append(round_._asdict() | {"milliseconds": milliseconds([(small, small.shrink(variables))], shape)[0]})
    return told


def _check_score(neurons: Neurons, variables: Any, options: PruneConfig) -> None:
    """Refuses a score that the network's weights do not have, before anything is written down."""
    if SCORES[options.score].needs == "weights":
        try:
            score(neurons, variables, options.score)
        except ValueError as error:
            raise UserError(str(error)) from error


def _target(options: PruneConfig, found: Found, accuracy: float) -> dict[str, Any]:
    """What was asked for, what came out after the final epochs, and whether it holds."""
    first, last = found.rounds[0], next(r for r in reversed(found.rounds) if r.accepted)
    if found.target is not None:
        return {"validation_accuracy": found.target, "reached": accuracy, "met": accuracy >= found.target}
    sizes = {
        "keep_macs": (options.keep_macs, last.multiply_adds / first.multiply_adds),
        "keep_params": (options.keep_params, last.parameters / first.parameters),
    }
    asked = {name: (share, left) for name, (share, left) in sizes.items() if share is not None}
    told: dict[str, Any] = {name: share for name, (share, _) in asked.items()}
    told["reached"] = [left for _, left in asked.values()]
    return told | {"met": all(left <= share for share, left in asked.values())}


def _check_output(target: RunDirectory, path: Path, options: PruneConfig, step: int) -> None:
    """Refuses a directory of another pruning, and writes down what this one is."""
    wanted = {"run": str(path.resolve()), "step": step, **options.model_dump(mode="json")}
    note, rounds = target.path / SEARCH / "search.json", target.path / SEARCH / "rounds"
    # Nothing is lost where an option was refused before the first round.
    begun_rounds = rounds.is_dir() and any(rounds.iterdir())
    if note.exists() and (begun_rounds or target.config_file.exists()):
        # An option that did not exist then had its default.
        begun = PruneConfig.model_construct().model_dump(mode="json") | json.loads(note.read_text())
        changed = [
            f"{name} was {begun.get(name)}, now {wanted[name]}" for name in wanted if begun.get(name) != wanted[name]
        ]
        if changed:
            raise UserError(f"{target.path} was begun by another pruning ({'; '.join(changed)}); give a new --output.")
        return
    if target.config_file.exists():
        raise UserError(f"{target.path} is a run of its own; give a new --output.")
    if foreign := sorted({entry.name for entry in target.path.iterdir()} - {".lock", SEARCH}):
        raise UserError(f"{target.path} holds {foreign[0]}; give a new --output.")
    note.parent.mkdir(exist_ok=True)
    write_json(note, wanted)


def _told(round_: Any, latency: dict[str, float], tested: float | None) -> dict[str, Any]:
    return {
        "neurons": round_.neurons,
        "parameters": round_.parameters,
        "multiply_adds": round_.multiply_adds,
        "milliseconds": latency,
        "validation_accuracy": round_.accuracy,
        "test_accuracy": tested,
    }


def _tested(run: RunDirectory, step: int) -> float | None:
    """What the run reached on the test set with this checkpoint, where it was tested; the set is not read again."""
    if not run.summary_file.exists():
        return None
    summary = json.loads(run.summary_file.read_text())
    return summary["test"]["accuracy"] if summary["tested_step"] == step else None


def _not_followed(neurons: Neurons) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {}
    for whole in neurons.whole:
        told.setdefault("/".join(whole.path[1:]), []).extend(whole.reasons)
    return {name: list(dict.fromkeys(reasons)) for name, reasons in told.items()}
