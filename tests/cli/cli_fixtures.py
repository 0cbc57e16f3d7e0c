"""The command in this process and in others, and a run made by it.

A pytest plugin, since a second conftest.py cannot be imported for its doctests.
Doctests import it before pytest does, hence PYTEST_DONT_REWRITE
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from cli_cases import ROOT, TINY, Answer

from normjax.cli import main


@pytest.fixture
def command(capsys) -> Callable[..., Answer]:
    """Calls the command in this process."""

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        return Answer(code, *capsys.readouterr())

    return call


@pytest.fixture
def refused(command) -> Callable[..., str]:
    """The message of a call that must fail: exit code 2, nothing on stdout, one line on stderr."""

    def call(*arguments: object) -> str:
        code, out, err = command(*arguments)
        assert code == 2
        assert out == ""
        assert err.startswith("normjax: error: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        return err.removeprefix("normjax: error: ").rstrip("\n")

    return call


@pytest.fixture(scope="session")
def process() -> Callable[..., Answer]:
    """Runs Python in another process, on as many simulated devices as here."""

    def call(*arguments: object) -> Answer:
        # Compiled as here, so that numbers can be compared bit by bit.
        plain = str(jax.config.read("jax_disable_most_optimizations"))
        settings = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "JAX_DISABLE_MOST_OPTIMIZATIONS": plain}
        environment = {**os.environ, **settings, "COLUMNS": "200"}
        words = [sys.executable, *map(str, arguments)]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        return Answer(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The directory of a tiny run on the digits."""
    path = tmp_path_factory.mktemp("finished") / "run"
    main(["train", *TINY, "--workdir", str(path)])
    return path
