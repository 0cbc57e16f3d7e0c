"""Answers of PyTorch's batch normalization, as an independent peer for the tests.

    pip install -e '.[bench]'
    python tests/peers/torch_batch_norm.py

writes `torch_batch_norm.npz` beside this file (some KiB). For a convolutional and a dense layer it holds three
batches, gamma, beta and an upstream gradient for each batch, and PyTorch's answers: outputs and gradients in training,
running statistics after each step (momentum 0.1, the share of the new value) and the first batch in evaluation mode
after the third. Features stand last. The file in the repository was made with PyTorch 2.13.0 on a CPU; the tests read
it without PyTorch.
"""

from pathlib import Path

import numpy as np

STEPS, FEATURES, EPSILON, MOMENTUM = 3, 3, 1e-5, 0.1
SHAPES = {"conv": (4, 3, 3, FEATURES), "dense": (6, FEATURES)}


def answers(layer, rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Three training steps and one evaluation of `layer`, in float32; arrays with features last."""
    import torch  # here, so that collecting the tests does not need PyTorch

    def to_torch(x: np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))

    def to_numpy(x) -> np.ndarray:
        return np.moveaxis(x.detach().numpy(), 1, -1) if x.ndim > 1 else x.detach().numpy().copy()

    scale, bias = (rng.normal(1, 0.5, FEATURES).astype(np.float32) for _ in range(2))
    # Every feature with its own mean and deviation, so that a mix-up shows.
    x = rng.normal(size=(STEPS, *shape)) * np.array([0.5, 1.0, 4.0]) + np.array([-3.0, 0.0, 20.0])
    inputs, upstream = x.astype(np.float32), rng.normal(size=(STEPS, *shape)).astype(np.float32)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(scale))
        layer.bias.copy_(torch.from_numpy(bias))

    steps: dict[str, list[np.ndarray]] = {}
    for step in range(STEPS):
        x = to_torch(inputs[step]).requires_grad_()
        y = layer(x)
        grads = torch.autograd.grad(y, [x, layer.weight, layer.bias], to_torch(upstream[step]))
        step_answers = [y, *grads, layer.running_mean, layer.running_var]
        names = ["output", "x_gradient", "scale_gradient", "bias_gradient", "running_mean", "running_var"]
        for name, value in zip(names, step_answers, strict=True):
            steps.setdefault(name, []).append(to_numpy(value))
    evaluated = to_numpy(layer.eval()(to_torch(inputs[0])))
    given = {"scale": scale, "bias": bias, "input": inputs, "upstream": upstream, "evaluated": evaluated}
    return given | {name: np.stack(values) for name, values in steps.items()}


def main() -> None:
    """Writes the file that the tests read."""
    import torch

    rng = np.random.default_rng(0)
    layers = {"conv": torch.nn.BatchNorm2d, "dense": torch.nn.BatchNorm1d}
    arrays = {
        f"{case}/{name}": array
        for case, shape in SHAPES.items()
        for name, array in answers(layers[case](FEATURES, eps=EPSILON, momentum=MOMENTUM), rng, shape).items()
    }
    path = Path(__file__).with_suffix(".npz")
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {path.stat().st_size} bytes, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
