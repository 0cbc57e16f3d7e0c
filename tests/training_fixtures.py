"""A finished run, and programs compiled once for all tests.

A pytest plugin, since a second conftest.py cannot be imported for its doctests.
Doctests import it before pytest does, hence PYTEST_DONT_REWRITE
"""

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from compilation import keep_compiled_in
from run_cases import FinishedRun, run_config

from normjax.training import loop


@pytest.fixture(scope="session")
def compiled_programs(tmp_path_factory) -> Path:
    """Where this test run keeps what it compiled: a resumed run finds the step there. Nothing is left from before."""
    folder = tmp_path_factory.mktemp("compiled")
    keep_compiled_in(folder, 0)
    return folder


@pytest.fixture(scope="module")
def compiled_once(compiled_programs) -> Iterator[None]:
    """For modules that compile what others do."""
    keep_compiled_in(compiled_programs, 0)
    yield
    keep_compiled_in(None, 1)


@pytest.fixture
def without_pictures(monkeypatch) -> None:
    """Drawing them takes longer than a tiny training."""
    for name in ("plot_curves", "plot_confusion"):
        monkeypatch.setattr(loop, name, lambda *_: None)


@pytest.fixture
def collected() -> Iterator[None]:
    """What a test leaves behind ends with it, under its own filters of warnings."""
    before = set(threading.enumerate())
    yield
    # Those of a write that failed may still hold what it never awaited. Orbax's own join raises what failed in them.
    for thread in set(threading.enumerate()) - before:
        if not thread.name.startswith("grain-"):  # a pool that stays
            threading.Thread.join(thread, 5)
            # Some waited for a directory until a clock that was set back had come on again.
            assert not thread.is_alive(), f"{thread.name} still waits"
    gc.collect()


@pytest.fixture(scope="session")
def straight_run(compiled_programs, tmp_path_factory) -> FinishedRun:  # noqa: ARG001 - compiles into that folder
    """Two epochs of digits on 8 devices, never interrupted; all its checkpoints are kept."""
    path = tmp_path_factory.mktemp("straight") / "run"
    return FinishedRun(path, run_config(), loop.train(run_config(), path))
