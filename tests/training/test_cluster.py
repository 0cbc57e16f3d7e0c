"""Real processes on one machine: they train and evaluate as one process does, stop together, and notice a loss."""

import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from cluster_member import NORMS, STEPS
from run_cases import metrics_of

from normjax.errors import UserError
from normjax.training.cluster import LOST, join_cluster, on_first, own_shard, sum_over_processes
from normjax.training.evaluate import restore_run

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MEMBER = Path(__file__).with_name("cluster_member.py")
TINY = (
    *("--epochs", "2", "--batch-size", "128", "--model.name", "mlp", "--model.widths", "8", "6"),
    *("--schedule.warmup-epochs", "0.5", "--run.log-every", "2", "--run.checkpoint-every", "3", "--run.keep", "30"),
)

# One process is sent a signal when the metrics of a step are written.
SIGNALLED = """
import os, sys
from normjax.cli import main
from normjax.training import loop

number, step, process = map(int, sys.argv[1:4])
flush = loop._Run._flush

def flush_and_send(self, at, state):
    line = flush(self, at, state)
    if at == step and sys.argv[-2:] == ["--process", str(process)]:
        os.kill(os.getpid(), number)
    return line

loop._Run._flush = flush_and_send
main(sys.argv[4:])
"""


# The second process is given further options.
DIFFERENT = """
import sys
from normjax.cli import main

more = sys.argv[1].split()
main(sys.argv[2:] + (more if sys.argv[-2:] == ["--process", "1"] else []))
"""


class Ended(NamedTuple):
    code: int
    out: str


def python(*arguments, devices=None, timeout=300):
    """Runs Python in another process, on simulated devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    if devices is not None:
        flags += f" --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "COLUMNS": "200"}
    words = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )
    return Ended(done.returncode, done.stdout)


def launch(processes, devices, *command):
    return python("-m", "normjax", "launch", "-n", processes, "--devices", devices, "--", *command)


def told_by(out):
    """The evaluations of each norm."""
    found = [json.loads(line) for line in re.findall(r"\{.*\}", out)]
    return {line["norm"]: line for line in found}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The networks of one process with four devices, and what it says of them."""
    path = tmp_path_factory.mktemp("alone")
    code, out = python(MEMBER, path, devices=4)
    assert code == 0, out
    return path, told_by(out)


def test_several_processes_train_and_evaluate_as_one_does(alone, tmp_path):
    path, told = alone
    processes = devices = 2
    code, out = launch(processes, devices, MEMBER, tmp_path, "--evaluate", path)
    assert code == 0, out
    for norm in NORMS:
        (_, one, step), (_, many, same) = restore_run(path / norm, "last"), restore_run(tmp_path / norm, "last")
        assert step == same == STEPS
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), one.params, many.params)
        # Every image was read once, by whichever process.
        assert [line["examples"] for line in metrics_of(tmp_path / norm, "train")] == [320] * 4
        summary = json.loads((tmp_path / norm / "summary.json").read_text())
        assert summary["machine"]["processes"] == processes
        # One checkpoint, evaluated by one process and by several.
        by_many, by_one = told_by(out)[norm], told[norm]
        assert by_many["accuracy"] == by_one["accuracy"]
        assert by_many["examples"] == by_one["examples"] == 359
        assert by_many["loss"] == pytest.approx(by_one["loss"], abs=1e-6)
    assert set(re.findall(r"^\[(\d)\]", out, re.MULTILINE)) == set(map(str, range(processes)))


def test_a_signal_to_one_process_ends_all_after_the_same_step(tmp_path):
    path = tmp_path / "run"
    signalled = ("-c", SIGNALLED, int(signal.SIGTERM), 8, 1, "train", *TINY, "--workdir", path)
    code, out = launch(2, 1, *signalled)
    assert code == 0, out
    stopped = re.findall(r"stopped after step (\d+) of 21, which is saved in", out)
    assert len(stopped) == 2
    assert stopped[0] == stopped[1]
    assert 8 <= int(stopped[0]) <= 12
    # It goes on where it stopped, on another number of processes and devices, and sees each example once an epoch.
    code, out = python("train.py", *TINY, "--workdir", path, devices=4)
    assert code == 0, out
    assert f"going on from step {stopped[0]} of 21" in out
    assert sum(line["examples"] for line in metrics_of(path, "train")) == 21 * 128


