"""Finished runs made smaller while a target holds."""

import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from run_cases import run_config

from normjax.data.options import StreamConfig
from normjax.errors import UserError
from normjax.pruning import run as pruning_run
from normjax.pruning import search
from normjax.pruning.config import PruneConfig
from normjax.pruning.figures import draw_pruning
from normjax.pruning.run import prune_run
from normjax.pruning.search import Search
from normjax.training.checkpoint import Checkpoints
from normjax.training.config import (
    DataConfig,
    ModelConfig,
    NormConfig,
    OptimizerConfig,
    ReferenceConfig,
    WeightNormConfig,
)
from normjax.training.evaluate import evaluate_run, restore_network
from normjax.training.loop import train
from normjax.training.run_directory import RunDirectory
from normjax.training.stop import StoppedError, StopRequest
from normjax.training.weights import write_weights

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("without_pictures")

MODEL = ModelConfig(name="convnet", widths=(6, 8), dense=(16,))
SIZES = {"conv0_0": 6, "conv0_1": 6, "conv1_0": 8, "conv1_1": 8, "dense0": 16}
OPTIONS = {"epochs": 0.5, "final_epochs": 0.5, "learning_rate": 0.05, "step": 0.2, "min_step": 0.1, "multiple": 1}

TIMES = {"1": 1.0, "128": 9.0}  # where none are measured


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    train(run_config(model=MODEL, optimizer=OptimizerConfig(learning_rate=0.2)), path)
    return path


@pytest.fixture(scope="module")
def pruned(trained, tmp_path_factory):
    output = tmp_path_factory.mktemp("pruned") / "smaller"
    return output, prune_run(trained, output, PruneConfig(max_drop=0.3, **OPTIONS))


@pytest.fixture(autouse=True)
def without_times(monkeypatch):
    """Networks of many sizes compile for longer than all else here; those of ``pruned`` are measured."""
    monkeypatch.setattr(pruning_run, "milliseconds", lambda networks, *_: [TIMES] * len(networks))


def test_the_target_holds_for_what_was_accepted(pruned):
    _, told = pruned
    first, *rounds = told["rounds"]
    accepted = [r for r in rounds if r["accepted"]]
    assert accepted
    for r in rounds:
        assert r["accepted"] == (r["accuracy"] >= first["accuracy"] - 0.3)
    # Ever smaller, by a step of all neurons each time.
    for before, after in zip([first, *accepted], accepted, strict=False):
        assert before["neurons"] - after["neurons"] == round(after["step"] * sum(SIZES.values()))
        assert after["parameters"] < before["parameters"]
        assert after["multiply_adds"] < before["multiply_adds"]
    assert told["after"]["neurons"] == accepted[-1]["neurons"] == sum(map(len, told["kept"].values()))
    for r in told["rounds"]:
        assert r["milliseconds"]["128"] > r["milliseconds"]["1"] > 0
        assert r["milliseconds"] != TIMES
    assert told["neurons"] == SIZES
    assert told["not_followed"] == {"head/kernel": ["an output of the network"]}


def test_the_smaller_network_is_a_run_like_any_other(pruned):
    output, told = pruned
    session, network, _ = restore_network(output)
    assert session.config.model.kept == {name: tuple(numbers) for name, numbers in told["kept"].items()}
    assert sum(leaf.size for leaf in jax.tree.leaves(network["params"])) == told["after"]["parameters"]
    evaluated = evaluate_run(output, split="test", checkpoint="best", data_dir=None)
    assert evaluated["accuracy"] == told["after"]["test_accuracy"]
    assert told["before"]["test_accuracy"] > 0.5
    summary = json.loads((output / "summary.json").read_text())
    assert summary["parameters"] == told["after"]["parameters"]
    # Trained on, it ends at once with the same figures.
    assert train(session.config, output)["test"] == summary["test"]


class ReachedError(Exception):
    """The search is over, and its network is written."""


