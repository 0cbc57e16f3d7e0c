"""Mistakes in the words of the command: one line with option, value and what is allowed, exit code 2, no trace."""

import io
import sys

import pytest

pytest_plugins = ["cli_fixtures"]

OUT_OF_RANGE = [
    ("--epochs 0", "epochs=0.0: Input should be greater than 0"),
    ("--seed -1", "seed=-1: Input should be greater than or equal to 0"),
    ("--batch-size 0", "batch_size=0: Input should be greater than or equal to 1"),
    ("--micro-batches 3", "micro_batches=3 does not divide batch_size=64"),
    ("--label-smoothing 1", "label_smoothing=1.0: Input should be less than 1"),
    ("--ema-decay 1", "ema_decay=1.0: Input should be less than 1"),
    ("--max-skipped-steps 0", "max_skipped_steps=0: Input should be greater than or equal to 1"),
    ("--data.validation 0.9", "data.validation=0.9: Input should be less than or equal to 0.5"),
    ("--data.padding 65", "data.padding=65: Input should be less than or equal to 64"),
    ("--data.image-size 0", "data.image_size=0: Input should be greater than or equal to 1"),
    ("--data.std 0.2 0", "data.std.1=0.0: Input should be greater than 0"),
    ("--data.mean nan", "data.mean.0=nan: Input should be a finite number"),
    ("--data.name=", "data.name='': String should have at least 1 character"),
    ("--model.num-classes 1", "model.num_classes=1: Input should be greater than or equal to 2"),
    ("--model.widths 8 0", "model.widths.1=0: Input should be greater than or equal to 1"),
    ("--model.dense 0", "model.dense.0=0: Input should be greater than or equal to 1"),
    ("--norm.momentum 1", "norm.momentum=1.0: Input should be less than 1"),
    ("--optimizer.learning-rate 0", "optimizer.learning_rate=0.0: Input should be greater than 0"),
    ("--optimizer.learning-rate inf", "optimizer.learning_rate=inf: Input should be a finite number"),
    ("--optimizer.momentum 1", "optimizer.momentum=1.0: Input should be less than 1"),
    ("--optimizer.b2 1", "optimizer.b2=1.0: Input should be less than 1"),
    ("--optimizer.weight-decay -1", "optimizer.weight_decay=-1.0: Input should be greater than or equal to 0"),
    ("--schedule.warmup-epochs 30", "schedule.warmup_epochs=30 must be less than epochs=30"),
    ("--schedule.milestones 0.8 0.2", "schedule.milestones=(0.8, 0.2): milestones must ascend"),
    ("--schedule.milestones 1.5", "schedule.milestones.0=1.5: Input should be less than 1"),
    ("--schedule.factor 2", "schedule.factor=2.0: Input should be less than or equal to 1"),
    ("--schedule.peak 1", "schedule.peak=1.0: Input should be less than 1"),
    ("--run.threads 0", "run.threads=0: Input should be greater than or equal to 1"),
    ("--run.keep 0", "run.keep=0: Input should be greater than or equal to 1"),
    ("--run.log-every 0", "run.log_every=0: Input should be greater than or equal to 1"),
    ("--run.checkpoint-every 0", "run.checkpoint_every=0: Input should be greater than or equal to 1"),
    ("--run.eval-batch-size 0", "run.eval_batch_size=0: Input should be greater than or equal to 1"),
]
NOT_UNDERSTOOD = [
    ("--epochs many", ["--epochs", "'many'", "float"]),
    ("--batch-size 1.5", ["--batch-size", "'1.5'", "int"]),
    ("--epochs", ["--epochs", "1 value"]),
    ("--nosuch 3", ["--nosuch"]),
    ("--optimizer.learning-rat 3", ["--optimizer.learning-rat", "perhaps you meant --optimizer.learning-rate?"]),
    ("--model.name alexnet", ["--model.name", "'alexnet'", "'resnet20'"]),
    ("--norm.name nonorm", ["--norm.name", "'nonorm'", "'batch_norm'"]),
    ("--norm.options epsilon", ["--norm.options", "pairs"]),
    ("--norm.options radius 3", ["norm 'batch_norm' has no option 'radius'", "epsilon"]),
    ("--norm.options epsilon abc", ["norm 'batch_norm': epsilon='abc' is not a number"]),
    ("--norm.options use_scale false", ["use_scale='false' is not True or False"]),  # was text, hence true
    ("--norm.options use_scale 1", ["norm 'batch_norm': use_scale='1' is not True or False"]),
    ("--weight-norm.name orthogonal --weight-norm.options iterations some", ["iterations='some' is not a number"]),
    ("--norm.name layer_norm --norm.options momentum 0.5", ["norm 'layer_norm' has no option 'momentum'", "epsilon"]),
    ("--run.parallel tpu", ["--run.parallel", "'tpu'", "'shard_map'"]),
    ("--config", ["--config", "file"]),
    ("stray", ["stray"]),
]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "message"), OUT_OF_RANGE, ids=[words for words, _ in OUT_OF_RANGE])
def test_a_value_out_of_range_is_named_with_what_is_allowed(refused, words, message):
    assert refused("train", *words.split()) == message


@pytest.mark.parametrize(("words", "parts"), NOT_UNDERSTOOD, ids=[words for words, _ in NOT_UNDERSTOOD])
def test_what_is_not_understood_is_named(refused, words, parts):
    message = refused("train", *words.split())
    assert all(part in message for part in parts)
    # The frame that tyro draws around its complaints is gone.
    assert not set("│─╭╰") & set(message)
    assert "---" not in message


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("", ["train", "evaluate", "predict"]),
        ("trian", ["trian"]),
        ("evaluate", ["evaluate", "directory of the run"]),
        ("evaluate here --split dev", ["--split", "'dev'", "'validation'"]),
        ("predict", ["predict", "directory of the run"]),
        ("predict here", ["one picture or more"]),
        ("predict here picture.png --top 0", ["top=0", "1 or more"]),
        ("predict here picture.png --top many", ["--top", "'many'", "int"]),
    ],
)
def test_other_commands_say_what_they_lack(refused, words, parts):
    message = refused(*words.split())
    assert all(part in message for part in parts)


@pytest.mark.parametrize("encoding", ["ascii", "UTF-8", "latin-1"])
def test_a_terminal_without_box_drawing_gets_the_same_line(refused, monkeypatch, encoding):
    # There tyro draws its frame with - and |; so it does where PYTHONIOENCODING spells the encoding in capitals.
    words = ["train", "--optimizer.learning-rat", "3"]
    expected = refused(*words)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert refused(*words) == expected
