"""The clock of a run: every second counted once, for the innermost activity."""

import time

import pytest

from normjax.training.clock import Clock


@pytest.fixture
def now(monkeypatch):
    """The time, moved by hand."""
    hands = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: hands[0])

    def pass_seconds(seconds):
        hands[0] += seconds

    return pass_seconds


def test_an_activity_inside_another_interrupts_it(now):
    clock = Clock()
    now(1)  # belongs to nothing
    with clock("training"):
        now(2)
        with clock("evaluation"):
            now(4)
            with clock("checkpoint"):
                now(8)
            now(16)
        now(32)
        with clock("evaluation"):
            now(64)
    now(128)
    assert clock.read() == {"training": 34, "evaluation": 84, "checkpoint": 8}


def test_reading_in_between_changes_nothing(now):
    clock = Clock()
    with clock("training"):
        now(3)
        assert clock.read() == {"training": 3}
        now(5)
        clock.read()["training"] = 1000
    assert clock.read() == {"training": 8}


def test_seconds_of_an_earlier_part_are_added(now):
    clock = Clock()
    with clock("training"):
        now(3)
        clock.add({"training": 10, "data": 7})
        now(5)
    assert clock.read() == {"training": 18, "data": 7}


def test_an_activity_that_fails_is_over(now):
    clock = Clock()

    def fail():
        with clock("training"):
            now(3)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    now(100)
    with clock("evaluation"):
        now(5)
    assert clock.read() == {"training": 3, "evaluation": 5}