def test_what_begins_is_the_network_with_zeros(trained, tmp_path, monkeypatch):
    # Masks in the search and real shapes at the end are one network: same predictions.
    found = []
    carry_out = Search.carry_out
    monkeypatch.setattr(Search, "carry_out", lambda self: found.append((self, carry_out(self))) or found[0][1])

    def reached(*_, **__):
        raise ReachedError

    monkeypatch.setattr(pruning_run, "train", reached)
    output = tmp_path / "smaller"
    with pytest.raises(ReachedError):
        prune_run(trained, output, PruneConfig(keep_params=0.5, **OPTIONS))
    searched, (kept, variables, rounds, *_) = found[0]
    session, network, step = restore_network(output)
    assert step == 0
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 8, 8, 1)), jnp.float32)
    expected = searched.model.apply(variables, x, train=False)
    chex.assert_trees_all_close(session.model.apply(network, x, train=False), expected, rtol=1e-5, atol=1e-5)
    # As small as was asked for, and not smaller than one neuron less would be.
    assert rounds[-1].parameters <= 0.5 * rounds[0].parameters
    assert rounds[-1].parameters > 0.4 * rounds[0].parameters
    assert {name: len(numbers) for name, numbers in kept.items()} == rounds[-1].widths


def test_it_goes_on_where_it_stopped_to_the_same_end(trained, pruned, tmp_path, monkeypatch):
    _, expected = pruned
    output, options = tmp_path / "smaller", PruneConfig(max_drop=0.3, **OPTIONS)
    stop = StopRequest()
    fine_tune = Search._fine_tune

    def interrupted(self, state, number):
        stop.signal = 15  # asked for in the middle of a round, which is finished
        return fine_tune(self, state, number)

    monkeypatch.setattr(Search, "_fine_tune", interrupted)
    with pytest.raises(StoppedError, match="stopped after round 1"):
        prune_run(trained, output, options, stop=stop)
    monkeypatch.setattr(Search, "_fine_tune", fine_tune)
    told = prune_run(trained, output, options)
    both = [[{**r, "milliseconds": None} for r in rounds] for rounds in (told["rounds"], expected["rounds"])]
    assert both[0] == both[1]
    assert told["kept"] == expected["kept"]
    assert told["after"]["test_accuracy"] == expected["after"]["test_accuracy"]


def test_a_part_of_the_multiplications_is_left(trained, tmp_path):
    options = PruneConfig(keep_macs=0.5, score="taylor_activation", score_images=200, **OPTIONS)
    told = prune_run(trained, tmp_path / "smaller", options)
    share = told["after"]["multiply_adds"] / told["before"]["multiply_adds"]
    assert 0.4 < share <= 0.5
    # Each round takes what it may, the last one what is needed.
    assert all(r["accepted"] for r in told["rounds"])


def test_multiplications_and_parameters_are_both_left_as_asked(trained, tmp_path):
    # Parameters alone would be reached with the hidden dense layer, which has most of them and few multiplications.
    told = prune_run(trained, tmp_path / "smaller", PruneConfig(keep_macs=0.6, keep_params=0.5, **OPTIONS))
    assert told["after"]["multiply_adds"] <= 0.6 * told["before"]["multiply_adds"]
    assert told["after"]["parameters"] <= 0.5 * told["before"]["parameters"]


@pytest.mark.parametrize(
    # A neuron of conv0_1 takes part in 9 · 6 · 64 + 9 · 8 · 16 products, one of conv1_1 in 9 · 8 + 4 · 16 weights.
    ("target", "dearest"),
    [({"keep_macs": 0.8}, "conv0_1"), ({"keep_params": 0.8}, "conv1_1")],
)
def test_of_equal_scores_those_of_the_dearest_neurons_go(trained, tmp_path, monkeypatch, target, dearest):
    even = {name: np.ones(size) for name, size in SIZES.items()}
    monkeypatch.setattr(Search, "_scores", lambda *_: even)
    options = OPTIONS | {"step": 0.05, "min_step": 0.05, "epochs": 0.1, "final_epochs": 0.1, "per_cost": True}
    told = prune_run(trained, tmp_path / "smaller", PruneConfig(**target, **options))
    assert told["rounds"][1]["widths"] == SIZES | {dearest: SIZES[dearest] - 2}


