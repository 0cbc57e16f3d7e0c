"""A run that ends early says why in one line and keeps what it had."""

import errno
import json
import os

import pytest
from run_cases import (
    STEPS,
    PowerCutError,
    assert_same_bits,
    contents,
    failing_saves,
    metrics_of,
    poison,
    run_config,
    state_of,
    stop_after,
)

from normjax.errors import UserError
from normjax.training import checkpoint, loop, manifest, run_directory
from normjax.training.loop import train
from normjax.training.plots import plot_curves

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("without_pictures")


def test_images_that_become_nan_end_the_run_and_cost_nothing(monkeypatch, tmp_path):
    path, sound, config = tmp_path / "run", tmp_path / "sound", run_config(max_skipped_steps=3)
    with monkeypatch.context() as patch:
        poison(patch, range(13, 100))
        # Checkpoint 15 is due when the third bad step is known: it must not push out a good one.
        with pytest.raises(
            UserError, match=r"^step 15: 3 steps in a row were not finite .*first of them step 13"
        ) as error:
            train(config, path)
    assert "the last checkpoint is step 12." in str(error.value)
    assert "the first value that is not finite is the images of the batch;" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (path / "summary.json").exists()
    last = metrics_of(path)[-1]
    assert (last["step"], last["skipped"], last["loss"], last["gradient_norm"]) == (15, 1, None, None)

    poison(monkeypatch, range(0))
    train(config, sound)
    assert_same_bits(state_of(path), state_of(sound, "12"))
    # With sound images the run goes on to where it would have come.
    train(config, path)
    assert (path / "metrics.jsonl").read_text() == (sound / "metrics.jsonl").read_text()
    assert_same_bits(state_of(path), state_of(sound))


def test_fewer_bad_steps_than_allowed_are_only_counted(monkeypatch, tmp_path):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        poison(patch, range(5, 7))
        summary = train(run_config(max_skipped_steps=3), path)
    assert summary["skipped_steps"] == 2
    lines = {line["step"]: line for line in metrics_of(path, "train")}
    assert {step: line["skipped"] for step, line in lines.items() if line["skipped"]} == {6: 2}
    assert lines[6]["loss"] is None
    assert all(line["loss"] is not None for step, line in lines.items() if step != 6)
    assert state_of(path).updates == summary["steps"] - 2


@pytest.mark.parametrize("policy", ["end", "go_on"])
@failing_saves
def test_a_full_disk_ends_the_run_or_does_not_as_the_config_says(straight_run, monkeypatch, tmp_path, caplog, policy):
    # The disk is full when checkpoint 6 is written, and has room again two checkpoints later.
    path, write, failures = tmp_path / "run", manifest.write_manifest, []

    def fill(folder):
        if folder.name.partition(".")[0] in ("6", "9"):
            failures.append(folder)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(folder)

    monkeypatch.setattr(checkpoint, "write_manifest", fill)
    monkeypatch.setattr(checkpoint, "_PAUSES", (0.0, 0.1, 0.1))
    config = run_config(run={"failed_save": policy, "keep": 1})
    if policy == "end":
        with pytest.raises(UserError, match=r"could not be written .*No space left.* the last good one is step 3"):
            train(config, path)
    else:
        train(config, path)
        assert len(failures) == 8  # four attempts each
        assert caplog.text.count("No space left on device); the last good one is step 3. Training goes on.") == 2
    monkeypatch.undo()
    train(run_config(), path)
    assert_same_bits(state_of(path), state_of(straight_run.path))
    assert not [entry for entry in (path / "checkpoints").iterdir() if "tmp" in entry.name]


@failing_saves
def test_a_last_checkpoint_that_cannot_be_written_costs_no_figures(monkeypatch, tmp_path):
    # Trained to the end, the run ended with an error, without test and summary.
    path, write = tmp_path / "run", manifest.write_manifest

    def fill(folder):
        if folder.name.partition(".")[0] == str(STEPS):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(folder)

    monkeypatch.setattr(checkpoint, "write_manifest", fill)
    monkeypatch.setattr(checkpoint, "_PAUSES", (0.0,))
    summary = train(run_config(run={"failed_save": "go_on"}), path)
    assert summary["steps"] == STEPS
    assert (path / "summary.json").exists()


