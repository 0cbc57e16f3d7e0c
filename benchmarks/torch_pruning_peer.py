"""The neurons of a ConvNet and their ranking by l1, beside those that Torch-Pruning finds with the same weights.

    python -m benchmarks.torch_pruning_peer

Fails where a group or a ranking differs. Torch-Pruning is in the bench extra.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_pruning as tp
from rich.console import Console
from rich.table import Table
from torch import nn

from normjax.linen import make_norm
from normjax.models import build_model
from normjax.pruning import score, trace

_WIDTHS, _DENSE = (16, 32, 64), (64, 48)


def torch_network(params: Any) -> nn.Module:
    """The same network in PyTorch: channels before positions."""
    layers: dict[str, nn.Module] = {}
    channels = 3
    for stage, width in enumerate(_WIDTHS):
        for i in range(2):
            layers[f"conv{stage}_{i}"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            layers[f"norm{stage}_{i}"] = nn.BatchNorm2d(width)
            layers[f"relu{stage}_{i}"] = nn.ReLU()
            channels = width
        layers[f"pool{stage}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    features = channels * 4 * 4
    for i, width in enumerate(_DENSE):
        layers[f"dense{i}"] = nn.Linear(features, width, bias=False)
        layers[f"dense_norm{i}"] = nn.BatchNorm1d(width)
        layers[f"dense_relu{i}"] = nn.ReLU()
        features = width
    layers["head"] = nn.Linear(features, 10)
    with torch.no_grad():
        for name, layer in layers.items():
            if isinstance(layer, nn.Conv2d):
                layer.weight.copy_(torch.tensor(np.asarray(params[name]["kernel"]).transpose(3, 2, 0, 1).copy()))
            elif isinstance(layer, nn.Linear):
                kernel = np.asarray(params[name]["kernel"])
                if name == "dense0":
                    kernel = kernel.reshape(4, 4, -1, kernel.shape[1]).transpose(2, 0, 1, 3).reshape(kernel.shape)
                layer.weight.copy_(torch.tensor(kernel.T.copy()))
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network.eval()


def main() -> None:
    """Compares and prints a table."""
    model = build_model("convnet", num_classes=10, norm=make_norm("batch_norm"), widths=_WIDTHS, dense=_DENSE)
    x = jnp.zeros((1, 32, 32, 3))
    variables = model.init(jax.random.key(0), x, train=False)
    neurons = trace(model, variables, x, train=False)
    ours = score(neurons, variables, "l1")
    network = torch_network(variables["params"])
    graph = tp.DependencyGraph().build_dependency(network, example_inputs=torch.zeros(1, 3, 32, 32))
    names = {module: name for name, module in network.named_modules()}
    importance = tp.importance.MagnitudeImportance(
        p=1, group_reduction="first", normalizer=None, target_types=[nn.Conv2d, nn.Linear]
    )
    table = Table("group", "neurons", "members", "largest difference of l1 [%]")
    for group in neurons.groups:
        layer = dict(network.named_modules())[group.name]
        prune = tp.prune_conv_out_channels if isinstance(layer, nn.Conv2d) else tp.prune_linear_out_channels
        theirs = graph.get_pruning_group(layer, prune, idxs=list(range(group.size)))
        members = {
            (names[dep.target.module], "out" if "out" in dep.handler.__name__ else "in")
            for dep, _ in theirs
            if dep.target.module in names and next(dep.target.module.parameters(), None) is not None
        }
        found = {(m.path[1], "in" if m.role == "in" else "out") for m in group.members if m.path[0] == "params"}
        if found != members:
            raise SystemExit(f"{group.name}: ours {sorted(found)}, Torch-Pruning {sorted(members)}")
        values = importance(theirs).numpy()
        mine = ours[group.name]
        if not np.array_equal(np.argsort(values, kind="stable"), np.argsort(mine, kind="stable")):
            raise SystemExit(f"{group.name}: another ranking by l1")
        difference = 100 * np.abs(values / mine - 1).max()
        table.add_row(group.name, str(group.size), str(len(members)), f"{difference:.1e}")
    Console().print(table)


if __name__ == "__main__":
    main()
