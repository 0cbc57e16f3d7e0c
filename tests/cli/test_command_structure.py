"""``normjax structure`` tells of each layer what its kernel looks like, and draws it."""

import json

import numpy as np
import pytest
from cli_cases import contents
from PIL import Image

from normjax.training import loop
from normjax.training.config import TrainConfig, load_config
from normjax.training.evaluate import restore_network

pytest_plugins = ["cli_fixtures"]


def test_a_plain_run_has_no_zeros(command, finished, tmp_path):
    before = contents(finished)
    picture = tmp_path / "structure.png"
    code, out, err = command("structure", finished, "--output", picture, "--json")
    assert (code, err) == (0, "")
    assert contents(finished) == before
    told = json.loads(out)
    assert [layer["name"] for layer in told["layers"]] == ["dense0", "dense1", "head"]
    assert told["sparsity"] == 0
    assert all(layer["neuron_scales"] is None for layer in told["layers"])
    assert np.asarray(Image.open(picture)).std() > 5


@pytest.mark.parametrize("measure", ["sparsity", "neuron"])
def test_the_numbers_are_those_of_the_network(command, finished, tmp_path, measure):
    strength = {"sparsity": 2.0, "neuron": 1.0}[measure]
    config = load_config(finished / "config.json").model_copy(update={"epochs": 2.0}).model_dump()
    config["weight_norm"] = {"name": "structural", "options": {"measure": measure, "strength": strength}}
    loop.train(TrainConfig.model_validate(config), tmp_path / "run")
    code, out, err = command("structure", tmp_path / "run")
    assert (code, err) == (0, "")
    assert (tmp_path / "run" / "structure.png").is_file()
    assert ("neuron scales" in out) == (measure == "neuron")
    told = json.loads(command("structure", tmp_path / "run", "--json").out)
    hidden = [layer for layer in told["layers"] if layer["name"] != "head"]
    if measure == "sparsity":
        assert all(layer["sparsity"] > 0.1 for layer in hidden)
        weights = [np.prod(layer["shape"]) for layer in told["layers"]]
        mean = np.average([layer["sparsity"] for layer in told["layers"]], weights=weights)
        assert told["sparsity"] == pytest.approx(mean)
    else:
        params = restore_network(tmp_path / "run")[1]["params"]
        for layer in hidden:
            scales = np.array(layer["neuron_scales"])
            assert len(scales) == params[layer["name"]]["kernel"].shape[0]
            assert np.square(scales).mean() == pytest.approx(1, rel=1e-3)


def test_a_picture_that_cannot_be_written(refused, finished, tmp_path):
    file = tmp_path / "nosuch" / "x.png"
    assert refused("structure", finished, "--output", file) == f"{file} cannot be written: No such file or directory."
