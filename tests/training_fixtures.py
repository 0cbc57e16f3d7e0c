"""A finished run, and training without pictures.

A pytest plugin, since a second conftest.py cannot be imported for its doctests.
Doctests import it before pytest does, hence PYTEST_DONT_REWRITE
"""

import gc
import threading
from collections.abc import Iterator

import pytest
from run_cases import FinishedRun, run_config

from normjax.training import loop


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
def straight_run(tmp_path_factory) -> FinishedRun:
    """Two epochs of digits on 8 devices, never interrupted; all its checkpoints are kept."""
    path = tmp_path_factory.mktemp("straight") / "run"
    return FinishedRun(path, run_config(), loop.train(run_config(), path))
