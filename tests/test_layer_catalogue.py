"""What every layer must do, whichever it is."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import LAYERS
from flax import nnx, serialization
from jax import export
from jax.test_util import check_grads

import normjax

PLATFORMS = ("cpu", "cuda", "tpu")
every_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
running_layers = pytest.mark.parametrize(
    "layer", [layer for layer in LAYERS if layer.running], ids=lambda layer: layer.name
)
batched_layers = pytest.mark.parametrize(
    "layer", [layer for layer in LAYERS if layer.batched], ids=lambda layer: layer.name
)


def draw(*shape, seed=0, shift=1.0):
    """Correlated channels, so that whitening has something to do."""
    x = np.random.default_rng(seed).normal(size=shape) + shift
    return jnp.asarray(x + 0.5 * np.roll(x, 1, -1), jnp.float32)


def build(layer, x, **options):
    """The Linen module in training mode and variables that are not the initial ones."""
    fields = {"use_running_average": False} if layer.batched else {}
    module = layer.linen(**fields, **{**layer.options, **options})
    variables = jax.jit(module.init)(jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: leaf + draw(*leaf.shape, seed=leaf.size), variables["params"])
    variables = {**variables, "params": params}
    if layer.reference:
        variables = normjax.reference_pass(module, variables, reference_like(x))
    return module, variables


def reference_like(x):
    """A reference batch for inputs like this."""
    return draw(16, *x.shape[1:], seed=7, shift=1.5).astype(jnp.real(x).dtype)


def forward(module, variables, x, **call):
    """Output and updated collections in training."""
    y, updated = module.apply(variables, x, mutable=["batch_stats"], **call)
    return y, dict(updated)


def leading(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


@every_layer
def test_the_compiled_layer_gives_what_the_eager_one_gives(layer):
    x = draw(8, 3, 3, 4)
    module, variables = build(layer, x)
    chex.assert_trees_all_close(
        jax.jit(lambda v, x: forward(module, v, x))(variables, x),
        forward(module, variables, x),
        rtol=1e-4,
        atol=1e-5,
    )


@every_layer
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_no_types_are_mixed_by_accident(layer, dtype):
    x = draw(8, 3, 3, 4).astype(dtype)
    with jax.numpy_dtype_promotion("strict"):
        module, variables = build(layer, x, dtype=dtype)
        y, pull = jax.vjp(lambda v, x: forward(module, v, x)[0], variables, x)
        assert (y.dtype, pull(y)[1].dtype) == (dtype, dtype)


@batched_layers
def test_one_example_is_enough_to_make_the_variables(layer):
    # Networks are initialised with one example, which no ghost batch fits, outside the mapped axis of their devices.
    module = layer.linen(use_running_average=False, axis_name="batch", **layer.options)
    variables = module.init(jax.random.key(0), draw(1, 3, 3, 4))
    chex.assert_trees_all_equal(variables, module.init(jax.random.key(0), draw(8, 3, 3, 4)))


@every_layer
def test_mapped_over_inputs_it_does_each_alone(layer):
    x = draw(3, 8, 3, 3, 4)
    module, variables = build(layer, x[0])
    mapped = jax.vmap(lambda x: forward(module, variables, x))(x)
    alone = [forward(module, variables, part) for part in x]
    chex.assert_trees_all_close(mapped, jax.tree.map(lambda *parts: jnp.stack(parts), *alone), rtol=1e-4, atol=1e-5)


@every_layer
def test_derivatives_agree_with_finite_differences(layer):
    with jax.enable_x64():
        x = jnp.asarray(draw(8, 2, 3, 4), jnp.float64)
        module, variables = build(layer, x, param_dtype=jnp.float64)

        # The corrections of renorm are constants to its gradient, so finite differences must keep them, too.
        def loss(params, x):
            return jnp.sin(forward(module, {**variables, "params": params}, x)[0])

        if "renorm" in layer.name:
            module = module.clone(r_max=1.0, d_max=0.0)
        check_grads(loss, (variables["params"], x), order=1, atol=1e-5, rtol=1e-5)


@every_layer
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_keeps_float32_statistics(layer, dtype):
    # Haiku keeps a bfloat16 running state for bfloat16 input. The values are those of float32 within half precision.
    x = draw(8, 3, 3, 4).astype(dtype)
    module, variables = build(layer, x)
    half = module.clone(dtype=dtype)
    y, updated = forward(half, variables, x)
    y32, updated32 = forward(module.clone(dtype=jnp.float32), variables, x.astype(jnp.float32))
    assert y.dtype == dtype
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(updated))
    chex.assert_trees_all_close(updated, updated32, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(y.astype(jnp.float32), y32, rtol=0.01, atol=0.02)
    gradient = jax.grad(lambda x: forward(half, variables, x)[0].astype(jnp.float32).sum())(x)
    assert gradient.dtype == dtype
    assert np.isfinite(np.asarray(gradient, np.float32)).all()


@every_layer
def test_complex_input_is_normalised_or_refused(layer):
    x = (draw(8, 3, 3, 4) + 1j * draw(8, 3, 3, 4, seed=1)).astype(jnp.complex64)
    module = build(layer, x.real)[0]
    if not layer.complex:
        with pytest.raises(TypeError, match="takes real input"):
            module.init(jax.random.key(0), x)
        return
    y, _ = forward(module, module.init(jax.random.key(0), x), x)
    parts = y.reshape(-1, 4, *y.shape[1:]) if "ghost" in layer.name else y[None]
    chex.assert_trees_all_close(np.abs(parts.mean((1, 2, 3))), np.zeros((len(parts), 4)), atol=1e-5)
    chex.assert_trees_all_close((np.abs(parts) ** 2).mean((1, 2, 3)), np.ones((len(parts), 4)), rtol=1e-3)


@batched_layers
def test_a_mask_leaves_what_the_valid_examples_alone_would_give(layer):
    # NaN in padding must reach neither output, statistics nor gradient (Flax's BatchNorm: NaN gradients).
    x, valid = draw(8, 3, 3, 4), np.arange(8) % 4 < 2
    module, variables = build(layer, x)
    alone = module.clone(**layer.subset_options)
    poisoned = jnp.where(valid[:, None, None, None], x, jnp.nan)

    def run(module, x, mask):
        def loss(params, x):
            y, updated = forward(module, {**variables, "params": params}, x, mask=mask)
            y = y if mask is None else jnp.where(mask, y, 0)
            return jnp.sin(y).sum(), (y, updated)

        (_, out), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], x)
        return out, grads

    (y, updated), (dparams, dx) = run(module, poisoned, jnp.asarray(valid)[:, None, None, None])
    (y_alone, updated_alone), (dparams_alone, dx_alone) = run(alone, x[valid], None)
    expected = ((y_alone, updated_alone), (dparams_alone, dx_alone))
    chex.assert_trees_all_close(((y[valid], updated), (dparams, dx[valid])), expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(dx[~valid], jnp.zeros_like(dx[~valid]))


@every_layer
@pytest.mark.parametrize("case", ["constant", "zero", "none valid", "no examples"])
def test_degenerate_input_gives_finite_values_and_gradients(layer, case):
    # GroupItN, the reference code of group whitening, never uses its eps: constant input gives NaN.
    x = {"constant": jnp.full((8, 3, 3, 4), 7.0), "zero": jnp.zeros((8, 3, 3, 4))}.get(case, draw(8, 3, 3, 4))
    module, variables = build(layer, x)
    x = x[:0] if case == "no examples" else x
    call = {"mask": jnp.zeros((8, 1, 1, 1), bool)} if case == "none valid" and layer.batched else {}

    def loss(params, x):
        y, updated = forward(module, {**variables, "params": params}, x, **call)
        return jnp.sin(y).sum(), (y, updated)

    (_, out), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], x)
    chex.assert_tree_all_finite((out, grads))
    if case in ("none valid", "no examples") and layer.running:
        kept = {name: value for name, value in out[1]["batch_stats"].items() if name != "step"}
        chex.assert_trees_all_equal(kept, {name: variables["batch_stats"][name] for name in kept})


@every_layer
def test_data_far_from_zero_are_normalised_as_if_they_lay_near(layer):
    # Flax's one-pass variance of N(1e4, 1) is 0 in float32.
    x = draw(64, 4, 4, 4, shift=0.0)
    module, variables = build(layer, x)
    if "renorm" in layer.name:
        module = module.clone(r_max=1.0, d_max=0.0)
    offset = 1e4
    near = (x + offset) - offset  # what is left of the digits
    y_near = forward(module, variables, near)[0]
    if layer.reference:
        variables = normjax.reference_pass(module, variables, reference_like(x) + offset)
    y = forward(module, variables, x + offset)[0]
    chex.assert_trees_all_close(y, y_near, atol=1e-2)  # a thousandth is what float32 resolves there


@batched_layers
@pytest.mark.parametrize("way", ["pmap", "shard_map"])
def test_eight_devices_do_as_one_with_unequal_valid_counts(layer, way):
    # Flax averages the devices' means (google/flax#2417).
    x = draw(8, 4, 3, 3, 4) + jnp.arange(8.0).reshape(8, 1, 1, 1, 1) / 2
    mask = (jnp.arange(4)[None] < jnp.array([4, 1, 2, 3, 4, 2, 1, 4])[:, None]).reshape(8, 4, 1, 1, 1)
    module, variables = build(layer, x[0])
    together = module.clone(axis_name="batch")

    def step(x, mask):
        def loss(params, x):
            y, updated = forward(together, {**variables, "params": params}, x, mask=mask)
            return jnp.where(mask, jnp.sin(y), 0).sum(), (y, updated)

        (_, (y, updated)), (dparams, dx) = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], x)
        return y, dx, updated, jax.lax.psum(dparams, "batch")

    if way == "pmap":
        y, dx, updated, dparams = jax.pmap(step, axis_name="batch")(x, mask)
        # Equal bits on all devices, or the replicas would drift apart.
        jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape)), updated)
        updated, dparams = leading(updated), leading(dparams)
    else:
        mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
        split, shared = jax.sharding.PartitionSpec("batch"), jax.sharding.PartitionSpec()
        f = jax.shard_map(
            lambda x, mask: jax.tree.map(lambda a: a[None], step(x[0], mask[0])[:2]) + step(x[0], mask[0])[2:],
            mesh=mesh,
            in_specs=split,
            out_specs=(split, split, shared, shared),
            check_vma=False,
        )
        y, dx, updated, dparams = jax.jit(f)(x, mask)

    whole, whole_mask = x.reshape(32, 3, 3, 4), mask.reshape(32, 1, 1, 1)

    def loss(params, x):
        y, updated = forward(module, {**variables, "params": params}, x, mask=whole_mask)
        return jnp.where(whole_mask, jnp.sin(y), 0).sum(), (y, updated)

    (_, (y1, updated1)), (dparams1, dx1) = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], whole)
    got = (y.reshape(32, 3, 3, 4), dx.reshape(32, 3, 3, 4), updated, dparams)
    chex.assert_trees_all_close(got, (y1, dx1, updated1, dparams1), rtol=1e-4, atol=1e-4)


@running_layers
def test_inference_after_a_step_uses_that_step(layer):
    # With momentum 0 the running statistics are those of the batch, so inference on it is training on it.
    x = draw(8, 3, 3, 4)
    one_part = {"ghost_batch_size": 8} if "ghost" in layer.name else {}
    options = {"r_max": 1.0, "d_max": 0.0} if "renorm" in layer.name else {}
    module, variables = build(layer, x, momentum=0.0, **one_part, **options)
    y, updated = forward(module, variables, x)
    inferred = module.clone(use_running_average=True).apply({**variables, **updated}, x)
    chex.assert_trees_all_close(inferred, y, rtol=1e-4, atol=1e-5)
    before = module.clone(use_running_average=True).apply(variables, x)
    assert not np.allclose(before, y, atol=1e-2)


@every_layer
def test_variables_survive_serialization(layer):
    x = draw(8, 3, 3, 4)
    module, variables = build(layer, x)
    variables = {**variables, **forward(module, variables, x)[1]}
    restored = serialization.from_bytes(jax.tree.map(jnp.zeros_like, variables), serialization.to_bytes(variables))
    chex.assert_trees_all_equal(forward(module, restored, x), forward(module, variables, x))


@every_layer
def test_linen_and_nnx_give_the_same_bits(layer):
    x = draw(8, 3, 3, 4)
    module, variables = build(layer, x)
    twin = layer.nnx(4, **layer.options, rngs=nnx.Rngs(0))
    for name, value in {**variables["params"], **variables.get("batch_stats", {})}.items():
        getattr(twin, name)[...] = value
    if layer.reference:
        twin.set_attributes(collect_reference=True)
        twin(reference_like(x))
        twin.set_attributes(collect_reference=False)
        kept = {name: getattr(twin, name)[...] for name in ("count", "mean", "var", "examples")}
        chex.assert_trees_all_equal(kept, variables["reference_stats"])
    y, updated = forward(module, variables, x)
    chex.assert_trees_all_equal(twin(x), y)
    statistics = nnx.to_pure_dict(nnx.state(twin, nnx.BatchStat))
    chex.assert_trees_all_equal(statistics, updated.get("batch_stats", {}))
    linen_gradient = jax.grad(lambda p: jnp.sin(forward(module, {**variables, "params": p}, x)[0]).sum())
    for name, value in variables.get("batch_stats", {}).items():
        getattr(twin, name)[...] = value
    nnx_gradient = nnx.grad(lambda m: jnp.sin(m(x)).sum())(twin)
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx_gradient), linen_gradient(variables["params"]))
    if layer.batched:
        twin.eval()
        inferred = module.clone(use_running_average=True).apply({**variables, **updated}, x)
        chex.assert_trees_all_equal(twin(x), inferred)
        # A pure inference leaves the statistics.
        statistics = nnx.to_pure_dict(nnx.state(twin, nnx.BatchStat))
        chex.assert_trees_all_equal(statistics, updated.get("batch_stats", {}))


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_forward_and_gradient_lower_for_all_platforms(layer, training):
    x = draw(8, 3, 3, 4)
    module, variables = build(layer, x)
    if not training:
        if not layer.batched:
            return
        module = module.clone(use_running_average=True)

    def step(variables, x):
        y, pull = jax.vjp(lambda v, x: forward(module, v, x)[0], variables, x)
        return y, pull(jnp.cos(y))[1]

    program = export.export(jax.jit(step), platforms=PLATFORMS)(variables, x)
    assert program.platforms == PLATFORMS
    chex.assert_trees_all_close(program.call(variables, x), step(variables, x), rtol=1e-3, atol=1e-4)


@batched_layers
@pytest.mark.parametrize(
    ("axis", "message"), [(5, "out of range for an array of 2"), ((0, 1), "take one feature axis")]
)
def test_an_axis_that_is_not_there_is_told_by_nnx(layer, axis, message):
    with pytest.raises(ValueError, match=message):
        layer.nnx(4, axis=axis, rngs=nnx.Rngs(0), **layer.options)(draw(8, 4))
