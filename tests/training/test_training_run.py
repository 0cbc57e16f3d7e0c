"""A finished run: what lies in its directory, and that all figures of it agree."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from run_cases import EPOCH_ENDS, STEPS, assert_same_bits, metrics_of, run_config, state_of
from sklearn.metrics import confusion_matrix
from training_cases import numpy_cross_entropy, numpy_mlp

from normjax.data import Source, load_dataset
from normjax.training import evaluate, loop
from normjax.training.config import load_config
from normjax.training.loop import train

pytest_plugins = ["training_fixtures"]


class Witness(Source):
    """A source that notes who reads what."""

    def __init__(self, source, name, notes):
        self.__dict__.update(vars(source))
        self.source, self.who, self.notes = source, name, notes

    def __len__(self):
        return len(self.source)

    def read(self, indices):
        self.notes.append((self.who, [int(i) for i in indices]))
        return self.source.read(indices)


def figures_by_numpy(path, step):
    """Loss, accuracy, top-5 accuracy and confusion matrix on the test set, from the checkpoint's numbers alone."""
    config = run_config()
    dataset = load_dataset(config.data, seed=config.seed, data_dir=None)
    images, labels = dataset.test.read(np.arange(len(dataset.test)))
    state = state_of(path, str(step))
    scaled = (images / 255 - dataset.info.mean[0]) / dataset.info.std[0]
    logits = numpy_mlp({"params": state.params, **state.model_state}, scaled, train=False)
    top5 = (np.argsort(-logits, 1)[:, :5] == labels[:, None]).any(1)
    predicted = logits.argmax(1)
    figures = {
        "loss": numpy_cross_entropy(logits, labels).mean(),
        "accuracy": (predicted == labels).mean(),
        "top5": top5.mean(),
        "examples": len(labels),
    }
    return figures, confusion_matrix(labels, predicted, labels=range(10))


def test_the_directory_holds_what_is_promised(straight_run):
    path = straight_run.path
    assert load_config(path / "config.json") == straight_run.config
    assert json.loads((path / "summary.json").read_text()) == straight_run.summary
    assert sorted(int(entry.name) for entry in (path / "checkpoints").iterdir()) == [3, 6, 9, 11, 12, 15, 18, 21]
    assert [file.name.split(".")[:3] for file in (path / "tensorboard").iterdir()] == [["events", "out", "tfevents"]]
    for name in ("curves.png", "confusion.png"):
        with Image.open(path / name) as picture:
            assert picture.format == "PNG"
            # Something is drawn on the white.
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    assert not list(path.glob("*.draft"))


def test_summary_and_metrics_and_evaluation_agree(straight_run):
    path, summary = straight_run.path, straight_run.summary
    (tested,) = metrics_of(path, "test")
    assert {name: tested[name] for name in summary["test"]} == summary["test"]
    by_step = {line["step"]: line["accuracy"] for line in metrics_of(path, "validation")}
    assert tuple(by_step) == EPOCH_ENDS
    assert summary["validation_accuracy"] == max(by_step.values()) == by_step[summary["tested_step"]]
    assert (summary["steps"], summary["skipped_steps"]) == (STEPS, 0)
    assert summary["parameters"] == 64 * 8 + 2 * 8 + 8 * 6 + 2 * 6 + 6 * 10 + 10
    for split in ("test", "validation"):
        again = evaluate.evaluate_run(path, split=split, checkpoint="best", data_dir=None)
        line = [line for line in metrics_of(path, split) if line["step"] == summary["tested_step"] or split == "test"][
            -1
        ]
        assert {name: again[name] for name in summary["test"]} == {name: line[name] for name in summary["test"]}
        assert again["step"] == summary["tested_step"]


def test_test_figures_are_those_of_numpy(straight_run):
    expected, _ = figures_by_numpy(straight_run.path, straight_run.summary["tested_step"])
    assert straight_run.summary["test"] == pytest.approx(expected, rel=1e-5)


