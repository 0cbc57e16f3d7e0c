"""A network outside its run: four files that predict as the run does, refused where they are not what was written."""

import hashlib
import json
import re

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits

from normjax.errors import UserError
from normjax.training.evaluate import restore_network
from normjax.training.exported import FILES, SUMS, WEIGHTS, write_exported
from normjax.training.fold import fold_run
from normjax.training.predict import predict_run

pytest_plugins = ["training_fixtures"]


@pytest.fixture
def exported(straight_run, tmp_path):
    session, variables, step = restore_network(straight_run.path)
    write_exported(session, variables, step, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def pictures(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(5)]
    for file, pixels in zip(files, load_digits().images, strict=False):
        Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8)).save(file)
    return files


def test_it_predicts_the_same_bits_without_the_run(straight_run, exported, pictures):
    assert {file.name for file in exported.iterdir()} == set(FILES)
    assert predict_run(exported, pictures, top=10) == predict_run(straight_run.path, pictures, top=10)


def test_sums_are_those_that_sha256sum_checks(exported):
    for line in (exported / SUMS).read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == digest


def test_it_is_folded_as_the_run_is(exported, tmp_path):
    told = fold_run(exported, output=tmp_path / "folded.stablehlo")
    assert told["folded"] == ["norm0", "norm1"]
    # Folding leaves out the four vectors of each norm and adds a bias.
    assert told["weight_bytes_after"] < told["weight_bytes_before"]


@pytest.mark.parametrize("name", [name for name in FILES if name != SUMS])
def test_a_changed_byte_is_refused(exported, pictures, name):
    data = bytearray((exported / name).read_bytes())
    data[len(data) // 2] ^= 1
    (exported / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{re.escape(name)} is not what was exported"):
        predict_run(exported, pictures)


def test_weights_of_another_network_are_refused(exported, pictures):
    arrays = load_file(exported / WEIGHTS)
    arrays["params/dense0/kernel"] = np.zeros((64, 3), np.float32)
    save_file(arrays, exported / WEIGHTS, metadata={"format": "normjax", "step": "21"})
    lines = [line.split("  ") for line in (exported / SUMS).read_text().splitlines()]
    new = hashlib.sha256((exported / WEIGHTS).read_bytes()).hexdigest()
    (exported / SUMS).write_text("".join(f"{new if name == WEIGHTS else old}  {name}\n" for old, name in lines))
    with pytest.raises(UserError, match=r"params/dense0/kernel is \(64, 3\), and should be \(64, 8\)"):
        predict_run(exported, pictures)


def test_another_checkpoint_is_not_in_it(exported, pictures):
    with pytest.raises(UserError, match=r"checkpoint='7' is not in .*, which holds step \d+ alone"):
        predict_run(exported, pictures, checkpoint="7")
    assert json.loads((exported / "config.json").read_text())["model"]["widths"] == [8, 6]
