"""The command as a user calls it, each time in a process of its own."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from importlib.metadata import entry_points

import jax
import numpy as np
import pytest
from cli_cases import ROOT, TINY, contents, digit_file

from normjax.cli import main
from normjax.training.evaluate import restore_run

pytest_plugins = ["cli_fixtures"]

# The process ends as by a power cut, two steps after checkpoint 12 was begun.
KILLED = """
import os, signal, sys
from normjax.cli import main
from normjax.training import loop

flush = loop._Run._flush

def flush_and_die(self, step, state):
    line = flush(self, step, state)
    if step == 14:
        os.kill(os.getpid(), signal.SIGKILL)
    return line

loop._Run._flush = flush_and_die
main(sys.argv[1:])
"""


def test_help_names_every_option(process):
    code, out, err = process("train.py", "--help")
    assert (code, err) == (0, "")
    for option in ("--config", "--workdir", "--data-dir", "--seed", "--epochs", "--run.parallel"):
        assert option in out
    for section in ("data.name", "model.widths", "norm.options", "optimizer.learning-rate", "schedule.milestones"):
        assert f"--{section}" in out


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(process, finished, tmp_path):
    # Nothing is tidied up by a killed process: a lock may stay behind, half a checkpoint, lines after the last one.
    path = tmp_path / "run"
    code, _, _ = process("-c", KILLED, "train", *TINY, "--workdir", path)
    assert code == -signal.SIGKILL
    assert not (path / "summary.json").exists()
    code, out, err = process("train.py", *TINY, "--workdir", path)
    assert (code, err) == (0, "")
    assert "going on from step" in out
    summary = json.loads((path / "summary.json").read_text())
    assert re.search(rf"test accuracy\s.*{summary['test']['accuracy']:.2%} of 359 images", out)
    assert str(path / "curves.png") in out
    assert (path / "metrics.jsonl").read_text() == (finished / "metrics.jsonl").read_text()
    (_, this, step), (_, other, _) = restore_run(path, "last"), restore_run(finished, "last")
    assert step == 21
    jax.tree.map(np.testing.assert_array_equal, this, other)


@pytest.mark.parametrize(
    ("output", "reason"), [("| head -1", "Broken pipe"), ("> /dev/full", "No space left on device")]
)
def test_a_run_does_not_end_with_its_output(tmp_path, output, reason):
    # `train.py | head` ended the training without a word, and what it had done since its checkpoint was lost.
    path = tmp_path / "run"
    words = shlex.join([sys.executable, "train.py", *TINY, "--workdir", str(path)])
    settings = {**os.environ, "JAX_PLATFORMS": "cpu"}
    script = ["bash", "-c", f"set -o pipefail; {words} {output}"]
    done = subprocess.run(script, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300)
    assert done.stderr == f"normjax: the output cannot be written ({reason}); work goes on without it\n"
    assert done.returncode == 0
    assert (path / "summary.json").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_the_run_at_once(process, tmp_path, number, status):
    path = tmp_path / "run"
    twice = KILLED.replace(
        "os.kill(os.getpid(), signal.SIGKILL)", f"[os.kill(os.getpid(), {int(number)}) for _ in (1, 2)]"
    )
    code, _, err = process("-c", twice, "train", *TINY, "--workdir", path)
    assert code == status
    assert err.strip() == f"{number.name}: ending after this step; once more ends at once"
    assert not (path / "summary.json").exists()
    # What was saved before is there.
    assert restore_run(path, "last")[2] in (11, 12)  # 12 was on its way


def test_the_module_is_the_command(process, finished, tmp_path):
    before = contents(finished)
    code, out, err = process("-m", "normjax", "evaluate", finished, "--json")
    assert (code, err) == (0, "")
    summary = json.loads((finished / "summary.json").read_text())
    assert json.loads(out) == {
        "run": str(finished),
        "split": "test",
        "step": summary["tested_step"],
        **summary["test"],
    }
    code, out, err = process("-m", "normjax", "predict", finished, digit_file(tmp_path / "digit.png"), "--json")
    assert (code, err) == (0, "")
    assert len(json.loads(out)[0]["predictions"]) == 5
    assert contents(finished) == before


def test_the_installed_command_is_the_same():
    (script,) = entry_points(group="console_scripts", name="normjax")
    assert script.load() is main


def test_a_mistake_is_one_line_without_a_traceback(process, tmp_path):
    code, out, err = process("train.py", "--optimizer.learning-rate", "-1", "--workdir", tmp_path / "run")
    assert (code, out) == (2, "")
    assert err == "normjax: error: optimizer.learning_rate=-1.0: Input should be greater than 0\n"
    assert not (tmp_path / "run").exists()


def test_imports_stay_light(process):
    # Whoever wants one layer, or to read that an option is wrong, need not wait for data sets, checkpoints or plots.
    heavy = "orbax", "grain", "tensorflow_datasets", "matplotlib"
    loaded = f"print(*(module for module in {heavy!r} if module in sys.modules))"
    _, out, _ = process("-c", f"import sys, normjax; normjax.BatchNorm; {loaded}; import normjax.cli; {loaded}")
    assert out.splitlines() == ["", ""]
