"""Evaluation against numpy and scikit-learn: every example once, padding never, on any number of devices."""

import jax
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, top_k_accuracy_score
from training_cases import (
    MEAN,
    STD,
    Steps,
    draw_batch,
    numpy_cross_entropy,
    numpy_mlp,
    tiny_config,
    uneven_mask,
)

from normjax.data import MemorySource
from normjax.data.transforms import identity
from normjax.training.config import ModelConfig, RunConfig
from normjax.training.evaluate import Evaluator

WAYS = [("pmap", 1), ("pmap", 8), ("shard_map", 8)]


def evaluator(mode, devices, **changes):
    config = tiny_config(mode, run=RunConfig(parallel=mode, eval_batch_size=13), **changes)
    return Steps(config, devices)


def examples(count=37, seed=5):
    """A number of examples that no number of devices divides, and the logits that numpy gives them."""
    batch = draw_batch(count, seed=seed)
    source = MemorySource("tiny (test)", "0123456789", batch["image"], batch["label"])
    return source, batch["image"], batch["label"]


def scaled(images):
    return (images / 255 - MEAN) / STD


def variables_of(state):
    return {"params": state.params, **state.model_state}


@pytest.mark.parametrize(("mode", "devices"), WAYS)
def test_sums_of_a_masked_batch_are_those_of_its_valid_rows(mode, devices):
    steps = evaluator(mode, devices)
    state = steps.start()
    mask = uneven_mask(32, (4, 1, 0, 3, 2, 4, 1, 3))
    batch = draw_batch(valid=mask)
    # What is padded may be anything, NaN included.
    images = scaled(batch["image"]).astype(np.float32)
    images[~mask] = np.nan
    step = steps.parallel.map(steps.session.eval_step, ("replicated", "sharded"))
    sums, logits = step(steps.parallel.replicate(state), steps.parallel.shard({**batch, "image": images}))
    expected = numpy_mlp(variables_of(state), images, train=False)
    np.testing.assert_allclose(steps.parallel.gather(logits)[mask], expected[mask], rtol=1e-4, atol=1e-5)
    loss, correct, top5, count = steps.parallel.fetch(sums)
    right, labels = expected[mask], batch["label"][mask]
    np.testing.assert_allclose(loss, numpy_cross_entropy(right, labels).sum(), rtol=1e-5)
    assert correct == (right.argmax(1) == labels).sum()
    assert top5 == top_k_accuracy_score(labels, right, k=5, labels=range(10), normalize=False)
    assert count == mask.sum()


@pytest.mark.parametrize(("mode", "devices"), WAYS)
def test_every_example_is_counted_once(mode, devices):
    # 37 examples in batches of 13, rounded up to 16 on 8 devices: the Flax example drops the remainder.
    steps = evaluator(mode, devices)
    state = steps.start()
    source, images, labels = examples()
    scores = Evaluator(steps.session).score(steps.parallel.replicate(state), source, identity())
    logits = numpy_mlp(variables_of(state), scaled(images), train=False)
    predicted = logits.argmax(1)
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(labels, predicted, labels=range(10)))
    assert scores.confusion.sum() == scores.examples == 37
    assert round(scores.accuracy * 37) == np.trace(scores.confusion) == (predicted == labels).sum()
    np.testing.assert_allclose(scores.loss, numpy_cross_entropy(logits, labels).mean(), rtol=1e-5)
    np.testing.assert_allclose(scores.top5, top_k_accuracy_score(labels, logits, k=5, labels=range(10)), rtol=1e-6)


def test_outputs_without_a_class_may_be_predicted_but_are_no_truth():
    # num_classes=12 for ten classes: columns 10 and 11 count what went there.
    steps = evaluator("pmap", 8, model=ModelConfig(name="mlp", widths=(8, 6), num_classes=12))
    state = steps.start()
    state.params["head"]["bias"][11] = 2
    source, images, labels = examples()
    scores = Evaluator(steps.session).score(steps.parallel.replicate(state), source, identity())
    predicted = numpy_mlp(variables_of(state), scaled(images), train=False).argmax(1)
    assert (predicted == 11).any()
    np.testing.assert_array_equal(scores.confusion, confusion_matrix(labels, predicted, labels=range(12))[:10])
    assert round(scores.accuracy * 37) == (predicted == labels).sum()


def test_a_network_that_gives_nan_has_no_right_answer():
    # argmax takes NaN for the largest: all examples of class 0 would be right.
    steps = evaluator("pmap", 1)
    state = steps.start()
    state = state.replace(params=jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), state.params))
    source, _, labels = examples()
    assert (labels == 0).any()
    scores = Evaluator(steps.session).score(steps.parallel.replicate(state), source, identity())
    assert np.isnan(scores.loss)
    assert (scores.accuracy, scores.top5) == (0, 0)
    assert scores.examples == 37


def test_ties_are_counted_as_argmax_does():
    # All logits equal, as of a head of zeros: the class is 0, and it is in the top five of itself.
    steps = evaluator("pmap", 1)
    state = steps.start()
    state.params["head"]["kernel"][:] = 0
    state.params["head"]["bias"][:] = 0
    source, _, labels = examples()
    scores = Evaluator(steps.session).score(steps.parallel.replicate(state), source, identity())
    assert round(scores.accuracy * 37) == (labels == 0).sum()
    np.testing.assert_array_equal(scores.confusion.sum(0), [37] + [0] * 9)
    np.testing.assert_allclose(scores.loss, np.log(10), rtol=1e-6)


def test_a_batch_size_is_rounded_up_to_the_devices():
    assert evaluator("pmap", 8).session.eval_batch_size == 16
    assert evaluator("pmap", 1).session.eval_batch_size == 13
