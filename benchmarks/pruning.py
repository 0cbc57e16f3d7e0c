"""What it costs to find the neurons of a network, and to score them by their activations.

    python -m benchmarks.pruning

Seconds to trace ResNet-50; seconds of one pass of 1,000 images for scores of activations and derivatives, beside a
plain pass forward and back for the gradient of all parameters. Each contender in a process of its own, in turn.
"""

import json
import time
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import median, run_in_turn
from normjax.linen import make_norm
from normjax.models import build_model
from normjax.pruning import ActivationProbe, trace

_IMAGES, _BATCH = 1000, 100
_FORMS: dict[str, dict[str, Any]] = {
    "convnet": {"widths": (32, 64, 128), "dense": (128, 128)},
    "resnet20": {},
}


def contender(what: Annotated[Literal["trace", "plain", "scores"], tyro.conf.Positional], model: str) -> None:
    """One contender; prints one line of JSON.

    Args:
        what: is timed
        model: of the network
    """
    network: Any = build_model(
        model, num_classes=1000 if what == "trace" else 10, norm=make_norm("batch_norm"), **_FORMS.get(model, {})
    )
    side = 224 if what == "trace" else 32
    example = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), example)
    begun = time.perf_counter()
    neurons = trace(network, shapes, example, train=False)
    if what == "trace":
        units = sum(group.size for group in neurons.groups)
        print(json.dumps({"seconds": time.perf_counter() - begun, "groups": len(neurons.groups), "neurons": units}))
        return
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(_IMAGES // _BATCH, _BATCH, 32, 32, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, (_IMAGES // _BATCH, _BATCH)))
    variables = network.init(jax.random.key(0), images[0], train=False)
    each_loss = optax.softmax_cross_entropy_with_integer_labels
    if what == "scores":
        probe = ActivationProbe(network, neurons, each_loss, train=False)

        def once() -> Any:
            return probe.measure(variables, zip(images, labels, strict=True))
    else:

        def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
            return each_loss(network.apply({**variables, "params": params}, x, train=False), y).mean()

        gradient = jax.jit(jax.grad(loss))

        def once() -> Any:
            return [jax.device_get(gradient(variables["params"], x, y)) for x, y in zip(images, labels, strict=True)]

    once()  # compiles
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        once()
        times.append(time.perf_counter() - begun)
    print(json.dumps({"seconds": min(times)}))


def main(rounds: int = 3, threads: int = 2) -> None:
    """Prints a table.

    Args:
        rounds: how often each contender runs
        threads: processors a contender may use
    """
    module = ["-m", "benchmarks.pruning", "contender"]
    commands = {"trace": [*module, "trace", "--model", "resnet50"]}
    commands |= {
        f"{what} {model}": [*module, what, "--model", model] for model in _FORMS for what in ("plain", "scores")
    }
    results = run_in_turn(commands, rounds=rounds, threads=threads)
    traced = results["trace"][0]
    console = Console()
    console.print(
        f"ResNet-50: {traced['groups']} groups, {traced['neurons']:,} neurons, "
        f"traced in {median(results['trace'], 'seconds'):.2f} s"
    )
    table = Table("network", "plain [s]", "scores [s]", "times plain", title=f"one pass of {_IMAGES:,} images")
    for model in _FORMS:
        plain, scores = results[f"plain {model}"], results[f"scores {model}"]
        ratios = [b["seconds"] / a["seconds"] for a, b in zip(plain, scores, strict=True)]
        table.add_row(
            model, f"{median(plain, 'seconds'):.2f}", f"{median(scores, 'seconds'):.2f}", f"{np.median(ratios):.2f}"
        )
    console.print(table)


if __name__ == "__main__":
    import sys

    if sys.argv[1:2] == ["contender"]:
        tyro.cli(contender, args=sys.argv[2:])
    else:
        tyro.cli(main)
