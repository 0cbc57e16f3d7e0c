"""What the command refuses when the words are right, but a file, a directory or the data are not."""

import json

import pytest
from cli_cases import TINY, contents, digit_file

from normjax.data import tfds as tfds_source
from normjax.training.run_directory import RunDirectory

pytest_plugins = ["cli_fixtures"]

CONFIGS = {
    "raises": ("1 / 0\n", "could not be run: ZeroDivisionError: division by zero"),
    "raises in two lines": ("raise ValueError('one\\ntwo')\n", "could not be run: ValueError: one"),
    "is no Python": ("config = (\n", "could not be run: SyntaxError"),
    "imports what is not there": ("import nosuchmodule\n", "could not be run: ModuleNotFoundError: No module named"),
    "has no config": ("conf = 1\n", "does not define `config = TrainConfig(...)`"),
    "has a config of another kind": ("config = {'epochs': 3}\n", "does not define `config = TrainConfig(...)`"),
    "has a value out of range": (
        "from normjax.training.config import TrainConfig\nconfig = TrainConfig(epochs=-1)\n",
        "epochs=-1: Input should be greater than 0",
    ),
}
JSON = {
    "is no JSON": ("{", "is not JSON"),
    "is no object": ("[1, 2]", "valid dictionary"),
    "has an unknown field": ('{"optimizer": {"lr": 1}}', "optimizer.lr=1: Extra inputs are not permitted"),
    "has a value out of range": ('{"run": {"keep": 0}}', "run.keep=0: Input should be greater than or equal to 1"),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_that_cannot_be_used(refused, tmp_path, what):
    text, message = CONFIGS[what]
    file = tmp_path / "experiment.py"
    file.write_text(text)
    said = refused("train", "--config", file, "--workdir", tmp_path / "run")
    assert str(file) in said
    assert message in said
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("what", JSON)
def test_a_json_config_that_cannot_be_used(refused, tmp_path, what):
    text, message = JSON[what]
    file = tmp_path / "config.json"
    file.write_text(text)
    assert message in refused("train", "--config", file, "--workdir", tmp_path / "run")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["nosuch.py", "nosuch.json", ""])
def test_a_config_that_is_no_file(refused, tmp_path, name):
    assert f"config {tmp_path / name} is not a file" in refused("train", "--config", tmp_path / name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--batch-size 100",
            "batch_size=100 cannot be divided among 8 devices x 1 micro-batches; use a multiple of 8.",
        ),
        ("--model.num-classes 9", "model.num_classes=9 does not fit digits with 10 classes; use 10 or more"),
        ("--data.name folder", "data.name='folder' needs --data-dir"),
        ("--data.name nosuchdata", "data.name='nosuchdata' is not known; use digits, folder, or a data set of TFDS"),
        ("--data.test-split dev", "digits has no split 'dev'; use train or test."),
        ("--data.mean 0.1 0.2 0.3", "data.mean has 3 values for 1 channels; give 1."),
        ("--norm.name group_norm --norm.options num_groups 7", "mlp with group_norm cannot be built"),
    ],
)
def test_a_run_that_cannot_begin_leaves_no_directory(refused, monkeypatch, tmp_path, words, message):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert message in refused("train", *TINY, *words.split(), "--workdir", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_that_is_not_there_says_how_to_get_it(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(tfds_source, "_online", lambda: False)
    data, path = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    message = refused("train", "--data.name", "cifar10", "--data-dir", data, "--workdir", path)
    assert f"data set cifar10 is not in {data}" in message
    assert "--data-dir" in message
    assert "tfds.builder('cifar10'" in message
    assert contents(data) == {}
    assert not path.exists()


def test_an_empty_directory_given_by_hand_is_no_trap(refused, monkeypatch, tmp_path):
    # The current directory cannot be removed under its own name.
    monkeypatch.chdir(tmp_path)
    assert "batch_size=100" in refused("train", "--batch-size", "100", "--workdir", ".")


def test_a_directory_of_something_else_is_left_alone(refused, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    message = refused("train", *TINY, "--workdir", tmp_path)
    assert f"{tmp_path} is no run directory: it holds thesis.tex; give a new --workdir." in message
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_path_that_cannot_be_a_directory(refused, tmp_path, name):
    (tmp_path / "file").write_text("")
    message = refused("train", *TINY, "--workdir", tmp_path / name)
    assert message.startswith(f"run directory {tmp_path / name} cannot be written to: ")


def test_a_run_in_use_is_left_to_its_trainer(refused, finished):
    owner, before = RunDirectory(finished), contents(finished)
    owner.acquire()
    try:
        message = refused("train", *TINY, "--workdir", finished)
    finally:
        owner.release()
    assert f"run directory {finished} is in use by another trainer" in message
    assert contents(finished) == before


def test_a_run_is_not_gone_on_with_under_another_config(refused, finished):
    before = contents(finished)
    message = refused("train", *TINY, "--optimizer.learning-rate", "0.3", "--seed", "4", "--workdir", finished)
    assert "optimizer.learning_rate: 0.1 -> 0.3" in message
    assert "seed: 0 -> 4" in message
    assert "--workdir" in message
    assert contents(finished) == before


@pytest.mark.parametrize("subcommand", ["evaluate", "predict", "fold", "structure"])
def test_a_directory_without_a_run(refused, tmp_path, subcommand):
    picture = [digit_file(tmp_path / "digit.png")] if subcommand == "predict" else []
    for path in (tmp_path, tmp_path / "nosuch"):
        assert refused(subcommand, path, *picture) == f"{path} is no run directory: config.json is missing."
    assert not (tmp_path / "nosuch").exists()


def test_a_run_without_a_checkpoint(refused, finished, tmp_path):
    for name in ("config.json", "dataset.json"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    assert refused("evaluate", tmp_path) == f"{tmp_path} has no checkpoint yet."
    (tmp_path / "checkpoints").mkdir()
    assert refused("evaluate", tmp_path) == f"{tmp_path} has no checkpoint yet."
    assert sorted(contents(tmp_path)) == ["config.json", "dataset.json"]


def test_a_checkpoint_that_is_not_there(refused, finished):
    assert "has no checkpoint 5; it has [3, 6, 9, 11, 12, 15, 18, 21]" in refused(
        "evaluate", finished, "--checkpoint", "5"
    )
    message = refused("predict", finished, "x.png", "--checkpoint", "first")
    assert "checkpoint='first' is not known; use best, last or one of [3, 6, 9" in message


def test_a_split_that_the_run_has_not(refused, finished, tmp_path):
    for name in ("config.json", "dataset.json"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["data"]["validation"] = 0
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "checkpoints").symlink_to(finished / "checkpoints")
    message = refused("evaluate", tmp_path, "--split", "validation")
    assert message == f"{tmp_path} has no validation split (data.validation=0); use train or test."


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"cut"])
def test_one_bad_picture_is_named_and_nothing_is_predicted(refused, finished, tmp_path, content):
    good, bad = digit_file(tmp_path / "good.png"), tmp_path / "bad.png"
    if content is not None:
        bad.write_bytes(good.read_bytes()[:-30] if content == b"cut" else content)
    assert str(bad) in refused("predict", finished, good, bad)
