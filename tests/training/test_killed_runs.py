"""Runs killed at moments of chance: a short form of ``python -m benchmarks.kills``."""

from benchmarks.kills import kill_runs


def test_killed_runs_end_with_the_bits_of_one_that_was_not(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    result = kill_runs(5, 2)
    assert result.kills == 5
    assert result.while_saving >= 2
    assert result.same == result.runs > 0
    assert result.set_aside == 0
