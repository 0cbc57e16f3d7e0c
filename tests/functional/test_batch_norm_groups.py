"""Groups of devices: statistics are shared within a group and nowhere else."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from oracles import numpy_batch_norm, numpy_batch_norm_gradients, numpy_moments

from normjax.functional import batch_norm

# Lists as a config has them, and tuples: as part of a traced form they must be made hashable.
GROUPS = {"neighbours": [[0, 1], [2, 3], [4, 5], [6, 7]], "interleaved": ((0, 2, 4, 6), (1, 3, 5, 7))}


def draw(*shape, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) + 2).astype(np.float32)


def spread(way, f, *arrays):
    if way == "pmap":
        return jax.pmap(f, axis_name="batch")(*map(jnp.asarray, arrays))

    def block(*arrays):
        return jax.tree.map(lambda leaf: leaf[None], f(*(array[0] for array in arrays)))

    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    split = jax.shard_map(block, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"), check_vma=False)
    return jax.jit(split)(*map(jnp.asarray, arrays))


@pytest.mark.parametrize("way", ["pmap", "shard_map"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", GROUPS)
def test_each_group_does_as_one_device_with_its_data_would(groups, masked, way):
    # Fault 1 within groups: counts differ between devices; groups given in another order must find their own devices.
    groups = GROUPS[groups]
    x, upstream, scale = draw(8, 5, 3) + 4 * np.arange(8, dtype=np.float32)[:, None, None], draw(8, 5, 3), draw(3)
    mask = np.arange(5) < np.array([5, 1, 0, 3, 2, 5, 4, 1])[:, None] if masked else np.ones((8, 5), bool)

    def step(x, mask, upstream, scale):
        def loss(x, scale):
            given = mask[:, None] if masked else None
            y, stats = batch_norm(x, scale, mask=given, axis_name="batch", axis_index_groups=groups)
            return (y * upstream).sum(), (y, tuple(stats))

        (_, (y, stats)), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, scale)
        return y, stats, grads

    y, stats, (dx, dscale) = spread(way, step, x, mask, upstream, np.stack([scale] * 8))
    for group in map(list, groups):
        together = {"axes": (0, 1), "mask": mask[group][..., None]}
        expected = tuple(np.stack([part] * len(group)) for part in numpy_moments(x[group], **together))
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, g=group: leaf[jnp.array(g)], stats), expected, rtol=1e-5)
        chex.assert_trees_all_close(
            y[jnp.array(group)], numpy_batch_norm(x[group], scale, **together), rtol=1e-4, atol=1e-4
        )
        expected = numpy_batch_norm_gradients(x[group], upstream[group], scale, **together)[:2]
        actual = dx[jnp.array(group)], dscale[jnp.array(group)].sum(0)
        chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-3)
