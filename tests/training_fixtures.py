"""A finished run, and programs compiled once for all tests.

A pytest plugin, since a second conftest.py cannot be imported for its doctests.
Doctests import it before pytest does, hence PYTEST_DONT_REWRITE
"""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from run_cases import FinishedRun, run_config

from normjax.training import loop


def _keep_compiled_programs_in(folder: Path | None, seconds: float) -> None:
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", folder and str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)


@pytest.fixture(scope="session")
def compiled_programs(tmp_path_factory) -> Path:
    """Where this test run keeps what it compiled: a resumed run finds the step there. Nothing is left from before."""
    folder = tmp_path_factory.mktemp("compiled")
    _keep_compiled_programs_in(folder, 0)
    return folder


@pytest.fixture(scope="module")
def compiled_once(compiled_programs) -> Iterator[None]:
    """For modules that compile what others do."""
    _keep_compiled_programs_in(compiled_programs, 0)
    yield
    _keep_compiled_programs_in(None, 1)


@pytest.fixture
def without_pictures(monkeypatch) -> None:
    """Drawing them takes longer than a tiny training."""
    for name in ("plot_curves", "plot_confusion"):
        monkeypatch.setattr(loop, name, lambda *_: None)


@pytest.fixture(scope="session")
def straight_run(compiled_programs, tmp_path_factory) -> FinishedRun:  # noqa: ARG001 - compiles into that folder
    """Two epochs of digits on 8 devices, never interrupted; all its checkpoints are kept."""
    path = tmp_path_factory.mktemp("straight") / "run"
    return FinishedRun(path, run_config(), loop.train(run_config(), path))
