"""Tables for the terminal: what a run reached, what an evaluation or a prediction says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.bar import Bar
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def print_summary(summary: dict[str, Any], path: Path, console: Console) -> None:
    """The figures of a finished run and where everything lies."""
    test, seconds = summary["test"], summary["seconds"]
    table = Table(title="result", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("test accuracy", f"{test['accuracy']:.2%} of {test['examples']:,} images")
    table.add_row("test top-5 accuracy", f"{test['top5']:.2%}")
    table.add_row("test loss", f"{test['loss']:.4f} nats")
    if summary["validation_accuracy"] is not None:
        table.add_row("validation accuracy", f"{summary['validation_accuracy']:.2%}")
    table.add_row("checkpoint tested", f"step {summary['tested_step']:,} of {summary['steps']:,}")
    if summary["skipped_steps"]:
        table.add_row("steps skipped, not finite", f"{summary['skipped_steps']:,}")
    if summary["unreadable_records"]:
        table.add_row("records left out, unreadable", f"{len(summary['unreadable_records']):,}")
    table.add_row("parameters", f"{summary['parameters']:,}")
    if summary["images_per_second"] is not None:
        table.add_row("training speed", f"{summary['images_per_second']:,.0f} images/s")
    for name in ("training", "compile", "evaluation", "checkpoint", "data"):
        table.add_row(f"{name} time", f"{seconds.get(name, 0.0):.1f} s")
    console.print(table)
    lies = Table(title="files", show_header=False, title_justify="left")
    for what, name in (
        ("curves", "curves.png"),
        ("confusion matrix", "confusion.png"),
        ("figures", "summary.json"),
        ("metrics of each step", "metrics.jsonl"),
        ("TensorBoard events", "tensorboard"),
        ("checkpoints", "checkpoints"),
        ("config", "config.json"),
    ):
        lies.add_row(what, str(path / name))
    console.print(lies)


def print_evaluation(result: dict[str, Any], console: Console | None = None) -> None:
    """The figures of an evaluation."""
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("run", result["run"])
    table.add_row("split", f"{result['split']}, {result['examples']:,} images")
    table.add_row("checkpoint", f"step {result['step']:,}")
    table.add_row("accuracy", f"{result['accuracy']:.2%}")
    table.add_row("top-5 accuracy", f"{result['top5']:.2%}")
    table.add_row("loss", f"{result['loss']:.4f} nats")
    (console or Console()).print(table)


def print_predictions(results: Sequence[dict[str, Any]], console: Console | None = None) -> None:
    """The most probable classes of each picture, with bars."""
    console = console or Console()
    for result in results:
        table = Table(title=result["image"], show_header=False, title_justify="left", box=None)
        for prediction in result["predictions"]:
            probability = prediction["probability"]
            table.add_row(prediction["class"], f"{probability:7.2%}", Bar(1.0, 0.0, probability, width=30))
        console.print(table)


def print_detection(summary: dict[str, Any], path: Path, console: Console) -> None:
    """The average precisions of a detector and where its files lie."""
    test = summary["test"]
    table = Table(title="result", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for kind in ("box", "mask"):
        if f"{kind}_ap" in test:
            table.add_row(f"{kind} AP, IoU 0.50 to 0.95", f"{test[f'{kind}_ap']:.1f} %")
            table.add_row(f"{kind} AP, IoU 0.50", f"{test[f'{kind}_ap50']:.1f} %")
    table.add_row("test pictures", f"{test['examples']:,}")
    table.add_row("parameters", f"{summary['parameters']:,}")
    console.print(table)
    for what, name in (("detections", "detections.png"), ("figures", "summary.json"), ("checkpoints", "checkpoints")):
        console.print(f"{what}: {path / name}", soft_wrap=True, highlight=False)


def print_folding(result: dict[str, Any], console: Console | None = None) -> None:
    """What became of the layers of a network, and what it brought."""
    console = console or Console()
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("run", f"{result['run']}, step {result['step']:,}")
    table.add_row("size", f"{result['bytes'] / 1e6:.2f} MB")
    table.add_row("folded", ", ".join(result["folded"]) or "none")
    table.add_row("multiply-add left", ", ".join(result["multiply_adds"]) or "none")
    table.add_row(
        "largest difference", f"{result['largest_difference']:.1e} of logits up to {result['largest_logit']:.1f}"
    )
    table.add_row(
        f"{result['images']} images", f"{result['ms_before']:.1f} ms before, {result['ms_after']:.1f} ms after"
    )
    console.print(table)
    # Whole lines, to be copied.
    console.print(f"written to {result['file']}", soft_wrap=True, highlight=False)
    console.print(
        "use it by jax.export.deserialize(bytearray(data)).call(pixels), with the bytes of the file and uint8 images",
        soft_wrap=True,
        highlight=False,
    )


def print_pruning(result: dict[str, Any], console: Console | None = None) -> None:
    """The rounds of a search for a smaller network, and the network before and after."""
    console = console or Console()
    # Without lines between them, 80 columns hold it.
    rounds = Table(title="rounds", title_justify="left", box=SIMPLE_HEAD, padding=0)
    times = [f"{size} at once\n\\[ms]" for size in result["rounds"][0]["milliseconds"]]
    for name in ("round", "neurons", "parameters", "products\n[M]", *times, "validation", "verdict"):
        rounds.add_column(name, justify="left" if name == "verdict" else "right")
    for told in result["rounds"]:
        verdict = "as it was" if told["number"] == 0 else "accepted" if told["accepted"] else "too much"
        figures = [f"{told['neurons']:,}", f"{told['parameters']:,}", f"{told['multiply_adds'] / 1e6:,.2f}"]
        figures += [f"{taken:,.2f}" for taken in told["milliseconds"].values()]
        rounds.add_row(str(told["number"]), *figures, f"{told['accuracy']:.2%}", verdict)
    console.print(rounds)
    before, after = result["before"], result["after"]
    table = Table(title="network", title_justify="left")
    for name in ("", "before", "after", "left"):
        table.add_column(name, justify="right" if name else "left")
    for name in ("neurons", "parameters", "multiply_adds"):
        label = {"multiply_adds": "products of one image"}.get(name, name)
        table.add_row(label, f"{before[name]:,}", f"{after[name]:,}", f"{after[name] / before[name]:.1%}")
    for size in before["milliseconds"]:
        slow, fast = before["milliseconds"][size], after["milliseconds"][size]
        table.add_row(f"time for {size} image(s)", f"{slow:.2f} ms", f"{fast:.2f} ms", f"{fast / slow:.1%}")
    for name in ("validation", "test"):
        values = [told[f"{name}_accuracy"] for told in (before, after)]
        table.add_row(f"{name} accuracy", *("not known" if value is None else f"{value:.2%}" for value in values))
    console.print(table)
    if not (target := result["target"])["met"]:
        wanted = ", ".join(f"{name} {value:g}" for name, value in target.items() if name not in ("reached", "met"))
        reached = target["reached"] if isinstance(target["reached"], list) else [target["reached"]]
        said = (
            f"the target is not met ({wanted}): the best network has {', '.join(f'{value:.4g}' for value in reached)}"
        )
        console.print(said, style="bold", soft_wrap=True, highlight=False)
    console.print(f"in {result['output']}, drawn in pruning.png", soft_wrap=True, highlight=False)


def print_ranks(result: dict[str, Any], console: Console | None = None) -> None:
    """Where the neurons of each layer stand among all, before and after the debiasing."""
    console = console or Console()
    table = Table(title=f"{result['run']}, step {result['step']:,}, {result['score']}", title_justify="left")
    table.add_column("layer")
    for name in ("neurons", *(f"median rank, {debias}" for debias in result["bias"])):
        table.add_column(name, justify="right")
    for layer in result["layers"]:
        ranks = [f"{layer['median_rank'][debias]:.0%}" for debias in result["bias"]]
        table.add_row(layer["name"], f"{layer['neurons']:,}", *ranks)
    table.add_row("[bold]explained by the layer[/]", "", *(f"[bold]{bias:.0%}[/]" for bias in result["bias"].values()))
    console.print(table)
    console.print(f"drawn in {result['file']}", soft_wrap=True, highlight=False)


def print_seen(result: dict[str, Any], console: Console | None = None) -> None:
    """Which neurons of a layer see the same."""
    console = console or Console()
    pairs = result["alike"]
    console.print(f"{len(pairs)} pairs of the {result['neurons']} neurons of {result['layer']} see nearly the same")
    for first, second, alike in pairs[:10]:
        console.print(f"  {first} and {second}: correlation {alike:.3f}", highlight=False)
    console.print(f"drawn in {result['file']}", soft_wrap=True, highlight=False)


def print_structure(result: dict[str, Any], console: Console | None = None) -> None:
    """Zeros, dead neurons and neuron scales of each layer."""
    console = console or Console()
    measured = any(layer["neuron_scales"] is not None for layer in result["layers"])
    table = Table(title=f"{result['run']}, step {result['step']:,}", title_justify="left")
    table.add_column("layer")
    for name in ("kernel", "zeros", "dead inputs", "dead outputs", *(["neuron scales"] if measured else [])):
        table.add_column(name, justify="right")
    for layer in result["layers"]:
        row = [
            layer["name"],
            "x".join(map(str, layer["shape"])),
            f"{layer['sparsity']:.1%}",
            str(len(layer["dead_inputs"])),
            str(len(layer["dead_outputs"])),
        ]
        if measured:
            scales = layer["neuron_scales"]
            row.append("" if scales is None else f"{min(scales):.2f} to {max(scales):.2f}")
        table.add_row(*row)
    table.add_section()
    table.add_row("all", "", f"{result['sparsity']:.1%}")
    console.print(table)
    console.print(f"drawn in {result['file']}", soft_wrap=True, highlight=False)
