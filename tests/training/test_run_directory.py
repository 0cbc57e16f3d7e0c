"""The run directory: one trainer at a time, one config, nothing half written, nothing foreign touched."""

import contextlib
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_cases import contents
from training_cases import tiny_config, tiny_info

from normjax.errors import UserError
from normjax.training.config import TrainConfig
from normjax.training.run_directory import RunDirectory, write_json

HOLDER = """
import sys
from pathlib import Path
from normjax.training.run_directory import RunDirectory

run = RunDirectory(Path(sys.argv[1]))
run.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(path):
    run = RunDirectory(path)
    run.acquire()
    try:
        yield run
    finally:
        run.release()


def begun(path, config=None):
    with held(path) as run:
        run.record(config or tiny_config(), tiny_info())
    return run


def disk_full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_second_process_is_kept_out_until_the_first_ends(tmp_path):
    # Not released: the process just ends, as a killed one does.
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"{tmp_path} is in use by another trainer \(process {holder.pid}\)"):
            RunDirectory(tmp_path).acquire()
        holder.stdin.close()
        assert holder.wait() == 0
    with held(tmp_path):
        pass


def test_a_second_trainer_in_one_process_is_kept_out_too(tmp_path):
    first, second = RunDirectory(tmp_path), RunDirectory(tmp_path)
    first.acquire()
    first.record(tiny_config(), tiny_info())
    with pytest.raises(UserError, match="in use"):
        second.acquire()
    second.release()  # has nothing to let go, and takes nothing away
    with pytest.raises(UserError, match="in use"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_config_and_data_come_back_as_they_were(tmp_path):
    config = tiny_config(
        "shard_map", ema_decay=0.99, data={"mean": (0.1, 0.2)}, norm={"options": {"epsilon": 1e-3, "use_scale": False}}
    )
    run = begun(tmp_path / "run", config)
    assert run.read_config() == config
    assert run.read_dataset() == tiny_info()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 3}, "seed: 0 -> 3"),
        ({"ema_decay": 0.5}, "ema_decay: None -> 0.5"),
        ({"optimizer": {"learning_rate": 0.25}}, "optimizer.learning_rate: 0.1 -> 0.25"),
        ({"model": {"name": "mlp", "widths": (4,)}}, r"model.widths: \[8, 6\] -> \[4\]"),
        ({"norm": {"options": {"epsilon": 1e-3}}}, r"norm.options: \{\} -> \{'epsilon': 0.001\}"),
        ({"data": {"validation": 0.2}}, "data.validation: 0.1 -> 0.2"),
        ({"schedule": {"name": "cosine"}}, "schedule.name: constant -> cosine"),
    ],
)
def test_what_decides_the_numbers_may_not_change(tmp_path, changed, named):
    run = begun(tmp_path / "run")
    before = contents(run.path)
    with pytest.raises(UserError, match=named):
        run.check_config(tiny_config(**changed))
    assert contents(run.path) == before


def test_how_a_run_is_carried_out_may_change(tmp_path):
    run = begun(tmp_path / "run")
    other = {
        "parallel": "shard_map",
        "eval_batch_size": 3,
        "log_every": 7,
        "checkpoint_every": 2,
        "keep": 9,
        "threads": 1,
    }
    run.check_config(tiny_config(run=other))


def test_data_that_changed_are_refused(tmp_path):
    run = begun(tmp_path / "run")
    run.check_dataset(tiny_info())
    with pytest.raises(UserError, match=r"begun on other data: mean was \(0.3,\), now \(0.31,\)"):
        run.check_dataset(tiny_info(mean=(0.31,)))


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with held(tmp_path) as run, pytest.raises(UserError, match=r"is no run directory: it holds thesis.tex"):
        run.check_config(TrainConfig())
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", ["file", "file/run", "file/deep/run"])
def test_a_path_that_cannot_be_made_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"^run directory {tmp_path / name} cannot be written to: "):
        RunDirectory(tmp_path / name).acquire()
    assert contents(tmp_path) == {"file": b""}


def test_a_directory_in_which_no_run_began_is_removed_again(tmp_path):
    with held(tmp_path / "runs" / "run") as run:
        run.check_config(TrainConfig())
    assert list((tmp_path / "runs").iterdir()) == []
    # One in which a run began stays.
    assert begun(tmp_path / "runs" / "run").config_file.exists()


def test_a_directory_that_cannot_be_removed_stays_without_a_word(monkeypatch, tmp_path):
    # The current directory, or one where a disk is mounted.
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with held(Path(".")):
            pass


@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_json_is_the_old_or_the_new_never_half(monkeypatch, tmp_path, failing):
    file = tmp_path / "summary.json"
    write_json(file, {"old": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Path, failing, disk_full)
        with pytest.raises(UserError, match=rf"{file} cannot be written: No space left on device"):
            write_json(file, {"new": 2})
    assert json.loads(file.read_text()) == {"old": 1}
    write_json(file, {"new": 2})
    assert json.loads(file.read_text()) == {"new": 2}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["summary.json"]


def test_a_run_that_could_not_be_written_down_may_be_begun_again(monkeypatch, tmp_path):
    # The disk is full after the first of two files; once there is room, the same command must do.
    write, calls = Path.write_text, []

    def full_at_the_second(self, text):
        calls.append(self)
        return write(self, text) if len(calls) == 1 else disk_full()

    with held(tmp_path / "run") as run, monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full_at_the_second)
        with pytest.raises(UserError, match="No space left on device"):
            run.record(tiny_config(), tiny_info())
    with held(tmp_path / "run") as run:
        run.check_config(tiny_config())
        run.record(tiny_config(), tiny_info())
    assert run.read_config() == tiny_config()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", None, "is no run directory: config.json is missing"),
        ("dataset.json", None, "is no run directory: dataset.json is missing"),
        ("config.json", "{", "config.json is not JSON"),
        ("config.json", '{"epochs": -1}', "epochs=-1: Input should be greater than 0"),
        ("dataset.json", '{"name": "digits"}', "dataset.json"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(tmp_path, name, text, message):
    run = begun(tmp_path)
    file = tmp_path / name
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        run.read_config() if name == "config.json" else run.read_dataset()
    assert "\n" not in str(error.value)
