"""The subcommands that do something with a trained network: a run goes in, a few lines over the library each."""

import os
from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from normjax.errors import UserError
from normjax.pruning.config import Debias, PruneConfig, Score
from normjax.training.cluster_options import ALONE, Cluster
from normjax.training.stop import StopRequest

Run = Annotated[Path, tyro.conf.Positional]
ClusterOptions = Annotated[Cluster, tyro.conf.arg(name="")]


def evaluate(
    run: Run,
    split: Literal["test", "validation", "train"] = "test",
    checkpoint: str = "best",
    data_dir: Path | None = None,
    json: bool = False,
    cluster: ClusterOptions = ALONE,
) -> Callable[[], None]:
    """Evaluate a trained network on every example of a split.

    Args:
        run: directory of the run
        split: which examples
        checkpoint: best (by validation), last, or the number of a step
        data_dir: folder with data sets; None: $TFDS_DATA_DIR, else TFDS's own
        json: print one JSON object instead of a table
        cluster: of which this process is one
    """

    def command() -> None:
        from normjax.training.evaluate import evaluate_run
        from normjax.training.report import print_evaluation

        with cluster.joined():
            result = evaluate_run(run, split=split, checkpoint=checkpoint, data_dir=data_dir_of(data_dir))
            if cluster.is_first():
                print_json(result) if json else print_evaluation(result)

    return command


def predict(
    run: Run,
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    top: int = 5,
    checkpoint: str = "best",
    json: bool = False,
) -> Callable[[], None]:
    """Name the most probable classes of pictures.

    Args:
        run: directory of the run
        images: picture files
        top: how many classes of each
        checkpoint: best (by validation), last, or the number of a step
        json: print one JSON array instead of a table
    """

    def command() -> None:
        if not images:
            raise UserError("predict needs one picture or more.")
        if top < 1:
            raise UserError(f"top={top}: use 1 or more.")
        from normjax.training.predict import predict_run
        from normjax.training.report import print_predictions

        result = predict_run(run, images, top=top, checkpoint=checkpoint)
        print_json(result) if json else print_predictions(result)

    return command


def fold(
    run: Run,
    output: Path | None = None,
    checkpoint: str = "best",
    json: bool = False,
) -> Callable[[], None]:
    """Write a trained network without its batch normalization as one program with the same predictions.

    Args:
        run: directory of the run
        output: the file; None: folded.stablehlo in the run's directory
        checkpoint: best (by validation), last, or the number of a step
        json: print one JSON object instead of a table
    """

    def command() -> None:
        from normjax.training.fold import fold_run
        from normjax.training.report import print_folding

        result = fold_run(run, output=output, checkpoint=checkpoint)
        print_json(result) if json else print_folding(result)

    return command


def prune(
    run: Run,
    options: Annotated[PruneConfig, tyro.conf.arg(name="")],
    output: Path | None = None,
    checkpoint: str = "best",
    data_dir: Path | None = None,
    json: bool = False,
) -> Callable[[], None]:
    """Make a trained network smaller, neuron by neuron, while a target holds; again: goes on where it stopped.

    Args:
        run: directory of the run
        options: target and search.
        output: directory of the smaller network's run; None: that of the run with -pruned behind it
        checkpoint: best (by validation), last, or the number of a step
        data_dir: folder with data sets; None: $TFDS_DATA_DIR, else TFDS's own
        json: print one JSON object instead of a table
    """

    def command() -> None:
        from normjax.pruning.figures import draw_pruning
        from normjax.pruning.run import prune_run
        from normjax.training.output import steady_console
        from normjax.training.report import print_pruning

        path = output or run.resolve().with_name(f"{run.resolve().name}-pruned")
        console = steady_console(quiet=json)
        with StopRequest() as stop:
            result = prune_run(
                run, path, options, checkpoint=checkpoint, data_dir=data_dir_of(data_dir), console=console, stop=stop
            )
        draw_pruning(result, path / "pruning.png")
        print_json(result) if json else print_pruning(result, console)

    return command


def structure(
    run: Run,
    output: Path | None = None,
    checkpoint: str = "best",
    json: bool = False,
) -> Callable[[], None]:
    """Show the zeros, the dead neurons and the neuron scales of a trained network, layer by layer.

    Args:
        run: directory of the run
        output: the picture; None: structure.png in the run's directory
        checkpoint: best (by validation), last, or the number of a step
        json: print one JSON object instead of a table
    """

    def command() -> None:
        from normjax.training.report import print_structure
        from normjax.training.structure import structure_run

        result = structure_run(run, output=output, checkpoint=checkpoint)
        print_json(result) if json else print_structure(result)

    return command


def neurons(
    run: Run,
    score: Score = "l2",
    debias: Debias = "mean",
    output: Path | None = None,
    checkpoint: str = "best",
    data_dir: Path | None = None,
    json: bool = False,
) -> Callable[[], None]:
    """Show where the neurons of each layer rank among all, before and after scores were made comparable.

    Args:
        run: directory of the run
        score: what neurons are judged by
        debias: what makes scores of different layers comparable
        output: the picture; None: neurons.png in the run's directory
        checkpoint: best (by validation), last, or the number of a step
        data_dir: folder with data sets; None: $TFDS_DATA_DIR, else TFDS's own
        json: print one JSON object instead of a table
    """

    def command() -> None:
        from normjax.pruning.look import rank_neurons
        from normjax.training.report import print_ranks

        result = rank_neurons(
            run, score=score, debias=debias, output=output, checkpoint=checkpoint, data_dir=data_dir_of(data_dir)
        )
        print_json(result) if json else print_ranks(result)

    return command


def see(
    run: Run,
    layer: Annotated[str, tyro.conf.Positional],
    image: int = 0,
    steps: int = 300,
    output: Path | None = None,
    checkpoint: str = "best",
    data_dir: Path | None = None,
    json: bool = False,
) -> Callable[[], None]:
    """Draw the pictures that the neurons of a layer see, and how alike they are.

    Args:
        run: directory of the run
        layer: as normjax neurons names it
        image: number of the test image that the neurons look at
        steps: of the search for each picture
        output: the picture; None: seen_LAYER.png in the run's directory
        checkpoint: best (by validation), last, or the number of a step
        data_dir: folder with data sets; None: $TFDS_DATA_DIR, else TFDS's own
        json: print one JSON object instead of a table
    """

    def command() -> None:
        from normjax.pruning.look import see_neurons
        from normjax.training.output import steady_console
        from normjax.training.report import print_seen

        console = steady_console(quiet=json)
        found: dict[str, Any] = {"output": output, "checkpoint": checkpoint, "data_dir": data_dir_of(data_dir)}
        result = see_neurons(run, layer, image=image, steps=steps, console=console, **found)
        print_json(result) if json else print_seen(result, console)

    return command


def data_dir_of(given: Path | None) -> Path | None:
    """The folder of the data sets: as given, else as the environment says, else None."""
    if given is not None:
        return given
    return Path(os.environ["TFDS_DATA_DIR"]) if os.environ.get("TFDS_DATA_DIR") else None


def print_json(data: Any) -> None:
    """One line."""
    print(dumps(data))
