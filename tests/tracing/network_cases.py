"""Networks that were not written to be pruned, and what is compared on them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax_models.models import conv_mixer, mlp_mixer
from jax_resnet import ResNet18

import normjax
from normjax.models import build_model
from normjax.tracing import leaf_paths

IMAGES = (2, 32, 32, 3)


def draw(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def ours(name, norm="batch_norm", **options):
    forms = {
        "mlp": {"widths": (32, 24)},
        "convnet": {"widths": (8, 8, 16)},
        "vgg16": {"widths": (4, 4, 6, 6, 8), "dense": (16, 12)},
        "resnet20": {"widths": (8, 16, 32)},
        "resnet50": {"widths": (8, 8, 16, 16)},
    }
    return build_model(name, num_classes=10, norm=normjax.make_norm(norm, **options), **forms[name])


class Inception(nn.Module):
    """Branches that are joined, a depthwise and a grouped convolution, squeeze and excite, parts that go apart."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(16, (3, 3))(x)))
        a = nn.relu(nn.Conv(8, (1, 1))(x))
        b = nn.relu(nn.Conv(12, (3, 3))(nn.relu(nn.Conv(6, (1, 1), name="narrow")(x))))
        c = nn.Conv(4, (1, 1))(nn.avg_pool(x, (3, 3), padding="SAME"))
        y = nn.relu(nn.Conv(24, (3, 3), feature_group_count=24)(jnp.concatenate([a, b, c], -1)))
        gate = nn.sigmoid(nn.Dense(24)(nn.relu(nn.Dense(6, name="excite")(y.mean((1, 2))))))
        y = nn.GroupNorm(4)(nn.Conv(32, (3, 3), feature_group_count=4)(y * gate[:, None, None, :]))
        y = nn.ConvTranspose(10, (2, 2), (2, 2))(nn.Dropout(0.3, deterministic=not train)(nn.gelu(y)))
        left, right = jnp.split(y, [4], -1)
        mixed = jnp.einsum("bi,ij->bj", left.mean((1, 2)), self.param("mix", nn.initializers.normal(), (4, 12)))
        return nn.Dense(5)(nn.silu(mixed + nn.Dense(12)(right.mean((1, 2)))))


class DenseNet(nn.Module):
    """Each layer adds its features to all before; pre-activation."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3))(x)
        for _ in range(3):
            x = jnp.concatenate([x, nn.Conv(4, (3, 3))(nn.relu(nn.BatchNorm(use_running_average=True)(x)))], -1)
        return nn.Dense(3)(x.mean((1, 2)))


class _Residual(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        hidden = nn.relu(nn.Dense(32)(nn.relu(nn.BatchNorm(use_running_average=True)(x))))
        return x + nn.Dense(16)(hidden), None


class Scanned(nn.Module):
    """One program for all layers, whose activations are computed again for the gradient."""

    @nn.compact
    def __call__(self, x):
        options = {"variable_axes": {"params": 0, "batch_stats": 0}, "split_rngs": {"params": True}, "length": 3}
        x, _ = nn.scan(nn.remat(_Residual), **options)()(nn.Dense(16)(x), None)
        return nn.Dense(3)(x)


class Attention(nn.Module):
    """A transformer block with positions that are learnt."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(16)(x) + self.param("positions", nn.initializers.normal(), (1, 6, 16))
        x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
        x = x + nn.Dense(16)(nn.gelu(nn.Dense(64, name="hidden")(nn.LayerNorm()(x))))
        return nn.Dense(3)(x.mean(1))


class Setup(nn.Module):
    """Layers of ``setup``, nested, one of them used twice."""

    def setup(self):
        self.shared = nn.Dense(12)
        self.blocks = [nn.Sequential([nn.Dense(20), nn.relu, nn.Dense(12)]) for _ in range(2)]
        self.last = nn.Dense(4)

    def __call__(self, x):
        x = self.shared(x)
        for block in self.blocks:
            x = block(nn.relu(x))
        return self.last(self.shared(x))


