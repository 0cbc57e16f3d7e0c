"""``normjax fold`` writes a program that predicts what the run predicts, and says what it did."""

import json

import numpy as np
import pytest
from cli_cases import contents, digit_file
from jax import export, nn
from PIL import Image

pytest_plugins = ["cli_fixtures"]


def test_the_program_predicts_as_the_run_does_for_any_number_of_images(command, finished, tmp_path):
    before = contents(finished)
    file = tmp_path / "digits.stablehlo"
    code, out, err = command("fold", finished, "--output", file, "--json")
    assert (code, err) == (0, "")
    assert contents(finished) == before
    told = json.loads(out)
    assert told["file"] == str(file)
    assert told["bytes"] == file.stat().st_size
    # Each of the network's norms stands behind a layer that takes it.
    assert told["folded"] == ["norm0", "norm1"]
    assert told["multiply_adds"] == []
    assert told["largest_difference"] <= 1e-5 * told["largest_logit"]
    program = export.deserialize(bytearray(file.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    pictures = [digit_file(tmp_path / f"{i}.png", i) for i in range(3)]
    pixels = np.stack([np.asarray(Image.open(picture))[..., None] for picture in pictures])
    answers = json.loads(command("predict", finished, *pictures, "--top", "10", "--json").out)
    for count in (1, 3):
        probabilities = nn.softmax(program.call(pixels[:count]))
        for row, answer in zip(probabilities, answers, strict=False):
            for prediction in answer["predictions"]:
                assert row[int(prediction["class"])] == pytest.approx(prediction["probability"], abs=1e-5)


def test_the_file_lies_in_the_run_and_the_table_says_so(command, finished):
    code, out, err = command("fold", finished)
    assert (code, err) == (0, "")
    file = finished / "folded.stablehlo"
    assert file.is_file()
    file.unlink()  # the run is shared by the tests
    assert "/folded." in out.replace("│", "").replace("\n", "").replace(
        " ", ""
    )  # the table may break the path after it
    assert "norm0, norm1" in out


def test_a_file_that_cannot_be_written(refused, finished, tmp_path):
    file = tmp_path / "nosuch" / "x"
    assert refused("fold", finished, "--output", file) == f"{file} cannot be written: No such file or directory."
