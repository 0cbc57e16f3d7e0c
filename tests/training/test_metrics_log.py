"""The metrics of a run: JSON lines that a crash cannot spoil, and the same numbers for TensorBoard."""

import json
import resource
import shutil
import struct
from typing import NamedTuple

import numpy as np
import pytest
from run_cases import EPOCH_ENDS, PowerCutError, metrics_of, run_config, stop_after
from tensorboardX.proto.event_pb2 import Event, SessionLog

from normjax.errors import UserError
from normjax.training.loop import train
from normjax.training.metrics import MetricsLog, read_metrics
from normjax.training.run_directory import RunDirectory

pytest_plugins = ["training_fixtures"]


class Scalar(NamedTuple):
    tag: str
    step: int
    value: float


def read_events(file):
    """The records of an event file: length, its checksum, bytes, their checksum."""
    data, events = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def shown_by_tensorboard(folder):
    """The scalars of all files, oldest first; a restart hides what an earlier one wrote from there on."""
    scalars = []
    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        for event in read_events(file):
            if event.session_log.status == SessionLog.START:
                scalars = [scalar for scalar in scalars if scalar.step < event.step]
            scalars += [Scalar(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return scalars


def scalars_of(lines):
    names = {"step", "epoch", "split"}
    return [
        Scalar(f"{line['split']}/{name}", line["step"], value)
        for line in lines
        for name, value in line.items()
        if name not in names and value is not None
    ]


def assert_same_scalars(actual, expected):
    assert sorted(s[:2] for s in actual) == sorted(s[:2] for s in expected)
    values = [np.array([s.value for s in sorted(scalars)]) for scalars in (actual, expected)]
    np.testing.assert_allclose(*values, rtol=1e-6)


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path)


def logged(run, step, *lines):
    log = MetricsLog(run, step)
    for at, split, values in lines:
        log.write(at, at / 10, split, **values)
    log.close()


def test_numbers_that_json_has_not_become_null(run):
    values = {"loss": float("nan"), "gradient_norm": np.float32("inf"), "accuracy": None, "skipped": 3, "rate": 0.1}
    logged(run, 0, (20, "train", values))
    (line,) = run.metrics_file.read_text().splitlines()
    expected = {"step": 20, "epoch": 2.0, "split": "train", "loss": None, "gradient_norm": None, "accuracy": None}
    assert json.loads(line, parse_constant=pytest.fail) == {**expected, "skipped": 3, "rate": 0.1}


def test_every_line_is_on_disk_when_it_is_written(run):
    # What a killed run has shown, it has kept.
    log = MetricsLog(run, 0)
    log.write(1, 0.1, "train", loss=1.0)
    assert len(run.metrics_file.read_text().splitlines()) == 1
    (events,) = run.tensorboard.iterdir()
    assert [value.tag for event in read_events(events) for value in event.summary.value] == ["train/loss"]
    log.close()


def test_a_resumed_run_drops_what_it_will_write_again(run):
    lines = [(step, split, {"loss": float(step)}) for step in (2, 4, 6, 8) for split in ("train", "validation")]
    logged(run, 0, *lines, (8, "test", {"loss": 1.0}))
    logged(run, 4, (6, "train", {"loss": 66.0}))
    kept = [(line["step"], line["split"], line["loss"]) for line in read_metrics(run.metrics_file)]
    head = [(step, split, float(step)) for step in (2, 4) for split in ("train", "validation")]
    assert kept == [*head, (6, "train", 66.0)]
    assert_same_scalars(shown_by_tensorboard(run.tensorboard), scalars_of(read_metrics(run.metrics_file)))


def test_a_finished_run_begun_again_has_its_test_figures_once(run):
    logged(run, 0, (8, "train", {"loss": 2.0}), (8, "test", {"loss": 1.0}))
    logged(run, 8, (8, "test", {"loss": 1.0}))
    assert [line["split"] for line in read_metrics(run.metrics_file)] == ["train", "test"]


@pytest.mark.parametrize(
    "rest", ['{"step": 4, "epo', '{"step": 4, "epoch": 1.0, "split": "train", "loss": 0.2}', "\x00"]
)
def test_a_last_line_cut_short_is_left_out(run, rest):
    logged(run, 0, (2, "train", {"loss": 2.0}), (3, "train", {"loss": 3.0}))
    whole = run.metrics_file.read_text()
    with run.metrics_file.open("a") as file:
        file.write(rest)
    assert [line["step"] for line in read_metrics(run.metrics_file)] == [2, 3]
    logged(run, 3, (4, "train", {"loss": 4.0}))
    assert run.metrics_file.read_text().startswith(whole)
    assert [line["step"] for line in read_metrics(run.metrics_file)] == [2, 3, 4]


@pytest.mark.parametrize("spoilt", [b"\0\0\0\n", b"{half\n", b"\xff\xfe\n", b"[1]\n", b'{"loss": 1}\n'])
def test_a_spoilt_line_costs_no_other(run, spoilt):
    # A resume ended in a traceback for one line that a disk had garbled.
    log = MetricsLog(run, 0)
    for step in (1, 2):
        log.write(step, step, "train", loss=1.0)
    log.close()
    first, second = run.metrics_file.read_bytes().splitlines(keepends=True)
    run.metrics_file.write_bytes(first + spoilt + second)
    assert [line["step"] for line in read_metrics(run.metrics_file)] == [1, 2]
    said = []
    MetricsLog(run, 2, said.append).close()
    assert said == [f"1 lines of {run.metrics_file} cannot be read; they are left out from now on."]
    assert [line["step"] for line in read_metrics(run.metrics_file)] == [1, 2]


def test_a_file_that_is_emptied_or_removed_goes_on(run):
    # Emptied by a shell, it was filled with NULs up to where it had been; removed, it was never made again.
    said = []
    log = MetricsLog(run, 0, said.append)
    log.write(1, 1, "train", loss=1.0)
    run.metrics_file.write_bytes(b"")
    log.write(2, 2, "train", loss=1.0)
    assert [line["step"] for line in read_metrics(run.metrics_file)] == [2]
    run.metrics_file.unlink()
    log.write(3, 3, "train", loss=1.0)
    log.close()
    assert [line["step"] for line in read_metrics(run.metrics_file)] == [3]
    assert said == [f"{run.metrics_file} was removed; it begins anew, and training goes on."]


def test_a_run_without_metrics_has_none(run):
    assert read_metrics(run.metrics_file) == []


def test_a_line_that_cannot_be_written_is_kept_and_written_with_the_next(run):
    # A limit on the size of files stands for the full disk; a part of the line still fits.
    told = []
    log = MetricsLog(run, 0, told.append)
    log.write(1, 0.1, "train", loss=1.0)
    before = run.metrics_file.read_text()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        for step in (2, 3):
            assert log.write(step, step / 10, "train", loss=float(step))["step"] == step
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (complaint,) = [line for line in told if "The lines are kept" in line]
    assert f"metrics cannot be written to {run.path}: File too large." in complaint
    log.write(4, 0.4, "train", loss=4.0)
    log.close()
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(step, float(step)) for step in (1, 2, 3, 4)]
    assert_same_scalars(shown_by_tensorboard(run.tensorboard), scalars_of(lines))