def test_a_size_that_is_reached_costs_nothing_any_more(trained, tmp_path):
    # The other one's neurons went on to go from where products are, and a quarter of these was left instead of 40 %.
    options = OPTIONS | {
        "score": "taylor_gate",
        "debias": "none",
        "epochs": 0.1,
        "final_epochs": 0.1,
        "score_images": 200,
    }
    told = [
        prune_run(trained, tmp_path / str(per), PruneConfig(keep_macs=0.8, keep_params=0.4, per_cost=per, **options))
        for per in (False, True)
    ]
    products, parameters = (
        [t["after"][what] / t["before"][what] for t in told] for what in ("multiply_adds", "parameters")
    )
    assert max(parameters) <= 0.4
    assert 0.8 >= products[1] > products[0]


def test_layers_in_turn_lose_their_own_neurons_only(trained, tmp_path):
    told = prune_run(trained, tmp_path / "smaller", PruneConfig(keep_macs=0.4, order="in_turn", **OPTIONS))
    turns = [name for _, name in zip(told["rounds"][1:], SIZES, strict=False)]
    assert len(turns) == len(SIZES)
    for before, after, layer in zip(told["rounds"], told["rounds"][1:], turns, strict=False):
        changed = [name for name in SIZES if after["widths"][name] != before["widths"][name]]
        assert changed == [layer]
        assert before["widths"][layer] - after["widths"][layer] <= max(1, round(0.2 * SIZES[layer]))


@pytest.mark.parametrize(
    ("target", "faster"), [({"max_drop": 0.3}, True), ({"keep_macs": 0.6}, True), ({"keep_macs": 0.6}, False)]
)
def test_widths_are_cut_to_a_multiple_where_that_is_faster(trained, tmp_path, monkeypatch, target, faster):
    monkeypatch.setattr(search, "milliseconds", lambda *_: [{"128": 1.0}, {"128": 2.0 if faster else 0.5}])
    monkeypatch.setattr(search, "_BEYOND", 1.0)  # of so small a network four neurons are much
    told = prune_run(
        trained, tmp_path / "smaller", PruneConfig(**target, **OPTIONS | {"multiple": 4, "step": 0.3, "min_step": 0.3})
    )
    widths = {name: len(numbers) for name, numbers in told["kept"].items()}
    assert told["cut"]["taken"] == faster
    last = told["rounds"][-1]
    # A cut must hold the target as any round.
    cut = faster and last["accepted"]
    # One whose nearest multiple is more than it had before stays as it is.
    before = next(r["widths"] for r in reversed(told["rounds"][:-1]) if r["accepted"])
    for name, width in widths.items():
        assert not cut or width % 4 == 0 or 4 * math.ceil(width / 4) > before[name]
    assert cut or any(width % 4 for width in widths.values())
    if "keep_macs" in target:
        assert told["after"]["multiply_adds"] <= 0.6 * told["before"]["multiply_adds"]


def test_a_cut_far_beyond_what_was_asked_for_is_not_tried(trained, tmp_path, monkeypatch):
    # A ResNet-20 that was to keep 50 % of its products was cut to 30 %, as that was faster.
    monkeypatch.setattr(search, "milliseconds", lambda *_: [{"128": 1.0}, {"128": 1.0}])
    options = OPTIONS | {"multiple": 4, "step": 0.3, "epochs": 0.1, "final_epochs": 0.1}
    told = prune_run(trained, tmp_path / "smaller", PruneConfig(keep_macs=0.6, **options))
    assert told["cut"] is None
    assert 0.6 >= told["after"]["multiply_adds"] / told["before"]["multiply_adds"] > 0.5


def test_a_size_that_is_below_what_must_stay_is_refused_at_once(trained, tmp_path):
    # All layers went down to their least, and the final epochs were run, before it was said.
    with pytest.raises(UserError, match=r"keep_params=0\.005 cannot be reached: 0\.\d+ of it is what min_keep=0\.1"):
        prune_run(trained, tmp_path / "smaller", PruneConfig(keep_params=0.005, **OPTIONS))


def test_fine_tuning_that_diverges_is_no_round(trained, tmp_path):
    options = PruneConfig(keep_macs=0.5, **OPTIONS | {"learning_rate": 1e30})
    with pytest.raises(UserError, match=r"round 1.* not finite; use a learning_rate below 1e\+30"):
        prune_run(trained, tmp_path / "smaller", options)


def test_the_test_accuracy_before_is_that_of_the_checkpoint(trained):
    run = RunDirectory(trained)
    summary = json.loads(run.summary_file.read_text())
    assert pruning_run._tested(run, summary["tested_step"]) == summary["test"]["accuracy"]
    assert pruning_run._tested(run, summary["tested_step"] + 1) is None


