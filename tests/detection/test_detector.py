"""A detector on the backbone of a run: what it starts from, that it learns, resumes, and says what does not fit."""

import io
import json
import re

import chex
import jax
import numpy as np
import pytest
from rich.console import Console
from run_cases import PowerCutError, run_config

from normjax import cli
from normjax.detection import train as detection
from normjax.detection.config import DetectionConfig, SceneConfig
from normjax.detection.train import train_detector
from normjax.errors import UserError
from normjax.training.evaluate import restore_network
from normjax.training.loop import train

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("without_pictures")

SCENES = SceneConfig(digits="digits", image_size=32, train_examples=32, test_examples=8)


def config(**changes):
    return DetectionConfig(**{"epochs": 3, "features": 8, "batch_size": 16, "data": SCENES, **changes})


@pytest.fixture(scope="module", params=["batch_norm", "reference_batch_norm"])
def backbone(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "run"
    # Drawn by the fixture below for tests only: pictures of a run of a few steps are quick enough.
    small = {"name": "convnet", "widths": (8, 8), "dense": ()}
    train(run_config(model=small, norm={"name": request.param}, epochs=1, schedule={"warmup_epochs": 0}), path)
    return path


def test_the_backbone_is_the_one_of_the_run(backbone, monkeypatch, tmp_path):
    begun = {}

    def no_training(_, state, *__):
        begun["params"] = state.params
        return state

    monkeypatch.setattr(detection, "_train", no_training)
    done = train_detector(config(), backbone, tmp_path / "detector", data_dir=None)
    _, trained, _ = restore_network(backbone)
    kept = {name: trained["params"][name] for name in begun["params"]["backbone"]}
    chex.assert_trees_all_equal(begun["params"]["backbone"], kept)
    assert set(kept) == {f"{what}{stage}_{i}" for what in ("conv", "norm") for stage in (0, 1) for i in (0, 1)}
    assert done.summary["test"]["examples"] == 8


@pytest.mark.slow
def test_a_training_cut_short_ends_as_if_it_had_not(backbone, monkeypatch, tmp_path):
    straight = train_detector(config(), backbone, tmp_path / "straight", data_dir=None)
    batches = detection.detection_batches

    def cut(*arguments, **options):
        for number, batch in enumerate(batches(*arguments, **options), options["start"] + 1):
            if number == 4:
                raise PowerCutError
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(detection, "detection_batches", cut)
        with pytest.raises(PowerCutError):
            train_detector(config(), backbone, tmp_path / "run", data_dir=None)
    again = train_detector(config(), backbone, tmp_path / "run", data_dir=None)
    chex.assert_trees_all_equal(again.found, straight.found)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test"] == straight.summary["test"]
    assert (tmp_path / "run" / "detections.png").stat().st_size > 5_000


@pytest.mark.slow
def test_the_losses_fall(backbone, tmp_path):
    told = io.StringIO()
    train_detector(config(epochs=24), backbone, tmp_path / "run", data_dir=None, console=Console(file=told, width=200))
    classes = [float(value) for value in re.findall(r"class (\d+\.\d+)", told.getvalue())]
    boxes = [float(value) for value in re.findall(r"box (\d+\.\d+)", told.getvalue())]
    assert len(classes) == len(boxes) == 24
    assert classes[-1] < 0.8 * classes[0]
    assert boxes[-1] < 0.8 * boxes[0]


@pytest.mark.slow
def test_another_training_in_the_same_directory_is_refused(backbone, tmp_path):
    train_detector(config(epochs=1), backbone, tmp_path / "run", data_dir=None)
    with pytest.raises(UserError, match="holds the training of another detector; give a new --workdir"):
        train_detector(config(), backbone, tmp_path / "run", data_dir=None)
    # The same directory, but the network in it is another one: what was fine-tuned does not belong to it.
    remembered = json.loads((tmp_path / "run" / "backbone.json").read_text())
    (tmp_path / "run" / "backbone.json").write_text(json.dumps({**remembered, "digest": "another"}))
    with pytest.raises(UserError, match="holds the training of another detector; give a new --workdir"):
        train_detector(config(epochs=1), backbone, tmp_path / "run", data_dir=None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear all")
    with pytest.raises(UserError, match=r"holds letter.txt; give a new --workdir"):
        train_detector(config(), backbone, tmp_path / "other", data_dir=None)


def test_a_mistake_leaves_no_trace(backbone, tmp_path):
    with pytest.raises(UserError, match="is no run directory"):
        train_detector(config(), tmp_path / "nothing", tmp_path / "run", data_dir=None)
    with pytest.raises(UserError, match="cannot be divided among 8 devices"):
        train_detector(config(batch_size=12), backbone, tmp_path / "run", data_dir=None)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_devices_cannot_share_is_refused(backbone, tmp_path):
    assert len(jax.devices()) == 8
    with pytest.raises(UserError, match="batch_size=12 cannot be divided among 8 devices"):
        train_detector(config(batch_size=12), backbone, tmp_path / "run", data_dir=None)


def test_another_network_is_refused(straight_run, tmp_path):
    with pytest.raises(UserError, match="trained mlp of 2 stages; a detector takes a convnet"):
        train_detector(config(), straight_run.path, tmp_path / "run", data_dir=None)


def test_the_command_trains_and_tells(backbone, tmp_path, capsys):
    options = ["--epochs", "1", "--features", "8", "--data.digits", "digits", "--data.image-size", "32"]
    options += ["--data.train-examples", "16", "--data.test-examples", "8", "--workdir", str(tmp_path / "detector")]
    cli.main(["detect", str(backbone), *options])
    told = capsys.readouterr().out
    assert "box AP, IoU 0.50 to 0.95" in told
    assert "mask AP, IoU 0.50" in told
    summary = json.loads((tmp_path / "detector" / "summary.json").read_text())
    assert np.isfinite(summary["test"]["box_ap"])


def test_sizes_that_do_not_fit_are_refused(capsys):
    with pytest.raises(SystemExit):
        cli.main(["detect", "runs/none", "--data.image-size", "33"])
    assert "image_size=33 is no multiple of 8" in capsys.readouterr().err
