"""Property tests: odd shapes, types, axes, empty and huge values give a right answer or a clear error, never NaN.

Twenty examples a function; ``NORMJAX_EXAMPLES=200 python -m pytest tests/functional/test_properties.py`` tries more.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normjax import functional as F

EXAMPLES = int(os.environ.get("NORMJAX_EXAMPLES", "20"))
few = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

# Few, so that programs are compiled once; empty ones, single values, and no axis at all among them.
SHAPES = [(), (0,), (1,), (3,), (0, 3), (3, 0), (1, 1), (1, 4), (5, 4), (2, 0, 3), (3, 2, 4), (2, 3, 3, 4)]
TYPES = ["float32", "bfloat16", "float16", "complex64", "int32", "bool"]
KINDS = ["normal", "zeros", "constant", "far", "large", "huge", "tiny", "steps"]
REFUSALS = (ValueError, TypeError)


def values(kind, shape, dtype, seed):
    """Finite numbers of a kind, as large as the type can hold them."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=shape)
    large = 1e4 if dtype == "float16" else 1e30
    array = {
        "normal": normal,
        "zeros": np.zeros(shape),
        "constant": np.full(shape, 3.7),
        "far": 1e3 + normal,
        "large": min(large, 1e12) * normal,
        "huge": large * normal,
        "tiny": normal / large,
        "steps": np.round(normal),
    }[kind]
    if dtype == "complex64":
        array = array + 1j * rng.permutation(array.ravel()).reshape(shape)
    return jnp.asarray(array).astype(dtype)


@st.composite
def arrays(draw, shapes=tuple(SHAPES), types=tuple(TYPES)):
    shape, dtype = draw(st.sampled_from(shapes)), draw(st.sampled_from(types))
    return values(draw(st.sampled_from(KINDS)), shape, dtype, draw(st.integers(0, 3)))


def answer(function, *arguments, **options):
    """The result, or None where it was refused in words."""
    refusal, result = None, None
    try:
        result = function(*arguments, **options)
    except REFUSALS as error:
        refusal = str(error)
    assert refusal is None or len(refusal) > 10, f"no words: {refusal!r}"
    # What overflows may be NaN: the guarded step sees that, and would not see a zero.
    if moderate(arguments[0]):
        for leaf in jax.tree.leaves(result):
            assert not np.isnan(np.asarray(leaf).astype(np.complex128)).any(), f"NaN from finite input: {leaf}"
    return result


def moderate(x):
    """Whether squares of it fit the type in which statistics are taken."""
    return x.size == 0 or float(np.abs(np.asarray(x).astype(np.complex128)).max()) < 1e15


@few
@given(arrays(), st.lists(st.integers(-4, 3), max_size=3))
def test_moments(x, axes):
    found = answer(F.moments, x, tuple(axes))
    if found is None or not moderate(x):
        return
    wide, over = np.asarray(x).astype(np.complex128), tuple(sorted({axis % x.ndim for axis in axes}))
    count = np.prod([x.shape[axis] for axis in over], initial=1)
    assert (np.asarray(found.count) == count).all()
    if count:
        mean = wide.mean(over)
        np.testing.assert_allclose(found.mean, mean, rtol=2e-6, atol=1e-37 + 2e-6 * np.abs(wide).max(initial=0))
        spread = (np.abs(wide - wide.mean(over, keepdims=True)) ** 2).sum(over)
        allowed = 1e-5 * spread + 1e-37 + count * (1e-6 * np.abs(wide).max(initial=0)) ** 2
        assert (np.abs(np.asarray(found.m2) - spread) <= allowed).all()


@few
@given(arrays(), st.integers(-4, 3), st.booleans(), st.integers(0, 2))
def test_batch_norm(x, axis, masked, seed):
    mask = None
    if masked and x.ndim:
        mask = jnp.asarray(np.random.default_rng(seed).random((x.shape[0],) + (1,) * (x.ndim - 1)) < 0.5)
    found = answer(F.batch_norm, x, axis=axis, mask=mask)
    if found is None:
        return
    y, _ = found
    assert y.shape == x.shape
    assert y.dtype == x.dtype