def test_a_pruned_network_is_pruned_again(pruned, tmp_path):
    first, told = pruned
    again = prune_run(first, tmp_path / "again", PruneConfig(keep_macs=0.9, **OPTIONS))
    for name, numbers in again["kept"].items():
        assert set(numbers) <= set(told["kept"][name])
    assert again["after"]["multiply_adds"] < told["after"]["multiply_adds"]
    assert np.isfinite(evaluate_run(tmp_path / "again", split="test", checkpoint="last", data_dir=None)["loss"])


def test_a_network_with_structural_weights_is_pruned_as_a_plain_one(tmp_path):
    # Sparsity inside the weight norm: kernels are written back as plain ones first.
    config = run_config(
        model=ModelConfig(name="mlp", widths=(12, 10)),
        weight_norm=WeightNormConfig(name="structural", options={"measure": "sparsity", "strength": 0.02}),
    )
    train(config, tmp_path / "run")
    told = prune_run(tmp_path / "run", tmp_path / "smaller", PruneConfig(keep_params=0.8, **OPTIONS))
    session, network, _ = restore_network(tmp_path / "smaller")
    assert session.config.weight_norm.name == "none"
    assert network["params"]["dense0"]["kernel"].shape == (64, len(told["kept"]["dense0"]))


def test_rounds_take_the_reference_and_the_order_of_the_run(tmp_path, monkeypatch):
    # Fine-tuning once kept the statistics of the weights before, and shuffled what the run had sorted.
    config = run_config(
        model=ModelConfig(name="mlp", widths=(12, 10)),
        norm=NormConfig(name="reference_batch_norm"),
        reference=ReferenceConfig(size=20, refresh=5),
        stream=StreamConfig(name="sorted"),
    )
    train(config, tmp_path / "run")
    moved, orders, fine_tune, batches = [], [], Search._fine_tune, search.training_batches

    def watched(self, state, number):
        before = np.asarray(state.model_state["reference_stats"]["norm1"]["mean"])
        tuned = fine_tune(self, state, number)
        moved.append(np.abs(np.asarray(tuned.model_state["reference_stats"]["norm1"]["mean"]) - before).max())
        return tuned

    def noted(source, *arguments, **options):
        orders.append(source.labels[options["stream"](0)])
        return batches(source, *arguments, **options)

    monkeypatch.setattr(Search, "_fine_tune", watched)
    monkeypatch.setattr(search, "training_batches", noted)
    told = prune_run(tmp_path / "run", tmp_path / "smaller", PruneConfig(keep_params=0.8, **OPTIONS))
    assert told["after"]["parameters"] <= 0.8 * told["before"]["parameters"]
    assert min(moved) > 1e-3
    assert all((np.diff(labels) >= 0).all() for labels in orders)


def test_the_picture_shows_rounds_and_layers(pruned, tmp_path):
    _, told = pruned
    draw_pruning(told, tmp_path / "pruning.png")
    with Image.open(tmp_path / "pruning.png") as picture:
        assert picture.width > 1200


