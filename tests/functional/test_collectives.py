"""Collectives in the compiled program: one for the statistics, one more for the gradient."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from normjax.functional import batch_norm

COLLECTIVE = re.compile(
    r"= (?:\(.*?\)|\S+) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


def compiled_collectives(way, f, *arrays):
    """Kinds of the collectives that XLA leaves in the program on 4 devices, in order."""
    if way == "pmap":
        program = jax.pmap(f, axis_name="batch", devices=jax.devices()[:4])
    else:
        mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
        blocks = P("batch")

        def block(*arrays):
            return jax.tree.map(lambda leaf: leaf[None], f(*(array[0] for array in arrays)))

        check = way == "shard_map with check_vma"
        program = jax.jit(jax.shard_map(block, mesh=mesh, in_specs=blocks, out_specs=blocks, check_vma=check))
    return [match[1] for match in COLLECTIVE.finditer(program.lower(*arrays).compile().as_text())]


@pytest.mark.parametrize("way", ["pmap", "shard_map", "shard_map with check_vma"])
@pytest.mark.parametrize("masked", [False, True])
def test_statistics_cost_one_collective_and_their_gradient_one_more(masked, way):
    # Latency, not size, is what small collectives cost: mean, variance and count travel together, and so do both
    # sums of the gradient. Autodiff of a synced mean and variance would take more, in either direction.
    x, mask, affine = jnp.ones((4, 6, 3)), jnp.ones((4, 6, 1), bool), jnp.ones((4, 3))

    def forward(x, mask, scale, bias):
        y, stats = batch_norm(x, scale, bias, mask=mask if masked else None, axis_name="batch")
        return y, tuple(stats)

    def step(*arrays):
        x, mask, scale, bias = arrays
        return jax.grad(lambda *a: (forward(a[0], mask, *a[1:])[0] ** 2).sum(), (0, 1, 2))(x, scale, bias)

    assert compiled_collectives(way, forward, x, mask, affine, affine) == ["all-gather"]
    assert compiled_collectives(way, step, x, mask, affine, affine) == ["all-gather", "all-reduce"]


def test_collectives_are_seen_by_this_test():
    # The pattern must know the spelling of the compiled program, else counting proves nothing.
    def both(x):
        # Two sums that XLA combines into one of a pair, spelled with a tuple.
        return jax.lax.psum((x, x.sum()), "batch"), jax.lax.all_gather(x * 2, "batch")

    assert sorted(compiled_collectives("pmap", both, jnp.ones((4, 3)))) == ["all-gather", "all-reduce"]
