"""Every file in configs/: it loads, its docstring has its own command, and what it describes can be built."""

import ast
import json
import re
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_cases import tiny_info

from normjax import cli
from normjax.detection import train as detector
from normjax.detection.config import DetectionConfig
from normjax.linen.factory import NORMS
from normjax.linen.weight_norm_factory import WEIGHT_NORMS
from normjax.training import loop, report
from normjax.training.config import NormConfig, TrainConfig, WeightNormConfig, load_config, parse_config
from normjax.training.session import build_session
from normjax.training.state import init_state

ROOT = Path(__file__).parents[2]
ALL = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").glob("*.py"))
DETECTORS = [path for path in ALL if path.name.startswith("detector")]
CONFIGS = [path for path in ALL if path not in DETECTORS]

DIGITS = tiny_info(side=8, train_examples=1295)
MNIST = tiny_info(side=28, name="mnist", train_examples=54_000)
CIFAR = tiny_info(side=32, channels=3, name="cifar10", train_examples=50_000)
IMAGENET = tiny_info(
    side=224, channels=3, name="imagenet2012", train_examples=1_281_167, classes=tuple(str(i) for i in range(1000))
)
CATS_VS_DOGS = tiny_info(side=224, channels=3, name="cats_vs_dogs", train_examples=16_750, classes=("cat", "dog"))


class Published:
    """What the papers say of network and training."""

    def __init__(self, info, parameters, epochs, batch_size):
        self.info, self.parameters, self.epochs, self.batch_size = info, parameters, epochs, batch_size


# ResNet-20 with zero-padded shortcuts: 19 convolutions, their norms, one dense layer; ResNet-50: as torchvision's.
RESNET20 = 432 + 6 * 2304 + 4608 + 5 * 9216 + 18_432 + 5 * 36_864 + 2 * (7 * 16 + 6 * 32 + 6 * 64) + 650
KNOWN = {
    "cifar10_resnet20.py": Published(CIFAR, RESNET20, 200, 128),
    "cifar10_resnet20_short.py": Published(CIFAR, RESNET20, 3, 128),
    "imagenet_resnet50.py": Published(IMAGENET, 25_557_032, 90, 1024),
}


def info_for(config):
    known = (DIGITS, MNIST, CIFAR, IMAGENET, CATS_VS_DOGS)
    return next(info for info in known if info.name == config.data.name)


@pytest.fixture(params=CONFIGS, ids=str)
def path(request):
    return request.param


def test_there_are_configs():
    assert {path.name for path in CONFIGS} >= KNOWN.keys()


def test_the_command_in_the_docstring_starts_this_config(path, monkeypatch, capsys):
    # Copied word by word into a terminal, it must reach the training with the config of this file and no other.
    text = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    (command,) = re.findall(r"^ +python train.py (.*)$", text, re.MULTILINE)
    assert "Expected:" in text
    calls = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(loop, "train", lambda config, *_, **__: calls.append(config))
    monkeypatch.setattr(report, "print_summary", lambda *_: None)
    cli.main(["train", *command.split()])
    assert capsys.readouterr().err == ""
    config = load_config(ROOT / path)
    assert isinstance(config, TrainConfig)
    assert command.split()[:2] == ["--config", path.as_posix()]
    assert calls == [config]
    # A data set that does not come with scikit-learn needs its folder said.
    assert ("--data-dir" in command) == (config.data.name != "digits")


def test_a_config_survives_json(path):
    config = load_config(ROOT / path)
    assert parse_config(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_network_state_and_steps_can_be_built(path):
    config = load_config(ROOT / path)
    info = info_for(config)
    session = build_session(config, info)
    example = jax.ShapeDtypeStruct((1, *info.image_shape), jnp.float32)
    state = jax.eval_shape(lambda x: init_state(session.model, session.optimizer, x, seed=0, ema=False), example)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((state.params, state.model_state)))
    assert state.params["head"]["bias"].shape == (len(info.classes),)
    published = KNOWN.get(path.name)
    if published:
        assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == published.parameters
        assert (config.epochs, config.batch_size) == (published.epochs, published.batch_size)
        assert session.total_steps == int(np.ceil(published.epochs * info.train_examples / published.batch_size))


@pytest.mark.parametrize("path", DETECTORS, ids=str)
def test_the_command_of_a_detector_starts_this_config(path, monkeypatch, capsys):
    text = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    (command,) = re.findall(r"^ +normjax (detect .*)$", text, re.MULTILINE)
    assert "Expected:" in text
    calls = []
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(detector, "train_detector", lambda config, *_, **__: calls.append(config) or Done())
    monkeypatch.setattr(report, "print_detection", lambda *_: None)
    cli.main(command.split())
    assert capsys.readouterr().err == ""
    assert calls == [load_config(ROOT / path, DetectionConfig)]


class Done:
    summary = None


def test_the_default_config_is_that_of_the_digits():
    assert load_config(ROOT / "configs" / "digits_convnet.py") == TrainConfig()


def test_a_config_may_name_every_norm_there_is():
    # The names are written out for the command line's help; a new layer must not be forgotten there.
    assert set(get_args(NormConfig.model_fields["name"].annotation)) == set(NORMS)


def test_a_config_may_name_every_weight_norm_there_is():
    assert set(get_args(WeightNormConfig.model_fields["name"].annotation)) == set(WEIGHT_NORMS)