class Recurrent(nn.Module):
    """A gated recurrent layer."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(nn.GRUCell(16))(x)[:, -1])


def networks():
    """By name: the network, its input, options at inference, and how many groups and neurons it has."""
    sequence, flat = draw(2, 6, 7), draw(2, 12)
    norm = partial(nn.BatchNorm, momentum=0.9)
    theirs = {"n_classes": 10, "hidden_sizes": (8, 8, 16, 16), "norm_cls": norm}
    at_inference = {"train": False}
    wrapped = nn.Sequential([nn.WeightNorm(nn.Dense(16)), nn.relu, nn.WeightNorm(nn.Dense(9)), nn.relu, nn.Dense(3)])
    return {
        "mlp": (ours("mlp"), draw(*IMAGES), at_inference, 2, 56),
        "convnet": (ours("convnet"), draw(*IMAGES), at_inference, 8, 576),
        # Stages of 8, 16 and 32 channels share theirs by shortcuts padded with zeros: 32 in all, then 9 inside blocks.
        "resnet20": (ours("resnet20"), draw(*IMAGES), at_inference, 12, 32 + 3 * (8 + 16 + 32)),
        "resnet50": (ours("resnet50"), draw(*IMAGES), at_inference, 37, None),
        # Thirteen convolutions and two hidden dense layers.
        "vgg16": (ours("vgg16", "none"), draw(*IMAGES), at_inference, 15, 2 * 4 + 2 * 4 + 3 * 6 + 3 * 6 + 3 * 8 + 28),
        "group norm": (ours("convnet", "group_norm", num_groups=4), draw(*IMAGES), at_inference, 8, 32),
        "layer norm": (ours("resnet20", "layer_norm"), draw(*IMAGES), at_inference, 12, 200),
        "rms norm": (ours("mlp", "rms_norm"), draw(*IMAGES), at_inference, 2, 56),
        "inception": (Inception(), draw(*IMAGES), {}, 10, None),
        "densenet": (DenseNet(), draw(*IMAGES), {}, 4, 20),
        "scanned": (Scanned(), flat, {}, 2, 48),
        "attention": (Attention(), sequence, {}, 5, 16 + 4 + 4 + 4 + 64),
        # What the shared layer reads is fixed by its first call, so the last block keeps its outputs.
        "setup": (Setup(), flat, {}, 4, 12 + 20 + 12 + 20),
        "recurrent": (Recurrent(), sequence, {}, 1, 16),
        "weight norm": (wrapped, flat, {}, 2, 25),
        "ResNet-18": (ResNet18(**theirs), draw(*IMAGES), {}, 13, None),
        "ConvMixer": (
            conv_mixer.ConvMixer(16, num_mixer_layers=2, num_classes=5),
            draw(*IMAGES),
            {"deterministic": True},
            3,
            48,
        ),
        # Features that are mixed over positions and over channels; the streams between end in a mean and stay whole.
        "MLP-Mixer": (
            mlp_mixer.MLPMixer(8, 2, hidden_size=12, channels_dim=64, tokens_dim=24, attach_head=True, num_classes=5),
            draw(*IMAGES),
            {"deterministic": True},
            4,
            2 * (24 + 64),
        ),
    }


def initialised(model, x, **options):
    """Variables of which no two neurons are alike: statistics, scales and biases drawn as well."""
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.jit(lambda x: model.init(keys, x, **options))(x)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(0.3 * rng.random(leaf.shape), leaf.dtype), variables)


def some_left(neurons, seed=0):
    """Some three in five neurons of each group."""
    rng = np.random.default_rng(seed)
    return {g.name: np.sort(rng.choice(g.size, -(-3 * g.size // 5), replace=False)) for g in neurons.groups}


def masked(neurons, left, variables):
    """The variables with zeros for the parameters of what has gone, computed here in numpy."""
    paths, alive = leaf_paths(variables), neurons.alive(left)
    leaves = []
    for path, leaf in paths.items():
        array = np.array(leaf)
        for axis in range(array.ndim):
            if path[0] == "params" and (path, axis) in alive:
                array[(slice(None),) * axis + (~alive[path, axis],)] = 0
        leaves.append(jnp.asarray(array))
    return jax.tree.unflatten(jax.tree.structure(variables), leaves)