def test_training_lines_cover_every_step_once(straight_run):
    lines = metrics_of(straight_run.path, "train")
    assert [line["step"] for line in lines] == sorted({*range(2, STEPS, 2), *range(3, STEPS + 1, 3), *EPOCH_ENDS})
    np.testing.assert_allclose(
        [line["epoch"] for line in lines], [line["step"] * 128 / 1295 for line in lines], atol=1e-4
    )
    # Warm-up over half an epoch of 21/2 steps: 5 steps to the peak, then the cosine to 0 at the end.
    for line in lines:
        update = line["step"] - 1
        rate = 0.1 * (update + 1) / 5 if update < 5 else 0.05 * (1 + np.cos(np.pi * (update - 5) / 16))
        np.testing.assert_allclose(line["learning_rate"], rate, rtol=1e-4)


def test_the_network_learns(straight_run):
    lines = metrics_of(straight_run.path, "train")
    assert lines[-1]["loss"] < 0.85 * lines[0]["loss"]


def test_the_checkpoint_best_by_validation_is_the_one_tested(monkeypatch, tmp_path):
    # A later, worse network must not be reported, and the test set must not choose.
    accuracies = iter([0.9, 0.5])
    tables = []

    class Judge(evaluate.Evaluator):
        def score(self, state, source, prepare):
            return judged(super().score(state, source, prepare), source)

    def judged(scores, source):
        if source.name.startswith("digits (test"):
            tables.append(scores.confusion)
            return scores
        return scores._replace(accuracy=next(accuracies))

    monkeypatch.setattr(loop, "Evaluator", Judge)
    summary = train(run_config(run={"keep": 1}), tmp_path / "run")
    assert summary["tested_step"] == EPOCH_ENDS[0]
    assert summary["validation_accuracy"] == 0.9
    expected, confusion = figures_by_numpy(tmp_path / "run", EPOCH_ENDS[0])
    assert summary["test"] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(tables, [confusion])
    # keep=1: the latest and the best remain.
    assert sorted(int(entry.name) for entry in (tmp_path / "run" / "checkpoints").iterdir()) == [*EPOCH_ENDS]


def test_without_validation_the_last_checkpoint_is_tested(tmp_path):
    config = run_config(data={"validation": 0})
    summary = train(config, tmp_path / "run")
    assert summary["tested_step"] == summary["steps"] == 23  # of 1,438 images in batches of 128, twice
    assert summary["validation_accuracy"] is None
    assert metrics_of(tmp_path / "run", "validation") == []
    result = evaluate.evaluate_run(tmp_path / "run", split="test", checkpoint="last", data_dir=None)
    assert {name: result[name] for name in summary["test"]} == summary["test"]


def test_the_test_set_is_read_once_and_last(monkeypatch, tmp_path):
    notes = []

    def load(*arguments, **options):
        dataset = load_dataset(*arguments, **options)
        witnesses = {name: Witness(getattr(dataset, name), name, notes) for name in ("train", "validation", "test")}
        return dataset._replace(**witnesses)

    monkeypatch.setattr(loop, "load_dataset", load)
    train(run_config(), tmp_path / "run")
    who = [name for name, _ in notes]
    first = who.index("test")
    assert set(who[first:]) == {"test"}
    assert sorted(i for name, indices in notes if name == "test" for i in indices) == [*range(359)]
    # Each validation reads all of its examples; training reads whole batches.
    assert sorted(i for name, indices in notes if name == "validation" for i in indices) == sorted([*range(143)] * 2)
    assert [len(indices) for name, indices in notes if name == "train"] == [128] * STEPS


def test_a_finished_run_started_again_only_says_what_it_reached(straight_run, tmp_path):
    path = tmp_path / "run"
    first = train(run_config(), path)
    metrics = (path / "metrics.jsonl").read_text()
    state = state_of(path)
    second = train(run_config(), path)
    assert (path / "metrics.jsonl").read_text() == metrics
    assert_same_bits(state_of(path), state)
    changing = ("seconds", "images_per_second", "finished")
    assert {**second, **dict.fromkeys(changing)} == {**first, **dict.fromkeys(changing)}
    assert second["seconds"]["training"] == first["seconds"]["training"]
    # And the run is a function of its config: that of another directory is the same, bit for bit.
    assert metrics == (straight_run.path / "metrics.jsonl").read_text()
    assert_same_bits(state, state_of(straight_run.path))


def test_every_seed_gives_another_run(straight_run, tmp_path):
    train(run_config(seed=1), tmp_path / "run")
    other, this = state_of(tmp_path / "run"), state_of(straight_run.path)
    for a, b in zip(jax.tree.leaves(other.params), jax.tree.leaves(this.params), strict=True):
        assert not np.array_equal(a, b)