def test_negative_scores_are_not_divided(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(Search, "_scores", lambda *_: {name: np.full(size, -1.0) for name, size in SIZES.items()})
    with pytest.raises(UserError, match="per_cost=True divides, and scores of conv0_0 are negative"):
        prune_run(trained, tmp_path / "smaller", PruneConfig(keep_macs=0.8, per_cost=True, **OPTIONS))


def test_an_option_that_came_later_had_its_default(pruned, trained):
    output, _ = pruned
    note = output / "search" / "search.json"
    begun = json.loads(note.read_text())
    note.write_text(json.dumps({name: value for name, value in begun.items() if name != "per_cost"}))
    assert prune_run(trained, output, PruneConfig(max_drop=0.3, **OPTIONS))["rounds"]


def test_what_cannot_be_pruned_is_refused(trained, pruned, tmp_path):
    output, _ = pruned
    with pytest.raises(UserError, match=r"was begun by another pruning .*; give a new --output"):
        prune_run(trained, output, PruneConfig(max_drop=0.05, **OPTIONS))
    with pytest.raises(UserError, match="is a run of its own; give a new --output"):
        prune_run(trained, trained, PruneConfig(max_drop=0.05, **OPTIONS))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(UserError, match=r"full holds letter\.txt; give a new --output"):
        prune_run(trained, tmp_path / "full", PruneConfig(max_drop=0.05, **OPTIONS))
    with pytest.raises(UserError, match="protected=haed: haed is no layer of this network; use conv0_0, conv0_1"):
        prune_run(trained, tmp_path / "other", PruneConfig(max_drop=0.05, protected=("haed",), **OPTIONS))
    with pytest.raises(UserError, match="that is every layer of this network"):
        prune_run(trained, tmp_path / "other", PruneConfig(max_drop=0.05, protected=tuple(SIZES), **OPTIONS))
    # It was once taken for a pruning that had begun.
    with pytest.raises(UserError, match=r"keep_params=0\.0001 cannot be reached"):
        prune_run(trained, tmp_path / "other", PruneConfig(keep_params=0.0001, **OPTIONS))
    with pytest.raises(UserError, match="is no run directory"):
        prune_run(tmp_path / "nowhere", tmp_path / "other2", PruneConfig(max_drop=0.05, **OPTIONS))
    train(run_config(epochs=0.6, data=DataConfig(name="digits", validation=0)), tmp_path / "blind")
    with pytest.raises(UserError, match="has no validation split, by which a smaller network is judged"):
        prune_run(tmp_path / "blind", tmp_path / "other3", PruneConfig(max_drop=0.05, **OPTIONS))


def test_a_run_that_started_from_weights_is_pruned(trained, tmp_path):
    # Its smaller network was to start from the weights of the whole one, and failed after the search.
    session, network, _ = restore_network(trained)
    write_weights(tmp_path / "whole.safetensors", network)
    model = session.config.model.model_copy(update={"weights": tmp_path / "whole.safetensors"})
    train(session.config.model_copy(update={"model": model, "epochs": 0.6}), tmp_path / "run")
    told = prune_run(tmp_path / "run", tmp_path / "smaller", PruneConfig(keep_params=0.8, **OPTIONS))
    assert told["after"]["parameters"] <= 0.8 * told["before"]["parameters"]
    assert told["target"] == {
        "keep_params": 0.8,
        "reached": [told["after"]["parameters"] / told["before"]["parameters"]],
        "met": True,
    }


def test_a_cut_that_was_measured_is_not_measured_again(trained, tmp_path, monkeypatch):
    # The second measurement may come out the other way, and the network would not be that of the finished run.
    options = PruneConfig(max_drop=0.3, **OPTIONS | {"multiple": 4, "step": 0.3, "min_step": 0.3})
    monkeypatch.setattr(search, "milliseconds", lambda *_: [{"128": 1.0}, {"128": 0.5}])
    first = prune_run(trained, tmp_path / "smaller", options)
    assert not first["cut"]["taken"]
    monkeypatch.setattr(search, "milliseconds", lambda *_: [{"128": 1.0}, {"128": 2.0}])
    assert prune_run(trained, tmp_path / "smaller", options)["kept"] == first["kept"]


def test_a_target_that_cannot_be_met_gives_the_network_as_it_was(trained, tmp_path, monkeypatch):
    # The final epochs, here at a rate that ruins it, counted even where they made it worse.
    usual, ruinous = pruning_run.fine_tuning, OptimizerConfig(learning_rate=30.0)
    monkeypatch.setattr(
        pruning_run, "fine_tuning", lambda *a, **b: usual(*a, **b).model_copy(update={"optimizer": ruinous})
    )
    told = prune_run(trained, tmp_path / "smaller", PruneConfig(target_accuracy=0.999, **OPTIONS))
    assert told["after"]["validation_accuracy"] == told["rounds"][0]["accuracy"]
    assert evaluate_run(tmp_path / "smaller", split="validation", checkpoint="best", data_dir=None)["step"] == 0
    assert not any(r["accepted"] for r in told["rounds"][1:])
    assert told["after"]["neurons"] == sum(SIZES.values())
    assert not told["target"]["met"]


def test_checkpoints_of_rounds_are_the_last_one(pruned):
    output, told = pruned
    checkpoints = Checkpoints(output / "search" / "rounds", read_only=True)
    assert checkpoints.steps == [told["rounds"][-1]["number"]]
    checkpoints.close()
