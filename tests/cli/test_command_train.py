"""What reaches the training from a config and from the options on top of it."""

import json
import signal

import jax
import numpy as np
import pytest
from cli_cases import TINY

from normjax.training import loop, report
from normjax.training.config import TrainConfig
from normjax.training.evaluate import restore_run

pytest_plugins = ["cli_fixtures"]


@pytest.fixture
def started(monkeypatch, command):
    """Calls ``normjax train`` up to the training itself: config, directory and data folder it would get."""
    calls = []

    def note(config, path, *, data_dir, console, stop):
        del console, stop
        calls.append((config, path, data_dir))

    monkeypatch.setattr(loop, "train", note)
    monkeypatch.setattr(report, "print_summary", lambda *_: None)

    def call(*arguments):
        assert command("train", *arguments) == (0, "", "")
        return calls[-1]

    return call


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(
        "from normjax.training.config import OptimizerConfig, TrainConfig\n"
        "config = TrainConfig(epochs=7, optimizer=OptimizerConfig(name='adamw', learning_rate=0.02))\n"
    )
    return path


def test_without_options_the_defaults_train(started):
    config, path, _ = started()
    assert config == TrainConfig()
    assert path.parts[0] == "runs"
    assert path.name.endswith("-digits")


def test_options_go_on_top_of_a_config(started, config_file):
    config, _, _ = started("--config", config_file, "--optimizer.weight-decay", "0.3", "--seed", "5")
    expected = {"epochs": 7, "seed": 5, "optimizer": {"name": "adamw", "learning_rate": 0.02, "weight_decay": 0.3}}
    assert config == TrainConfig.model_validate(expected)


def test_the_order_of_config_and_options_does_not_matter(started, config_file):
    first = started(f"--config={config_file}", "--model.widths", "4", "8")[0]
    assert first == started("--model.widths", "4", "8", "--config", config_file)[0]
    assert (first.epochs, first.model.widths) == (7, (4, 8))


def test_an_option_of_a_norm_may_be_none(started):
    words = "--norm.name decorrelated_layer_norm --norm.options group_size None mode group shrink 0.1"
    config, _, _ = started(*words.split())
    assert config.norm.options == {"group_size": None, "mode": "group", "shrink": 0.1}
    assert started("--norm.name", "layer_norm", "--norm.options", "epsilon", "1e-3")[0].norm.options == {
        "epsilon": 1e-3
    }


def test_the_json_of_a_run_is_a_config(started, config_file, tmp_path):
    first, _, _ = started("--config", config_file)
    (tmp_path / "config.json").write_text(json.dumps(first.model_dump(mode="json")))
    config, _, _ = started("--config", tmp_path / "config.json", "--epochs", "8")
    assert config == first.model_copy(update={"epochs": 8.0})


def test_every_type_of_option_is_read(started):
    words = (
        "--optimizer.no-nesterov --ema-decay 0.99 --model.widths None --data.mean 0.1 0.2 0.3 --run.parallel shard_map "
        "--norm.options epsilon 1e-3 use_scale False --schedule.milestones 0.2 0.4 0.9 --workdir here --data-dir there"
    )
    config, path, data_dir = started(*words.split())
    assert config == TrainConfig.model_validate(
        {
            "optimizer": {"nesterov": False},
            "ema_decay": 0.99,
            "model": {"widths": None},
            "data": {"mean": (0.1, 0.2, 0.3)},
            "norm": {"options": {"epsilon": 1e-3, "use_scale": False}},
            "schedule": {"milestones": (0.2, 0.4, 0.9)},
            "run": {"parallel": "shard_map"},
        }
    )
    assert (str(path), str(data_dir)) == ("here", "there")


def test_the_data_folder_may_come_from_the_environment(started, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "from-environment")
    assert str(started()[2]) == "from-environment"
    assert str(started("--data-dir", "given")[2]) == "given"


def test_new_directories_do_not_meet(started, monkeypatch, tmp_path, config_file):
    # Two runs begun in one second.
    monkeypatch.chdir(tmp_path)
    paths = []
    for _ in range(3):
        path = started("--config", config_file)[1]
        path.mkdir(parents=True)
        paths.append(path)
    assert len(set(paths)) == 3
    assert all("experiment" in path.name for path in paths)


def test_a_new_directory_is_named_after_the_data(started):
    # It said digits whatever was trained on.
    assert started("--data.name", "folder")[1].name.endswith("-folder")
    assert started("--data.name", "imagenet2012/full:1.0")[1].name.endswith("-imagenet2012-full-1.0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_and_nothing_is_lost(command, monkeypatch, tmp_path, finished, number):
    # Ctrl-C, or a scheduler that takes the machine away: 14 is no step at which a checkpoint is due.
    flush = loop._Run._flush

    def signalled(self, step, state):
        line = flush(self, step, state)
        if step == 14:
            signal.raise_signal(number)
        return line

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_flush", signalled)
        code, out, _ = command("train", *TINY, "--workdir", tmp_path / "run")
    assert code == 0
    assert f"stopped after step 14 of 21, which is saved in {tmp_path / 'run'}" in out
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    code, out, err = command("train", *TINY, "--workdir", tmp_path / "run")
    assert (code, err) == (0, "")
    assert "going on from step 14 of 21" in out
    (_, this, _), (_, other, _) = restore_run(tmp_path / "run", "last"), restore_run(finished, "last")
    jax.tree.map(np.testing.assert_array_equal, this, other)


def test_a_signal_before_the_first_step_leaves_nothing_to_save(command, monkeypatch, tmp_path):
    announce = loop._Run._announce

    def signalled(self, start):
        announce(self, start)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop._Run, "_announce", signalled)
    code, out, _ = command("train", *TINY, "--workdir", tmp_path / "run")
    assert code == 0
    assert "stopped after step 0 of 21, before anything was to be saved" in out
    # A second time, where there is something, nothing is saved anew.
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
