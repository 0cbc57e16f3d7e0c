"""A training step on images drawn at random, ready to be timed."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from normjax.data import DatasetInfo
from normjax.training.config import TrainConfig
from normjax.training.session import Session, build_session


def session_of(config: TrainConfig, side: int = 32) -> Session:
    """What the config describes, on one device, for images of this many pixels a side."""
    info = DatasetInfo(
        name="noise",
        classes=tuple("0123456789"),
        image_shape=(side, side, 3),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        train_examples=50_000,
        validation_examples=0,
        test_examples=1,
    )
    return build_session(config, info, jax.devices()[:1])


def seconds_of_steps(session: Session, steps: int) -> list[float]:
    """Seconds of each step from the first, which compiles, with the refresh of the reference where one is due."""
    generator = np.random.default_rng(0)

    def draw(count: int) -> np.ndarray:
        return generator.integers(0, 256, (count, *session.info.image_shape), np.uint8)

    config, parallel = session.config, session.parallel
    pixels = draw(config.batch_size)
    state = parallel.replicate(session.initial_state(draw(config.reference.size) if config.has_reference else None))
    labels = generator.integers(0, 10, config.batch_size).astype(np.int32)
    rows = parallel.shard({"image": pixels, "label": labels})
    step = parallel.map(session.train_step, ("replicated", "replicated"), donate=True)
    refresh: Callable[[Any], Any] | None = None
    if session.refresh is not None:
        refresh = parallel.map(session.refresh, "replicated", inputs=("replicated",), donate=True)
    times = []
    for number in range(1, steps + 1):
        start = time.perf_counter()
        if refresh is not None and session.refreshes_before(number):
            state = refresh(state)
        state, _ = step(state, rows)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - start)
    return times
