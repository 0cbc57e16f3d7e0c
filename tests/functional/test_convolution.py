"""Convolutions for CPUs against JAX's own in float64: values and derivatives of all kinds, in every form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from normjax.functional import conv_general_dilated, cpu_convolutions, xla_convolutions

NHWC = ("NHWC", "HWIO", "NHWC")


def case(x, kernel, strides=(1, 1), padding="SAME", dimension_numbers=NHWC, **options):
    return (
        x,
        kernel,
        {
            "window_strides": strides,
            "padding": padding,
            "dimension_numbers": dimension_numbers,
            **options,
        },
    )


# Large enough to leave XLA's own form; the comment says what is special.
CASES = {
    "3x3": case((20, 16, 16, 12), (3, 3, 12, 20)),  # images are no multiple of a chunk
    "3x3, few channels": case((32, 16, 16, 8), (3, 3, 8, 12)),
    "valid": case((16, 12, 13, 24), (3, 2, 24, 10), padding="VALID"),
    "uneven padding": case((16, 12, 12, 24), (3, 3, 24, 10), padding=((2, 0), (0, 3))),
    "negative padding": case((16, 14, 14, 24), (3, 3, 24, 16), padding=((-1, 1), (0, -2))),
    "strides": case((16, 15, 16, 24), (3, 3, 24, 20), (2, 2)),
    "unequal strides": case((16, 15, 16, 24), (5, 3, 24, 20), (2, 3), ((2, 1), (0, 3))),
    "dilated kernel": case((16, 12, 12, 24), (3, 3, 24, 16), padding=((2, 2), (2, 2)), rhs_dilation=(2, 2)),
    "dilated input": case((16, 8, 8, 24), (3, 3, 24, 16), padding=((2, 2), (2, 2)), lhs_dilation=(2, 1)),
    "1x1": case((16, 12, 12, 40), (1, 1, 40, 36)),
    "1x1, strides": case((16, 15, 15, 64), (1, 1, 64, 48), (2, 2)),
    "large images": case((2, 96, 96, 3), (3, 3, 3, 20)),  # a chunk is one image
    "groups": case((16, 12, 12, 24), (3, 3, 8, 36), feature_group_count=3),
    "channels first": case((16, 24, 12, 12), (20, 24, 3, 3), dimension_numbers=("NCHW", "OIHW", "NCHW")),
    "one dimension": case((16, 200, 24), (5, 24, 20), (1,), dimension_numbers=("NWC", "WIO", "NWC")),
    "three dimensions": case(
        (4, 8, 8, 8, 6), (3, 3, 3, 6, 18), (1, 1, 1), dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    ),
}


def drawn(*shapes, dtype=np.float32):
    generator = np.random.default_rng(0)
    return [generator.normal(size=shape).astype(np.float32).astype(dtype) for shape in shapes]


def everything(convolve, x, kernel, dx, dkernel):
    """Value, both gradients, the derivative forwards, and the derivative of a gradient."""

    def loss(x, kernel):
        y = convolve(x, kernel)
        return (y * jnp.sin(y)).sum()

    gradient = jax.grad(loss, (0, 1))
    return (
        convolve(x, kernel),
        gradient(x, kernel),
        jax.jvp(convolve, (x, kernel), (dx, dkernel))[1],
        jax.jvp(gradient, (x, kernel), (dx, dkernel))[1],
        jax.grad(lambda x, kernel: sum((part**2).sum() for part in gradient(x, kernel)), (0, 1))(x, kernel),
    )


def error(values, expected):
    """The largest error of each array, relative to its largest number: single ones may cancel."""

    def largest(a, b):
        assert a.shape == b.shape
        b = np.asarray(b, np.float64)
        return np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()

    return np.array(jax.tree.leaves(jax.tree.map(largest, values, expected)))


def assert_close(values, expected, tolerance):
    assert error(values, expected).max() < tolerance


@pytest.mark.parametrize("name", CASES)
def test_all_derivatives_are_those_of_float64(name):
    x, kernel, options = CASES[name]
    arrays = drawn(x, kernel, x, kernel)
    values, single = (
        jax.jit(partial(everything, partial(convolve, **options)))(*arrays)
        for convolve in (conv_general_dilated, lax.conv_general_dilated)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(values)} == {np.dtype(np.float32)}
    with jax.enable_x64(True):
        wide = [array.astype(np.float64) for array in arrays]
        expected = jax.jit(partial(everything, partial(lax.conv_general_dilated, **options)))(*wide)
    # What rounding may do is what it does to JAX's own convolution in float32.
    assert (error(values, expected) <= 4 * error(single, expected) + 1e-6).all()


def kernel_gradient(convolve, x, kernel):
    return jax.grad(lambda kernel: (convolve(x, kernel).astype(jnp.float32) ** 2).sum())(kernel)


same = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": NHWC}
ours, jax_own = (partial(convolve, **same) for convolve in (conv_general_dilated, lax.conv_general_dilated))


def test_kernel_gradients_are_loops_of_one_dimensional_convolutions():
    # Guards the speed: unrolled, chunks take as long to compile as they save; in two dimensions XLA gives them to
    # YNNPACK; a convolution in another order of dimensions is 16 to 50 times slower in a loop.
    x, kernel = drawn((32, 16, 16, 16), (3, 3, 16, 16))
    program = jax.jit(partial(kernel_gradient, ours)).lower(x, kernel).as_text()
    loop = program[program.index("stablehlo.while") :]
    assert "dim_numbers = [b, 0, f]x[0, i, o]->[b, 0, f]" in loop
    assert "[b, 0, 1, f]" not in loop
    assert "stablehlo.while" not in jax.jit(partial(kernel_gradient, jax_own)).lower(x, kernel).as_text()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_programs_for_other_platforms_are_those_of_jax(platform):
    x, kernel = drawn((32, 16, 16, 16), (3, 3, 16, 20))

    def program(convolve):
        traced = jax.jit(lambda x, kernel: kernel_gradient(convolve, x, kernel)).trace(x, kernel)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    assert program(ours) == program(jax_own)


def test_small_convolutions_stay_as_they_are():
    x, kernel = drawn((4, 8, 8, 8), (3, 3, 8, 20))
    programs = [jax.jit(partial(kernel_gradient, each)).lower(x, kernel).as_text() for each in (ours, jax_own)]
    assert programs[0].count("convolution") == programs[1].count("convolution")
    assert "stablehlo.while" not in programs[0]


@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0)])
def test_vmap_over_images_and_over_kernels(mapped):
    x, kernel = drawn((3, 8, 16, 16, 8), (3, 3, 3, 8, 20))
    x, kernel = (array if axis == 0 else array[0] for array, axis in zip((x, kernel), mapped, strict=True))
    results = [jax.jit(jax.vmap(partial(kernel_gradient, each), mapped))(x, kernel) for each in (ours, jax_own)]
    assert_close(*results, 1e-5)


def test_half_precision_is_summed_in_float32():
    # 8,192 ones: a sum in bfloat16 would end at 256.
    x, kernel = jnp.ones((32, 16, 16, 16), jnp.bfloat16), jnp.zeros((1, 3, 16, 16), jnp.bfloat16)
    gradient = jax.jit(jax.grad(lambda kernel: ours(x, kernel).astype(jnp.float32).sum()))(kernel)
    assert gradient.dtype == jnp.bfloat16
    assert float(gradient[0, 1, 0, 0]) == 32 * 16 * 16


def test_an_output_type_of_its_own():
    x, kernel = (jnp.asarray(array, jnp.bfloat16) for array in drawn((16, 16, 16, 16), (3, 3, 16, 20)))
    wide = [convolve(x, kernel, preferred_element_type=jnp.float32) for convolve in (ours, jax_own)]
    assert [y.dtype for y in wide] == [jnp.float32] * 2
    assert_close(*wide, 1e-5)


@pytest.mark.parametrize("check", [True, False])
def test_sharded_images_in_shard_map(check):
    x, kernel = drawn((32, 16, 16, 8), (3, 3, 8, 20))
    mesh = jax.make_mesh((4,), ("batch",))
    over_batch, everywhere = PartitionSpec("batch"), PartitionSpec()

    def gradient(x, kernel):
        kernel = lax.pcast(kernel, "batch", to="varying") if check else kernel
        return lax.psum(kernel_gradient(ours, x, kernel), "batch")

    mapped = jax.shard_map(
        gradient, mesh=mesh, in_specs=(over_batch, everywhere), out_specs=everywhere, check_vma=check
    )
    placed = [
        jax.device_put(array, NamedSharding(mesh, spec)) for array, spec in ((x, over_batch), (kernel, everywhere))
    ]
    assert_close(jax.jit(mapped)(*placed), kernel_gradient(jax_own, x, kernel), 1e-5)


def test_outside_of_jit_and_on_arrays_of_numpy():
    x, kernel = drawn((8, 16, 16, 8), (3, 3, 8, 20))
    assert_close(ours(x, kernel), jax_own(x, kernel), 1e-5)


def primitives(function, *args):
    """The primitives of all convolutions, also of those in programs within the program."""
    found = []

    def walk(value):
        for equation in getattr(getattr(value, "jaxpr", value), "eqns", ()):
            if equation.primitive.name == "conv_general_dilated":
                found.append(equation.primitive)
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
                walk(inner)

    walk(jax.make_jaxpr(function)(*args))
    return found


def test_every_convolution_of_a_program_is_replaced_and_put_back():
    x, kernel = drawn((8, 16, 16, 8), (3, 3, 8, 8))

    def network(x, kernel):
        y, _ = lax.scan(lambda y, _: (jax.checkpoint(jax_own)(y, kernel), None), x, length=2)
        y = jax.jit(jax_own)(nn.relu(y), kernel)
        return lax.cond(y.sum() > 0, jax_own, lambda y, _: y, y, kernel).sum()

    def step(x, kernel):
        return {"loss": network(x, kernel), "gradient": jax.grad(network, 1)(x, kernel)}

    replaced = cpu_convolutions(step)
    counts = [len(primitives(function, x, kernel)) for function in (step, replaced, xla_convolutions(replaced))]
    assert len(set(counts)) == 1
    assert counts[0] >= 8
    assert lax.conv_general_dilated_p not in primitives(replaced, x, kernel)
    assert set(primitives(xla_convolutions(replaced), x, kernel)) == {lax.conv_general_dilated_p}
    expected = jax.jit(step)(x, kernel)
    assert_close(jax.jit(replaced)(x, kernel), expected, 1e-4)
    # Differentiated afterwards.
    late = jax.jit(jax.grad(cpu_convolutions(network), 1))
    assert_close(late(x, kernel), expected["gradient"], 1e-4)
    assert lax.conv_general_dilated_p not in primitives(late, x, kernel)


def test_layers_of_flax_take_it():
    x = jnp.asarray(drawn((8, 16, 16, 8))[0])
    layer = nn.Conv(20, (3, 3), conv_general_dilated=conv_general_dilated)
    variables = layer.init(jax.random.key(0), x)
    assert_close(layer.apply(variables, x), nn.Conv(20, (3, 3)).apply(variables, x), 1e-5)
    nnx_layer = nnx.Conv(8, 20, (3, 3), conv_general_dilated=conv_general_dilated, rngs=nnx.Rngs(0))
    expected = nnx.Conv(8, 20, (3, 3), rngs=nnx.Rngs(0))(x)
    assert_close(nnx_layer(x), expected, 1e-5)


def test_mistakes_are_reported_by_jax():
    with pytest.raises(ValueError, match="feature dimension"):
        conv_general_dilated(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 4, 2)), **same)
