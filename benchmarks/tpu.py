"""Each layer through the TPU compiler: bytes accessed, forward and backward, as multiples of the input's size.

    pip install 'jax[tpu]'
    python -m benchmarks.tpu

No TPU is needed: libtpu compiles for a described one. The figures are those of XLA's cost analysis, which counts what
moves between the chip's memories, too, and knows nothing of a Pallas kernel: its operands and results are added here.
"""

import os
import re
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.layers import forward_and_backward

SHAPES = [(256, 56, 56, 64), (256, 14, 14, 256), (64, 8, 8, 128)]
_F32 = re.compile(r"f32\[([\d,]*)\]")
_KERNEL = re.compile(r"= (?P<result>.*?) custom-call\((?P<operands>.*?)\), custom_call_target=\"tpu_custom_call\"")
_CHIP_MEMORY = re.compile(r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"0","size":"(\d+)"')


def layers() -> dict[str, Any]:
    """What is compared."""
    from flax import linen as nn

    import normjax

    return {
        "flax BatchNorm": nn.BatchNorm(use_running_average=False),
        "BatchNorm": normjax.BatchNorm(use_running_average=False),
        "DecorrelatedBatchNorm": normjax.DecorrelatedBatchNorm(use_running_average=False),
        "flax LayerNorm": nn.LayerNorm(reduction_axes=(1, 2, 3), feature_axes=-1),
        "DecorrelatedLayerNorm": normjax.DecorrelatedLayerNorm(),
        "DecorrelatedLayerNorm, tpu_kernel": normjax.DecorrelatedLayerNorm(tpu_kernel=True),
    }


def compiled_step(module: Any, shape: tuple[int, ...], device: Any) -> Any:
    """Forward and backward pass of a layer, compiled for a device."""
    import jax
    from jax.sharding import SingleDeviceSharding

    def on_device(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=SingleDeviceSharding(device))

    x = jax.ShapeDtypeStruct(shape, np.float32)
    variables = jax.tree.map(on_device, jax.eval_shape(module.init, jax.random.key(0), x))
    params = variables.pop("params")

    x = on_device(x)
    return jax.jit(forward_and_backward(module)).lower(params, variables, x, x).compile()


def bytes_of_kernels(program: str) -> int:
    """Bytes of the operands and results of the Pallas kernels in a compiled program."""
    types = dict(re.findall(r"%(\S+) = (\S+\[[\d,]*\])", program))
    total = 0
    for kernel in _KERNEL.finditer(program):
        operands = [types[name.strip().lstrip("%")] for name in kernel["operands"].split(",")]
        for array in _F32.findall(kernel["result"] + " ".join(operands)):
            total += 4 * int(np.prod([int(size) for size in array.split(",") if size]))
    return total


def main() -> None:
    """Prints the table."""
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}  # libtpu would look for the machine's own
    from jax.experimental import topologies

    device = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    table = Table("layer", *map(str, SHAPES), title="bytes accessed / bytes of the input, TPU v5e, float32")
    for name, module in layers().items():
        row = []
        for shape in SHAPES:
            step = compiled_step(module, shape, device)
            program = step.as_text()
            accessed = step.cost_analysis()["bytes accessed"] + bytes_of_kernels(program)
            entry = f"{accessed / (4 * np.prod(shape)):.3f}"
            if used := [int(size) for size in _CHIP_MEMORY.findall(program)]:
                entry += f" ({max(used) / 2**20:.1f} MiB on chip)"
            row.append(entry)
        table.add_row(name, *row)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
