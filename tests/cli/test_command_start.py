"""What a command does before its work: help without JAX, compiled programs kept for the next one, devices."""

import json
import os
import sys

import pytest
from cli_cases import TINY

from normjax import compilation_cache
from normjax.compilation_cache import SWITCH, use_compilation_cache

pytest_plugins = ["cli_fixtures"]

# Runs each line of arguments where JAX cannot be imported, and prints the exit codes.
WITHOUT_JAX = """
import contextlib, io, json, sys

for name in ("jax", "jaxlib", "flax", "numpy"):
    sys.modules[name] = None
from normjax.cli import main

codes = []
for line in json.loads(sys.argv[1]):
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            main(line.split())
    except SystemExit as stop:
        codes.append(stop.code)
print(codes)
"""


def test_help_and_mistakes_are_answered_without_jax(process):
    # Importing JAX takes longer than all the rest.
    answered = ["--help", "train --help", "prune --help", "study --help"]
    refused = ["train --nosuch 3", "train --epochs 0", "evaluate"]
    code, out, err = process("-c", WITHOUT_JAX, json.dumps(answered + refused))
    assert (code, err) == (0, "")
    assert json.loads(out) == [0, 0, 0, 0, 2, 2, 2]


@pytest.mark.slow
def test_a_second_run_compiles_nothing_that_the_first_has_kept(process, tmp_path, monkeypatch):
    monkeypatch.setenv(SWITCH, str(tmp_path / "cache"))
    # All of them: a busy machine may take longer over one the second time than is asked of those that are kept.
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    kept = []
    for number in range(2):
        code, _, err = process("train.py", *TINY, "--workdir", tmp_path / f"run{number}")
        assert (code, err) == (0, "")
        kept.append({path.name for path in (tmp_path / "cache").rglob("*-cache")})
    assert kept[0]
    assert kept[0] == kept[1]


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """The environment of a process that has not imported JAX, with a cache directory of its own."""
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": str(tmp_path)})
    return os.environ


def test_programs_are_kept_in_the_users_cache_and_bounded(environment, tmp_path):
    use_compilation_cache()
    folder = environment["JAX_COMPILATION_CACHE_DIR"]
    assert folder.startswith(str(tmp_path / "normjax" / "programs"))
    assert environment["JAX_COMPILATION_CACHE_MAX_SIZE"] == str(2**31)
    # Those of another processor are elsewhere: they might use instructions that this one has not.
    assert folder.endswith(compilation_cache._machine())


@pytest.mark.parametrize("given", [{SWITCH: "off"}, {"JAX_COMPILATION_CACHE_DIR": "elsewhere"}])
def test_the_user_decides(environment, given):
    environment.update(given)
    before = dict(environment)
    use_compilation_cache()
    assert environment == before


def test_a_directory_that_cannot_be_written_is_reported_once(environment, tmp_path, capsys):
    (tmp_path / "file").touch()
    environment[SWITCH] = str(tmp_path / "file" / "cache")
    use_compilation_cache()
    use_compilation_cache()  # as in a process that this one starts
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("normjax: compiled programs are not kept: [Errno 20] Not a directory: ")
    assert str(tmp_path / "file" / "cache") in err
    assert err.count("\n") == 1
    assert "JAX_COMPILATION_CACHE_DIR" not in environment


def test_a_user_without_a_home_directory_keeps_no_programs(environment, monkeypatch, capsys):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compilation_cache.Path, "home", no_home)
    del environment["XDG_CACHE_HOME"]
    use_compilation_cache()
    assert capsys.readouterr().err == "normjax: compiled programs are not kept: Could not determine home directory.\n"
    assert environment[SWITCH] == "off"
    assert "JAX_COMPILATION_CACHE_DIR" not in environment


def test_what_a_killed_process_left_half_written_is_removed(environment, tmp_path):
    # JAX would fail to write anything more: it asks each program for its time of use.
    use_compilation_cache()
    folder = tmp_path / "normjax" / "programs" / compilation_cache._machine()
    for name in ("whole-cache", "whole-atime", "half-cache"):
        (folder / name).touch()
    del environment["JAX_COMPILATION_CACHE_DIR"]
    use_compilation_cache()
    assert {path.name for path in folder.glob("*-*")} == {"whole-cache", "whole-atime"}


def test_launch_simulates_the_devices_that_it_is_asked_for(process, monkeypatch):
    # Appended to XLA_FLAGS the number was ignored if a word without dashes stood there.
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false word")
    count = "import jax; print(jax.local_device_count(), 'devices')"
    code, out, err = process("-m", "normjax", "launch", "-n", "1", "--devices", "3", "--", "-c", count)
    assert (code, out, err) == (0, "[0] 3 devices\n", "")
