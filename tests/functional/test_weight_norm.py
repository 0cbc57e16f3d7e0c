"""Weight normalization and its orthogonal form, against Flax, SciPy and what they are defined by."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from flax import linen as nn
from jax.test_util import check_grads

from normjax.functional import orthogonal_weight_norm, weight_norm


def draw(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def with_condition(outputs, fan_in, condition, seed=0):
    """A kernel (fan_in, outputs) of centred rows whose products with each other have that condition."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(outputs, outputs)))[0]
    right = rng.normal(size=(fan_in, outputs))
    right = np.linalg.qr(right - right.mean(0))[0]
    return (left * np.geomspace(1, condition**-0.5, outputs) @ right.T).T.astype(np.float32)


def products(kernel, group_size):
    """W W' of each group, in float64."""
    rows = np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1]).T
    return np.stack([part @ part.T for part in rows.reshape(-1, group_size, rows.shape[-1])])


@pytest.mark.parametrize("shape", [(7, 5), (3, 3, 4, 6)])
def test_weight_norm_is_that_of_flax(shape):
    kernel, scale = jnp.asarray(draw(*shape)), jnp.asarray(draw(shape[-1], seed=1))
    layer = nn.WeightNorm(nn.Dense(5) if len(shape) == 2 else nn.Conv(6, (3, 3)))
    x = jnp.asarray(draw(2, *((7,) if len(shape) == 2 else (8, 8, 4)), seed=2))
    variables = jax.tree.map(jnp.zeros_like, layer.init(jax.random.key(0), x))
    inner = variables["params"]["layer_instance"]
    (name,) = (key for key in variables["params"] if key != "layer_instance")
    params = {"layer_instance": {**inner, "kernel": kernel}, name: scale}
    plain = {"params": {**inner, "kernel": weight_norm(kernel, scale)}}
    chex.assert_trees_all_close(
        layer.layer_instance.apply(plain, x), layer.apply({"params": params}, x), rtol=1e-5, atol=1e-5
    )


def test_the_derivative_of_weight_norm_is_at_right_angles_to_the_weights():
    kernel, scale, upstream = jnp.asarray(draw(9, 4)), jnp.asarray(draw(4, seed=1)), jnp.asarray(draw(9, 4, seed=2))
    dv, dg = jax.grad(lambda v, g: (weight_norm(v, g) * upstream).sum(), argnums=(0, 1))(kernel, scale)
    chex.assert_trees_all_close((dv * kernel).sum(0), jnp.zeros(4), atol=1e-5)
    # The paper's formulas, section 2.1.
    length = jnp.linalg.norm(kernel, axis=0)
    chex.assert_trees_all_close(dg, (upstream * kernel).sum(0) / length, rtol=1e-5)
    want = (scale / length)[None] * upstream - (scale * dg / length**2)[None] * kernel
    chex.assert_trees_all_close(dv, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["eigh", "newton"])
@pytest.mark.parametrize("condition", [1, 10, 100, 1e4])
@pytest.mark.parametrize(("outputs", "fan_in"), [(8, 27), (64, 65), (64, 576)])
def test_the_weights_of_a_group_are_orthogonal(method, condition, outputs, fan_in):
    # Five Newton iterations leave 0.5 on 64 rows.
    kernel = jnp.asarray(with_condition(outputs, fan_in, condition))
    got = orthogonal_weight_norm(kernel, group_size=outputs, method=method)
    assert np.abs(products(got, outputs) - np.eye(outputs)).max() < 1e-5


@pytest.mark.parametrize("method", ["eigh", "newton"])
def test_it_is_the_polar_factor(method):
    # SciPy's is by the singular value decomposition.
    kernel = draw(3, 3, 5, 16)
    rows = kernel.reshape(-1, 16).T.astype(np.float64)
    rows = rows - rows.mean(1, keepdims=True)
    want = np.concatenate([scipy.linalg.polar(part)[0] for part in rows.reshape(2, 8, -1)]).T.reshape(kernel.shape)
    got = orthogonal_weight_norm(jnp.asarray(kernel), group_size=8, method=method)
    chex.assert_trees_all_close(got, want.astype(np.float32), atol=2e-6)


def test_without_centring_it_is_the_polar_factor_of_the_kernel_itself():
    kernel = draw(9, 4)
    want = scipy.linalg.polar(kernel.astype(np.float64).T)[0].T
    got = orthogonal_weight_norm(jnp.asarray(kernel), group_size=4, center=False)
    chex.assert_trees_all_close(got, want.astype(np.float32), atol=1e-6)


def test_groups_of_one_are_centred_weight_norm():
    kernel = jnp.asarray(draw(9, 4))
    got = orthogonal_weight_norm(kernel, group_size=1)
    chex.assert_trees_all_close(got, weight_norm(kernel - kernel.mean(0, keepdims=True)), atol=1e-6)