def test_a_picture_that_cannot_be_written_costs_no_summary(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(loop, "plot_curves", plot_curves)
    path = tmp_path / "run"
    (path / "curves.png").mkdir(parents=True)
    monkeypatch.setattr(run_directory, "_BEFORE_A_RUN", {*run_directory._BEFORE_A_RUN, "curves.png"})
    summary = train(run_config(), path)
    assert json.loads((path / "summary.json").read_text()) == summary
    assert f"{path / 'curves.png'} cannot be drawn: Is a directory." in caplog.text


def test_skipped_steps_are_counted_over_a_resume(monkeypatch, tmp_path):
    path = tmp_path / "run"
    poison(monkeypatch, range(5, 7))
    with monkeypatch.context() as patch:
        stop_after(patch, 14)
        with pytest.raises(PowerCutError):
            train(run_config(), path)
    assert train(run_config(), path)["skipped_steps"] == 2


def test_a_rate_that_is_far_too_large_ends_the_run_before_its_first_checkpoint(tmp_path):
    path = tmp_path / "run"
    config = run_config(optimizer={"learning_rate": 1e30}, max_skipped_steps=2)
    with pytest.raises(UserError, match=r"^step \d+: 2 steps in a row were not finite") as error:
        train(config, path)
    assert "there is no checkpoint yet." in str(error.value)
    assert "the first value that is not finite is the output of norm0;" in str(error.value)
    assert not (path / "summary.json").exists()
    # Every line is JSON without NaN or Infinity.
    for line in (path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))


def test_a_network_that_gives_nan_at_the_end_is_reported_in_one_line(tmp_path):
    # Diverged, but allowed to skip on: the test loss has no number that JSON could hold.
    path = tmp_path / "run"
    config = run_config(optimizer={"learning_rate": 1e30}, max_skipped_steps=1000)
    message = ""
    try:
        train(config, path)
    except UserError as error:
        message = str(error)
    if message:
        assert "not finite" in message
        assert "\n" not in message
    else:
        summary = json.loads((path / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(name))
        assert summary["test"]["loss"] is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 100}, "batch_size=100 cannot be divided among 8 devices"),
        ({"batch_size": 16, "micro_batches": 4}, "batch_size=16 cannot .* 4 micro-batches; use a multiple of 32"),
        ({"model": {"num_classes": 9}}, "model.num_classes=9 does not fit digits with 10 classes"),
        ({"model": {"name": "resnet50", "widths": (4, 4)}}, r"model.widths=\(4, 4\) has 2 stages; resnet50 has 4"),
        ({"model": {"name": "resnet20", "widths": (8, 4)}}, r"model.widths=\(8, 4\) must not decrease"),
        ({"data": {"mean": (0.1, 0.2)}}, "data.mean has 2 values for 1 channels; give 1"),
        ({"data": {"validation": 1e-4}}, "data.validation=0.0001 leaves no validation example"),
        ({"data": {"test_split": "dev"}}, "digits has no split 'dev'; use train or test"),
        ({"norm": {"name": "group_norm", "options": {"num_groups": 3}}}, "mlp with group_norm cannot be built"),
    ],
)
def test_what_cannot_begin_leaves_no_directory(tmp_path, wrong, message):
    with pytest.raises(UserError, match=message) as error:
        train(run_config(**wrong), tmp_path / "runs" / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs" / "run").exists()


def test_what_cannot_begin_leaves_an_earlier_run_as_it_was(straight_run):
    before = contents(straight_run.path)
    with pytest.raises(UserError, match=r"label_smoothing: 0.0 -> 0.1"):
        train(run_config(label_smoothing=0.1), straight_run.path)
    assert contents(straight_run.path) == before


@pytest.mark.parametrize("closing", ["works", "fails"])
def test_a_run_that_fails_stops_writing_before_it_lets_go_of_its_directory(monkeypatch, tmp_path, closing):
    # A checkpoint still on its way when the next trainer takes the directory would be swept away under its feet.
    order = []
    close, release = loop.Checkpoints.close, loop.RunDirectory.release

    def closed(self):
        order.append("close")
        close(self)
        if closing == "fails":  # as on a full disk
            raise UserError("closing failed too")

    def released(self):
        order.append("release")
        release(self)

    monkeypatch.setattr(loop.Checkpoints, "close", closed)
    monkeypatch.setattr(loop.RunDirectory, "release", released)
    stop_after(monkeypatch, 4)
    # What went wrong first is what is reported.
    with pytest.raises(PowerCutError):
        train(run_config(), tmp_path / "run")
    assert order == ["close", "release"]