@few
@given(arrays(), st.integers(-4, 3), st.integers(-1, 4))
def test_ghost_batch_norm(x, axis, size):
    found = answer(F.ghost_batch_norm, x, axis=axis, ghost_batch_size=size)
    assert found is None or found[0].shape == x.shape


@few
@given(arrays(), st.integers(-1, 5), st.sampled_from(["newton", "eigh", "other"]))
def test_decorrelated_layer_norm(x, size, method):
    found = answer(F.decorrelated_layer_norm, x, group_size=size, method=method)
    assert found is None or found.shape == x.shape


@few
@given(arrays(), st.integers(-1, 5), st.sampled_from(["newton", "eigh"]))
def test_decorrelated_batch_norm(x, size, method):
    found = answer(F.decorrelated_batch_norm, x, group_size=size, method=method)
    assert found is None or found[0].shape == x.shape


@few
@given(arrays(), st.sampled_from(["newton", "eigh"]), st.integers(0, 6))
def test_inverse_sqrt(x, method, iterations):
    square = jnp.matmul(x, jnp.swapaxes(jnp.conj(x), -1, -2)) if x.ndim > 1 and x.dtype != bool else x
    answer(F.inverse_sqrt, square, method=method, iterations=iterations)


@few
@given(arrays())
def test_weight_norm(kernel):
    found = answer(F.weight_norm, kernel)
    if found is not None and kernel.size and moderate(kernel):
        norms = np.sqrt((np.abs(np.asarray(found).astype(np.complex128)) ** 2).reshape(-1, kernel.shape[-1]).sum(0))
        largest = np.abs(np.asarray(kernel).astype(np.complex128)).reshape(-1, kernel.shape[-1]).max(0)
        # Weights whose squares are nothing in float32 count as zeros.
        np.testing.assert_allclose(norms[largest > 1e-15], 1, rtol=3e-2)


@few
@given(arrays(), st.one_of(st.none(), st.integers(-1, 5)), st.sampled_from(["newton", "eigh"]))
def test_orthogonal_weight_norm(kernel, size, method):
    found = answer(F.orthogonal_weight_norm, kernel, group_size=size, method=method)
    assert found is None or found.shape == kernel.shape


@few
@given(
    arrays(),
    st.sampled_from(["orthogonal", "weight_norm", "none", "other"]),
    st.sampled_from([None, "sparsity", "neuron", "other"]),
    st.sampled_from([None, -1.0, 0.0, 1e-3, 1.0, 1e30]),
)
def test_structural_weight_norm(kernel, base, measure, strength):
    found = answer(F.structural_weight_norm, kernel, base=base, measure=measure, strength=strength)
    assert found is None or found.shape == kernel.shape


PENALTIES = [F.exclusive_sparsity, F.group_sparsity]
OPERATORS = [F.prox_exclusive_sparsity, F.prox_group_sparsity, F.prox_l1]


@few
@given(arrays(), st.sampled_from(PENALTIES), st.sampled_from(["input", "output", "other"]))
def test_penalties(kernel, penalty, axis):
    found = answer(penalty, kernel, axis=axis)
    assert found is None or float(found) >= 0


@few
@given(arrays(), st.sampled_from(OPERATORS), st.sampled_from([-1.0, 0.0, 1e-3, 0.5, 1e30]))
def test_proximal_operators_shrink(kernel, operator, strength):
    found = answer(operator, kernel, strength)
    if found is not None and moderate(kernel):
        assert found.shape == kernel.shape
        assert (
            np.abs(np.asarray(found).astype(np.complex128)) <= np.abs(np.asarray(kernel).astype(np.complex128))
        ).all()


@few
@given(arrays(), st.sampled_from(["virtual", "mixed", "fixed", "renorm", "other"]), st.integers(-4, 3))
def test_reference_batch_norm(x, mode, axis):
    if x.ndim == 0 or not -x.ndim <= axis < x.ndim:
        return
    features = x.shape[axis]
    reference = F.Moments(jnp.full((features,), 8.0), jnp.zeros((features,)), jnp.full((features,), 8.0))
    found = answer(F.reference_batch_norm, x, reference, mode=mode, axis=axis)
    assert found is None or jax.tree.leaves(found)[0].shape == x.shape