def test_a_process_that_dies_is_named_by_the_others_and_a_restart_goes_on(tmp_path):
    options = (*TINY, "--batch-size", 96, *workdir(tmp_path / "run"))
    code, out = launch(3, 1, "-c", SIGNALLED, int(signal.SIGKILL), 8, 1, "train", *options)
    assert code == 128 + signal.SIGKILL, out
    for survivor in (0, 2):
        assert f"[{survivor}] normjax: error: process 1 of 3 ({platform.node()}) is gone; this process ends, too" in out
    code, out = python("train.py", *options, devices=3)
    assert code == 0, out
    assert re.search(r"going on from step [36] of 27", out)


def test_the_loss_of_the_first_process_ends_the_others(tmp_path):
    code, out = launch(2, 1, "-c", SIGNALLED, int(signal.SIGKILL), 8, 0, "train", *TINY, *workdir(tmp_path / "run"))
    assert code == 128 + signal.SIGKILL, out
    assert re.search(r"\[1\] .*(process 0 of 2|leader task)", out)


def test_a_mistake_ends_all_processes_with_one_line_each(tmp_path):
    (tmp_path / "foreign").touch()
    code, out = launch(2, 1, "train.py", *TINY, "--workdir", tmp_path)
    assert code == 2
    for process in range(2):
        assert f"[{process}] normjax: error: {tmp_path} is no run directory: it holds foreign; give a new" in out
    assert "is gone" not in out


@pytest.mark.parametrize(
    ("more", "differ"),
    [
        ("--optimizer.learning-rate 0.9 --seed 3", "optimizer, seed, the data"),
        # Files that the processes do not share, as of a network file system that is late.
        ("--workdir {other}", "the latest checkpoint"),
    ],
)
def test_processes_that_differ_do_not_train(straight_run, tmp_path, more, differ):
    # They parted in silence, or waited for each other for ever.
    path = tmp_path / "run"
    shutil.copytree(straight_run.path, path)
    shutil.rmtree(path / "checkpoints" / "21")
    options = ["-c", DIFFERENT, more.format(other=tmp_path / "other"), "train", "--config", path / "config.json"]
    code, out = launch(2, 1, *options, "--workdir", path)
    assert code == 2
    for process in range(2):
        assert f"[{process}] normjax: error: process 1 and the first one differ in {differ}; start all" in out


def test_processes_go_on_when_nobody_listens_to_the_launcher(tmp_path):
    # Its printers died of the closed pipe, and the processes waited for room in theirs.
    script = "import sys; [print('x' * 100) for _ in range(5000)]; open(sys.argv[1] + sys.argv[-1], 'w')"
    words = shlex.join([sys.executable, "-m", "normjax", "launch", "-n", "2", "--", "-c", script, f"{tmp_path}/"])
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {words} | head -1"], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0", "1"]


def workdir(path):
    return "--workdir", path


def test_the_status_is_that_of_the_process_that_failed_by_itself():
    # On a busy machine both had ended when the launcher looked, and it took the one that was merely left behind.
    script = f"import os, sys; os.kill(os.getpid(), 9) if sys.argv[-1] == '1' else sys.exit({LOST})"
    assert launch(2, 1, "-c", script)[0] == 128 + signal.SIGKILL


def test_what_fails_while_launching_is_said():
    code, out = launch(1, 1, "no-such-program")
    assert (code, out) == (2, "normjax: error: no-such-program cannot be started: No such file or directory.\n")
    assert python("-m", "normjax", "launch", "-n", 0, "--", "train.py") == (2, "normjax: error: n=0: use 1 or more.\n")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("127.0.0.1:1", 2, None), "coordinator=127.0.0.1:1, processes=2, process=None: give all three"),
        (("127.0.0.1:1", 2, 2), "process=2 is not one of 2 processes; use 0 to 1"),
        (("nowhere", 2, 0), "coordinator=nowhere is no host and port; use HOST:PORT"),
        (("127.0.0.1:1", 0, 0), "processes=0: use 1 or more"),
        (("127.0.0.1:1", 2, -1), "process=-1 is not one of 2 processes; use 0 to 1"),
    ],
)
def test_a_place_in_the_cluster_that_cannot_be_is_refused(place, message):
    with pytest.raises(UserError, match=re.escape(message)):
        join_cluster(*place)


def test_without_a_cluster_there_is_one_process():
    done = []
    on_first(lambda: done.append(1))
    assert done == [1]
    assert own_shard() == (0, 1)
    counts = np.array([[3, 2**40]])
    assert sum_over_processes(counts) is counts
