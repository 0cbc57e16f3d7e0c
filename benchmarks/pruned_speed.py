"""How much faster a network with half of its products is.

    python -m benchmarks.pruned_speed

Milliseconds of a batch of 128 images at inference: the whole network, one with an equal share of each layer's neurons
so that at most half of the products are left, and one whose widths are multiples of 8 besides. Each contender in a
process of its own, in turn.
"""

import json
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import median, run_in_turn
from normjax.inference import Shrunken
from normjax.linen import make_norm
from normjax.models import build_model
from normjax.pruning import at_multiples, everything, same_share, trace
from normjax.pruning.latency import milliseconds
from normjax.tracing.neurons import Neurons

_BATCH, _SHAPE = 128, (32, 32, 3)
_FORMS: dict[str, dict[str, Any]] = {
    "convnet": {"widths": (32, 64, 128), "dense": (128, 128)},
    "resnet20": {},
}
_EXAMPLE = jax.ShapeDtypeStruct((1, *_SHAPE), jnp.float32)


def half(network: Any, neurons: Neurons, multiple: int) -> Shrunken:
    """The network with the greatest equal share of each layer that leaves at most half of the products."""
    sizes = {group.name: group.size for group in neurons.groups}
    scores = {name: np.arange(size, dtype=np.float64) for name, size in sizes.items()}
    most = Shrunken(network, neurons, everything(sizes)).size(_EXAMPLE, train=False).multiply_adds / 2
    for share in np.arange(0.2, 0.6, 0.01):
        kept = at_multiples(scores, same_share(scores, float(share)), everything(sizes), multiple)
        smaller = Shrunken(network, neurons, kept)
        if smaller.size(_EXAMPLE, train=False).multiply_adds <= most:
            return smaller
    raise RuntimeError(f"no share of multiples of {multiple} leaves half of the products.")


def contender(what: Annotated[Literal["whole", "1", "8"], tyro.conf.Positional], model: str) -> None:
    """One contender; prints one line of JSON.

    Args:
        what: the whole network, or the multiple of the widths of a half
        model: of the network
    """
    network: Any = build_model(model, num_classes=10, norm=make_norm("batch_norm"), **_FORMS[model])
    variables = jax.jit(lambda x: network.init(jax.random.key(0), x, train=False))(jnp.zeros(_EXAMPLE.shape))
    neurons = trace(network, variables, _EXAMPLE, train=False)
    kept = everything({group.name: group.size for group in neurons.groups})
    smaller = Shrunken(network, neurons, kept) if what == "whole" else half(network, neurons, int(what))
    # The whole network as it is called without the tracing.
    timed = (network, variables) if what == "whole" else (smaller, smaller.shrink(variables))
    (times,) = milliseconds([timed], _SHAPE, (_BATCH,))
    size = smaller.size(_EXAMPLE, train=False)
    print(json.dumps({"milliseconds": times[str(_BATCH)], "products": size.multiply_adds}))


def main(rounds: int = 3, threads: int = 2) -> None:
    """Prints a table.

    Args:
        rounds: how often each contender runs
        threads: processors a contender may use
    """
    module = ["-m", "benchmarks.pruned_speed", "contender"]
    commands = {
        f"{what} {model}": [*module, what, "--model", model] for model in _FORMS for what in ("whole", "1", "8")
    }
    results = run_in_turn(commands, rounds=rounds, threads=threads)
    table = Table("network", "widths", "products [M]", "128 images [ms]", "times as fast")
    for model in _FORMS:
        whole = results[f"whole {model}"]
        for what, label in (("whole", "whole"), ("1", "any"), ("8", "multiples of 8")):
            told = results[f"{what} {model}"]
            ratios = [a["milliseconds"] / b["milliseconds"] for a, b in zip(whole, told, strict=True)]
            table.add_row(
                model,
                label,
                f"{told[0]['products'] / 1e6:.1f}",
                f"{median(told, 'milliseconds'):.1f}",
                f"{np.median(ratios):.2f}",
            )
    Console().print(table)


if __name__ == "__main__":
    import sys

    if sys.argv[1:2] == ["contender"]:
        tyro.cli(contender, args=sys.argv[2:])
    else:
        tyro.cli(main)