def test_lines_that_could_never_be_written_are_an_error_at_the_end(run):
    told = []
    log = MetricsLog(run, 0, told.append)
    run.metrics_file.unlink()
    run.metrics_file.mkdir()
    log.write(1, 0.1, "train", loss=1.0)
    assert told
    with pytest.raises(UserError, match="metrics cannot be written to"):
        log.close()


@pytest.mark.parametrize("start", [0, 4])
def test_a_tensorboard_directory_that_is_removed_is_made_anew(run, start):
    logged(run, 0, *((step, "train", {"loss": float(step)}) for step in (2, 4, 6)))
    log = MetricsLog(run, start)
    log.write(start + 2, 0.1, "train", loss=7.0)
    shutil.rmtree(run.tensorboard)
    log.write(start + 4, 0.2, "train", loss=8.0)
    log.write(start + 6, 0.3, "train", loss=9.0)
    log.close()
    assert_same_scalars(shown_by_tensorboard(run.tensorboard), scalars_of(read_metrics(run.metrics_file)))


def test_a_log_of_another_process_writes_nothing(run):
    log = MetricsLog(run, 0, silent=True)
    assert log.write(1, 0.1, "train", loss=float("nan"))["loss"] is None
    log.close()
    assert list(run.path.iterdir()) == []


def test_tensorboard_shows_what_the_lines_say(straight_run, monkeypatch, tmp_path):
    # Of a run never stopped, and of one stopped twice, whose second thoughts replace the first.
    for step in (8, 14):
        with monkeypatch.context() as patch:
            stop_after(patch, step)
            with pytest.raises(PowerCutError):
                train(run_config(), tmp_path / "run")
    train(run_config(), tmp_path / "run")
    for path in (tmp_path / "run", straight_run.path):
        scalars = shown_by_tensorboard(path / "tensorboard")
        assert_same_scalars(scalars, scalars_of(metrics_of(path)))
        assert [s.step for s in scalars if s.tag == "validation/accuracy"] == [*EPOCH_ENDS]
