"""Fault 1: devices that share statistics do as one device with all the data would, whatever the share of each."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracles import numpy_batch_norm, numpy_batch_norm_gradients, numpy_moments

from normjax.functional import batch_norm, moments

SHARES = {"five and one": (5, 1), "one has none": (4, 0, 2, 5), "none has any": (0, 0)}
EIGHT = (5, 1, 0, 3, 2, 5, 4, 1)
WAYS = ("pmap", "shard_map", "shard_map with check_vma", "vmap")


def draw(*shape, seed=0, shift=2.0):
    return (np.random.default_rng(seed).normal(size=shape) + shift).astype(np.float32)


def shards(share):
    """Five rows a device, each device around another mean, and the mask of the rows that count."""
    x = draw(len(share), 5, 3) + 4 * np.arange(len(share), dtype=np.float32)[:, None, None]
    return x, (np.arange(5) < np.asarray(share)[:, None])[..., None]


def spread(way, f, *arrays):
    """Calls `f` on every device with its entry of each array; the answers of all devices are stacked."""
    arrays = [jnp.asarray(array) for array in arrays]
    if way in ("pmap", "vmap"):
        return jax.jit(getattr(jax, way)(f, axis_name="batch"))(*arrays)

    def block(*arrays):
        return jax.tree.map(lambda leaf: leaf[None], f(*(array[0] for array in arrays)))

    mesh = jax.make_mesh((len(arrays[0]),), ("batch",), axis_types=(AxisType.Auto,))
    check = way == "shard_map with check_vma"
    return jax.jit(jax.shard_map(block, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"), check_vma=check))(*arrays)


def step(x, mask, upstream, scale, bias):
    """Output, moments and gradients as a data-parallel step takes them: of this device's part of the loss."""

    def loss(x, scale, bias):
        y, stats = batch_norm(x, scale, bias, mask=mask, axis_name="batch")
        return (y * upstream).sum(), (y, tuple(stats))

    (_, out), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias)
    return *out, grads


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("share", SHARES)
def test_devices_weigh_by_what_counts_on_each(share, way):
    # Flax takes the mean of the devices' means (google/flax#2417): with 5 and 1 rows, outputs and gradients are wrong.
    x, mask = shards(SHARES[share])
    devices, upstream, scale, bias = len(x), draw(*x.shape, seed=1), draw(3, seed=2), draw(3, seed=3)
    affine = (np.stack([parameter] * devices) for parameter in (scale, bias))
    y, stats, (dx, dscale, dbias) = spread(way, step, x, mask, upstream, *affine)

    together = {"axes": (0, 1), "mask": mask}
    expected = [np.stack([part] * devices) for part in numpy_moments(x, **together)]
    chex.assert_trees_all_close(stats, tuple(expected), rtol=1e-5)
    chex.assert_trees_all_close(y, numpy_batch_norm(x, scale, bias, **together), rtol=1e-4, atol=1e-4)
    expected = numpy_batch_norm_gradients(x, upstream, scale, **together)
    chex.assert_trees_all_close((dx, dscale.sum(0), dbias.sum(0)), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_devices_without_a_mask_do_as_one_would(way):
    # Equal counts need no gather of counts, which is another path than with a mask.
    x, upstream, scale, bias = draw(4, 5, 3), draw(4, 5, 3, seed=1), draw(3, seed=2), draw(3, seed=3)
    affine = (np.stack([parameter] * 4) for parameter in (scale, bias))
    y, stats, (dx, dscale, dbias) = spread(way, lambda x, *rest: step(x, None, *rest), x, upstream, *affine)
    chex.assert_trees_all_close(stats, tuple(np.stack([part] * 4) for part in numpy_moments(x, (0, 1))), rtol=1e-5)
    chex.assert_trees_all_close(y, numpy_batch_norm(x, scale, bias, axes=(0, 1)), rtol=1e-4, atol=1e-5)
    expected = numpy_batch_norm_gradients(x, upstream, scale, axes=(0, 1))
    chex.assert_trees_all_close((dx, dscale.sum(0), dbias.sum(0)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("way", "masked"), [("pmap", True), ("shard_map", True), ("vmap", True), ("vmap", False)])
def test_gradients_through_the_returned_moments_cross_the_devices(way, masked):
    # A loss on the statistics themselves (a drift penalty, say): every device's x moves the shared mean and m2.
    x, mask = shards((5, 1, 2, 4))
    mask = mask if masked else np.ones_like(mask)
    on_mean, on_m2 = draw(3, seed=1), draw(3, seed=2)

    def loss(x, mask):
        _, stats = batch_norm(x, mask=mask if masked else None, axis_name="batch")
        return (stats.mean * on_mean + stats.m2 * on_m2).sum()

    dx = spread(way, jax.grad(loss), x, mask)
    count, mean, _ = numpy_moments(x, (0, 1), mask)
    # Each of the four devices has that loss once.
    expected = 4 * np.where(mask, on_mean / count + on_m2 * 2 * (x - mean), 0)
    chex.assert_trees_all_close(dx, expected, rtol=1e-4, atol=1e-3)


def test_shared_parameters_under_check_vma_get_the_gradient_of_all_devices():
    # There JAX sums the gradients of replicated parameters itself; a second sum of ours would multiply them.
    x, mask = shards((5, 1, 0, 3))
    upstream, scale, bias = draw(*x.shape, seed=1), draw(3, seed=2), draw(3, seed=3)

    def block(x, mask, upstream, scale, bias):
        _, stats, (dx, *dshared) = step(x[0], mask[0], upstream[0], scale, bias)
        return stats, dx[None], dshared

    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    split, shared = P("batch"), P()
    f = jax.shard_map(
        block, mesh=mesh, in_specs=(split, split, split, shared, shared), out_specs=(shared, split, shared)
    )
    stats, dx, dshared = jax.jit(f)(*map(jnp.asarray, (x, mask, upstream, scale, bias)))
    # Replicated on exit (P()) without a further collective: JAX knows that the moments are equal on all devices.
    chex.assert_trees_all_close(stats, tuple(numpy_moments(x, (0, 1), mask)), rtol=1e-5)
    expected = numpy_batch_norm_gradients(x, upstream, scale, axes=(0, 1), mask=mask)
    chex.assert_trees_all_close((dx, *dshared), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("masked", [False, True])
def test_an_array_sharded_under_jit_needs_no_axis_name(masked):
    # With the batch sharded by the compiler the array is whole to the program: all devices count without being told.
    x, mask = shards(EIGHT)
    x, mask = x.reshape(40, 3), mask.reshape(40, 1) if masked else None
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    placed = [None if part is None else jax.device_put(part, NamedSharding(mesh, P("batch"))) for part in (x, mask)]
    y, stats = jax.jit(lambda x, mask: batch_norm(x, mask=mask))(*placed)
    chex.assert_trees_all_close(tuple(stats), tuple(numpy_moments(x, (0,), mask)), rtol=1e-5)
    chex.assert_trees_all_close(y, numpy_batch_norm(x, axes=(0,), mask=mask), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("check", [False, True])
def test_statistics_are_shared_over_two_mesh_axes(check):
    # A pod's mesh often splits the batch over hosts and devices both.
    x, mask = shards(EIGHT)
    mesh = jax.make_mesh((2, 4), ("hosts", "devices"), axis_types=(AxisType.Auto,) * 2)
    both = ("hosts", "devices")
    f = jax.shard_map(
        lambda x, mask: batch_norm(x[0], mask=mask[0], axis_name=both)[1],
        mesh=mesh,
        in_specs=P(both),
        out_specs=P(),
        check_vma=check,
    )
    stats = jax.jit(f)(jnp.asarray(x), jnp.asarray(mask))
    chex.assert_trees_all_close(tuple(stats), tuple(numpy_moments(x, (0, 1), mask)), rtol=1e-5)


@pytest.mark.parametrize("outer", ["pmap", "vmap"])
def test_statistics_are_shared_over_an_axis_of_devices_and_one_of_vmap(outer):
    # Several replicas a device, as simulations of large batches have them; flax.linen.BatchNorm takes both names.
    x, mask = shards(EIGHT)
    x, mask = x.reshape(2, 4, 5, 3), mask.reshape(2, 4, 5, 1)
    f = jax.vmap(lambda x, mask: moments(x, (0,), mask=mask, axis_name=("outer", "inner")), axis_name="inner")
    stats = getattr(jax, outer)(f, axis_name="outer")(jnp.asarray(x), jnp.asarray(mask))
    expected = numpy_moments(x, (0, 1, 2), mask)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[1, 2], tuple(stats)), tuple(expected), rtol=1e-5)


def test_complex_moments_are_shared_with_real_deviations():
    # Count and m2 travel with the complex mean in one array and must come back real.
    x = (draw(4, 5, 2) + 1j * draw(4, 5, 2, seed=1)).astype(np.complex64)
    mask = np.arange(5) < np.array([5, 1, 2, 3])[:, None]
    f = jax.pmap(lambda x, mask: moments(x, (0,), mask=mask, axis_name="batch"), axis_name="batch")
    stats = jax.tree.map(lambda leaf: leaf[0], tuple(f(jnp.asarray(x), jnp.asarray(mask[..., None]))))
    assert [part.dtype for part in stats] == [np.float32, np.complex64, np.float32]
    chex.assert_trees_all_close(stats, tuple(numpy_moments(x, (0, 1), mask[..., None])), rtol=1e-5)
