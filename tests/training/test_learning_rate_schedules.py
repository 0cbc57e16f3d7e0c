"""The course of the learning rate, against its formula, at every step of a training."""

import numpy as np
import pytest

from normjax.training.config import OptimizerConfig, ScheduleConfig, TrainConfig
from normjax.training.optimizer import make_schedule

STEPS, EPOCHS, PEAK = 200, 10, 0.4


def rates(total=STEPS, **schedule):
    config = TrainConfig(
        epochs=EPOCHS, schedule=ScheduleConfig(**schedule), optimizer=OptimizerConfig(learning_rate=PEAK)
    )
    course = make_schedule(config, total)
    return np.array([float(course(step)) for step in range(total)])


def warmed_up(after, warmup):
    """1/n, 2/n, ... n/n of the peak, then ``after`` of the steps since."""
    return np.array([PEAK * (t + 1) / warmup if t < warmup else after(t - warmup) for t in range(STEPS)])


@pytest.mark.parametrize("warmup", [0, 0.05, 1, 2.5, 9])
def test_cosine_falls_to_zero_over_what_the_warmup_leaves(warmup):
    # 20 steps an epoch; 0.05 epochs are a single step.
    steps = round(20 * warmup)
    expected = warmed_up(lambda t: PEAK * 0.5 * (1 + np.cos(np.pi * t / (STEPS - steps))), steps)
    np.testing.assert_allclose(rates(name="cosine", warmup_epochs=warmup), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("warmup", [0, 1, 6])
def test_milestones_are_shares_of_the_whole_training(warmup):
    # The warm-up counts: after 6 epochs of it the first milestone, at half of the training, is over already.
    def rate(t):
        step = t + 20 * warmup
        return PEAK * 0.2 ** ((step > 100) + (step > 150))

    course = rates(name="step", warmup_epochs=warmup, milestones=(0.5, 0.75), factor=0.2)
    expected = warmed_up(rate, 20 * warmup)
    # Whether the rate falls with the milestone's step or the one after it is nobody's business.
    apart = np.setdiff1d(np.arange(STEPS), [100, 150])
    np.testing.assert_allclose(course[apart], expected[apart], rtol=1e-5)


def test_constant_stays_at_the_peak():
    np.testing.assert_allclose(rates(name="constant", warmup_epochs=1), warmed_up(lambda _: PEAK, 20), rtol=1e-6)


@pytest.mark.parametrize("peak", [0.2, 0.5])
def test_one_cycle_rises_and_falls_by_half_cosines(peak):
    # Smith & Topin as fastai and PyTorch have it: from 1/25 of the peak up, and down to 1/10,000 of where it began.
    def between(start, end, share):
        return end + (start - end) * 0.5 * (1 + np.cos(np.pi * share))

    top, low, end = peak * STEPS, PEAK / 25, PEAK / 25 / 1e4
    expected = [
        between(low, PEAK, t / top) if t < top else between(PEAK, end, (t - top) / (STEPS - top)) for t in range(STEPS)
    ]
    course = rates(name="one_cycle", peak=peak, warmup_epochs=1)
    np.testing.assert_allclose(course, expected, rtol=1e-4, atol=1e-7)
    assert course.argmax() == top


@pytest.mark.parametrize("name", ["constant", "cosine", "step", "one_cycle"])
@pytest.mark.parametrize("total", [1, 2, 5])
def test_the_first_step_moves_and_no_rate_is_negative(name, total):
    # Even of a training that is shorter than its own warm-up is fine.
    course = rates(total, name=name, warmup_epochs=1)
    assert course[0] > 0
    assert (course >= 0).all()
    assert (course <= PEAK * (1 + 1e-6)).all()
