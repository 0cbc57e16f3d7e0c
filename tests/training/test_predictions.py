"""Predictions of pictures from a run directory, against numpy on the checkpoint's numbers."""

import numpy as np
import pytest
from PIL import Image
from run_cases import EPOCH_ENDS, contents, run_config, state_of
from sklearn.datasets import load_digits
from training_cases import numpy_mlp

from normjax.data import load_dataset
from normjax.errors import UserError
from normjax.training.predict import predict_run

pytest_plugins = ["training_fixtures"]

INDICES = (3, 100, 777, 1500)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of some digits, and their pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.round(load_digits().images[list(INDICES)] * (255 / 16)).astype(np.uint8)
    files = [folder / f"{index}.png" for index in INDICES]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    return files, pixels


@pytest.mark.parametrize("checkpoint", [str(EPOCH_ENDS[0]), "last"])
def test_probabilities_are_the_softmax_of_numpy(straight_run, pictures, checkpoint):
    # With the mean and standard deviation of the training images, whatever the pictures at hand have.
    files, pixels = pictures
    config = run_config()
    info = load_dataset(config.data, seed=config.seed, data_dir=None).info
    state = state_of(straight_run.path, checkpoint)
    variables = {"params": state.params, **state.model_state}
    logits = numpy_mlp(variables, (pixels / 255 - info.mean[0]) / info.std[0], train=False)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answers = predict_run(straight_run.path, files, top=10, checkpoint=checkpoint)
    for answer, file, row in zip(answers, files, expected, strict=True):
        assert answer["image"] == str(file)
        told = {p["class"]: p["probability"] for p in answer["predictions"]}
        assert list(told) == [str(i) for i in np.argsort(-row)]
        np.testing.assert_allclose(list(told.values()), np.sort(row)[::-1], rtol=1e-4)


def test_top_is_cut_at_the_number_of_classes(straight_run, pictures):
    files, _ = pictures
    (all_of_them,) = predict_run(straight_run.path, files[:1], top=99)
    assert len(all_of_them["predictions"]) == 10
    (three,) = predict_run(straight_run.path, files[:1], top=3)
    assert three["predictions"] == all_of_them["predictions"][:3]


def test_a_file_that_is_no_picture_is_named_and_the_run_left_alone(straight_run, pictures, tmp_path):
    files, _ = pictures
    before = contents(straight_run.path)
    (tmp_path / "text.png").write_text("no picture")
    for bad, message in ((tmp_path / "text.png", "not a picture"), (tmp_path / "gone.png", "No such file")):
        with pytest.raises(UserError, match=message) as error:
            predict_run(straight_run.path, [files[0], bad])
        assert str(bad) in str(error.value)
    assert contents(straight_run.path) == before