def test_it_is_rid_of_the_length_of_the_weights_and_their_common_mean():
    kernel = jnp.asarray(draw(9, 4))
    got = orthogonal_weight_norm(kernel)
    chex.assert_trees_all_close(orthogonal_weight_norm(kernel * 1e-6), got, atol=1e-5)
    chex.assert_trees_all_close(orthogonal_weight_norm(kernel * 1e6), got, atol=1e-5)
    chex.assert_trees_all_close(orthogonal_weight_norm(kernel + 3.0), got, atol=1e-5)
    chex.assert_trees_all_close(orthogonal_weight_norm(got), got, atol=1e-5)


def test_a_rotation_of_the_fan_in_rotates_the_result():
    kernel, rotation = draw(9, 4), np.linalg.qr(draw(9, 9, seed=1))[0]
    got = orthogonal_weight_norm(jnp.asarray(rotation @ kernel), group_size=4, center=False)
    want = rotation @ np.asarray(orthogonal_weight_norm(jnp.asarray(kernel), group_size=4, center=False))
    chex.assert_trees_all_close(got, want, atol=2e-6)


@pytest.mark.parametrize("method", ["eigh", "newton"])
def test_derivatives_in_float64(method):
    with jax.enable_x64(True):
        kernel, scale = jnp.asarray(draw(3, 5, 8, dtype=np.float64)), jnp.asarray(draw(8, dtype=np.float64))

        # The numerical side passes NumPy arrays.
        def own(*args):
            return orthogonal_weight_norm(*map(jnp.asarray, args), group_size=4, method=method)

        check_grads(own, (kernel, scale), order=1, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["eigh", "newton"])
@pytest.mark.parametrize("kind", ["zeros", "constant", "a row of zeros", "equal rows"])
def test_degenerate_kernels_have_finite_values_and_derivatives(method, kind):
    kernel = jnp.asarray(draw(9, 4))
    kernel = {
        "zeros": jnp.zeros((9, 4)),
        "constant": jnp.full((9, 4), 0.1),
        "a row of zeros": kernel.at[:, 1].set(0.0),
        "equal rows": kernel.at[:, 1].set(kernel[:, 0]),
    }[kind]
    for function in (lambda k: orthogonal_weight_norm(k, group_size=4, method=method), weight_norm):
        value, gradient = jax.jit(jax.value_and_grad(lambda k, f=function: jnp.sin(f(k)).sum()))(kernel)
        chex.assert_tree_all_finite((value, gradient))
    if kind in ("zeros", "constant"):
        assert not np.any(orthogonal_weight_norm(kernel, group_size=4, method=method))


@pytest.mark.parametrize(
    ("shape", "feature_groups", "size"),
    [
        ((784, 256), 1, 64),
        ((3, 3, 3, 64), 1, 8),
        ((3, 3, 16, 48), 1, 48),
        ((3, 3, 1, 32), 32, 1),
        ((3, 3, 4, 32), 4, 8),
    ],
)
def test_the_default_group_is_the_largest_divisor_up_to_64_and_half_the_fan_in(shape, feature_groups, size):
    got = orthogonal_weight_norm(jnp.asarray(draw(*shape)), feature_group_count=feature_groups)
    assert np.abs(products(got, size) - np.eye(size)).max() < 1e-5
    rows = np.asarray(got, np.float64).reshape(-1, shape[-1]).T
    assert size == shape[-1] or np.abs(rows @ rows.T - np.eye(shape[-1])).max() > 1e-3


def test_half_precision_is_computed_in_float32():
    kernel = jnp.asarray(draw(32, 8)).astype(jnp.bfloat16)
    for function in (weight_norm, orthogonal_weight_norm):
        got = function(kernel)
        assert got.dtype == jnp.bfloat16
        chex.assert_trees_all_equal(got, function(kernel.astype(jnp.float32)).astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 8), {"group_size": 8}, r"group_size=8 is larger than the rank 3 .* the largest possible is 2; .* 1, 2\."),
        ((4, 8), {"group_size": 4, "center": True}, r"the largest possible is 2"),
        ((9, 8), {"group_size": 3}, r"group_size=3 does not divide the 8 outputs .* use one of 1, 2, 4, 8\."),
        ((1, 1, 1, 8), {}, r"fan-in of 1, of which center=True leaves rank 0"),
        ((8,), {}, r"kernel of shape \(8,\) has 1 axes; it needs two or more"),
        ((0, 8), {}, r"kernel of shape \(0, 8\) is empty"),
        ((9, 8), {"feature_group_count": 3}, r"feature_group_count=3 does not divide the 8 outputs"),
        ((9, 8), {"iterations": 0}, r"iterations=0 is too small"),
        ((9, 8), {"scale": jnp.ones(4)}, r"scale of shape \(4,\) does not fit the features"),
    ],
)
def test_bad_input_is_told(shape, options, message):
    with pytest.raises(ValueError, match=message):
        orthogonal_weight_norm(jnp.ones(shape), **options)


def test_bad_input_of_weight_norm_is_told():
    with pytest.raises(ValueError, match=r"scale of shape \(4,\) does not fit the features"):
        weight_norm(jnp.ones((9, 8)), jnp.ones(4))
