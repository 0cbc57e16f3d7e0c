"""What ``evaluate`` and ``predict`` print: one JSON value, or a table with the same figures."""

import json

import numpy as np
import pytest
from cli_cases import contents, digit_file
from PIL import Image

pytest_plugins = ["cli_fixtures"]

INDICES = range(12)


@pytest.fixture
def pictures(tmp_path):
    return [digit_file(tmp_path / f"{i}.png", i) for i in INDICES]


@pytest.mark.parametrize("split", ["test", "validation"])
def test_evaluation_is_that_of_the_run(command, finished, split):
    before = contents(finished)
    code, out, err = command("evaluate", finished, "--split", split, "--checkpoint", "21", "--json")
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if (line["split"], line["step"]) == ("validation", 21)]
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["tested_step"] == 21
    figures = summary["test"] if split == "test" else {name: line[name] for name in summary["test"]}
    assert json.loads(out) == {"run": str(finished), "split": split, "step": 21, **figures}
    assert contents(finished) == before


def test_every_training_example_is_evaluated_too(command, finished):
    _, out, _ = command("evaluate", finished, "--split", "train", "--json")
    assert json.loads(out)["examples"] == 1797 - 359 - 143


def test_the_table_has_the_figures_of_the_json(command, finished):
    figures = json.loads(command("evaluate", finished, "--json").out)
    code, out, err = command("evaluate", finished)
    assert (code, err) == (0, "")
    for text in (f"{figures['accuracy']:.2%}", f"{figures['top5']:.2%}", f"{figures['loss']:.4f} nats", "359 images"):
        assert text in out


def test_predictions_are_sorted_and_share_one_probability(command, finished, pictures):
    code, out, err = command("predict", finished, *pictures, "--top", "10", "--json")
    assert (code, err) == (0, "")
    answers = json.loads(out)
    assert [answer["image"] for answer in answers] == [str(picture) for picture in pictures]
    for answer in answers:
        shares = [prediction["probability"] for prediction in answer["predictions"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-6)
        assert {prediction["class"] for prediction in answer["predictions"]} == set("0123456789")
    # --top cuts, and changes nothing else; the middle of the row, alone, is told the same.
    code, out, _ = command("predict", finished, pictures[5], "--top", "3", "--json")
    (alone,) = json.loads(out)
    assert [p["class"] for p in alone["predictions"]] == [p["class"] for p in answers[5]["predictions"][:3]]
    got, expected = ([p["probability"] for p in a["predictions"][:3]] for a in (alone, answers[5]))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert sum(got) < 1


def test_a_picture_of_another_kind_is_brought_to_that_of_the_network(command, finished, tmp_path):
    # In colour and in another format, the grey levels are the same.
    grey = digit_file(tmp_path / "grey.png", 3)
    colour = tmp_path / "colour.bmp"
    with Image.open(grey) as image:
        image.convert("RGB").save(colour)
    _, out, _ = command("predict", finished, grey, colour, "--json")
    first, second = json.loads(out)
    assert first["predictions"] == second["predictions"]


def test_a_picture_of_another_size_is_brought_to_that_of_the_network(command, finished, tmp_path):
    # Resized beforehand by Pillow's bilinear filter, or by the command: the same picture for the network.
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    with Image.open(digit_file(tmp_path / "digit.png", 3)) as image:
        image.resize((24, 24), Image.Resampling.NEAREST).save(large)
    with Image.open(large) as image:
        image.resize((8, 8), Image.Resampling.BILINEAR).save(small)
    _, out, _ = command("predict", finished, large, small, "--json")
    first, second = json.loads(out)
    assert first["predictions"] == second["predictions"]


def test_the_table_of_predictions_names_picture_and_class(command, finished, pictures):
    (answer,) = json.loads(command("predict", finished, pictures[0], "--json").out)
    code, out, err = command("predict", finished, pictures[0])
    assert (code, err) == (0, "")
    assert pictures[0].name in out.replace("\n", "")
    for prediction in answer["predictions"]:
        assert f"{prediction['class']}" in out
        assert f"{prediction['probability']:.2%}" in out
