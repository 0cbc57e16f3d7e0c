"""``normjax prune`` writes the run of a smaller network, and says what became of the larger one."""

import json

from cli_cases import contents, digit_file

pytest_plugins = ["cli_fixtures"]

OPTIONS = ("--keep-params", "0.8", "--step", "0.3", "--epochs", "0.5", "--final-epochs", "0.5", "--multiple", "1")


def test_a_smaller_run_is_told_of_and_used_as_any_other(command, finished, tmp_path):
    path, before = tmp_path / "smaller", contents(finished)
    code, out, err = command("prune", finished, *OPTIONS, "--output", path)
    assert (code, err) == (0, "")
    assert contents(finished) == before
    told = json.loads((path / "pruning.json").read_text())
    assert (path / "pruning.png").stat().st_size > 10_000
    assert f"{told['before']['parameters']:,}" in out
    assert f"{told['after']['parameters']:,}" in out
    for told_round in told["rounds"]:
        assert f"{told_round['accuracy']:.2%}" in out
    # In 80 columns headings were cut short, and units taken for markup.
    assert "[ms]" in out
    assert "…" not in out

    evaluated = json.loads(command("evaluate", path, "--json").out)
    assert evaluated["accuracy"] == told["after"]["test_accuracy"]
    answer = command("predict", path, digit_file(tmp_path / "zero.png"), "--json")
    assert (answer.code, len(json.loads(answer.out)[0]["predictions"])) == (0, 5)
    assert command("structure", path).code == 0


def test_mistakes_are_one_line(command, refused, finished, tmp_path):
    path = tmp_path / "smaller"
    assert command("prune", finished, *OPTIONS, "--output", path).code == 0
    none = "no target given; give one of target_accuracy, max_drop, keep_macs, keep_params, or the last two"
    assert refused("prune", finished) == none
    message = refused("prune", finished, "--keep-params", "0.7", *OPTIONS[2:], "--output", path)
    assert message == (f"{path} was begun by another pruning (keep_params was 0.8, now 0.7); give a new --output.")
    assert "perhaps you meant" in refused("prune", finished, "--keep-mac", "0.5")
    assert refused("prune", tmp_path, "--max-drop", "0.1") == f"{tmp_path} is no run directory: config.json is missing."


def test_neurons_are_ranked_and_seen(command, refused, finished, tmp_path):
    code, out, _ = command("neurons", finished, "--json", "--output", tmp_path / "ranks.png")
    told = json.loads(out)
    assert code == 0
    assert 0 <= told["bias"]["mean"] < told["bias"]["none"] <= 1
    code, out, _ = command("neurons", finished, "--output", tmp_path / "ranks.png")
    assert "explained by the layer" in out
    assert str(tmp_path / "ranks.png") in out
    assert refused("see", finished, "nothing").startswith("group='nothing' is no group of neurons")
    assert "score" in refused("neurons", finished, "--score", "beauty")
