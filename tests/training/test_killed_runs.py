"""Runs killed at moments of chance: ``python -m benchmarks.kills`` in short, as a user calls it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_killed_runs_end_with_the_bits_of_one_that_was_not():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kills", "--kills", "3", "--while-saving", "2"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # Its status tells whether all runs ended with the same bits, and as many kills met a checkpoint as were asked for.
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("kill ") >= 3
