"""Runs of networks without some of their neurons: trained, resumed, evaluated, folded as any other."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_cases import PowerCutError, poison, run_config, stop_after

import normjax
from normjax.errors import UserError
from normjax.training.config import ModelConfig, NormConfig, ReferenceConfig, TrainConfig, load_config
from normjax.training.evaluate import evaluate_run, restore_network
from normjax.training.fold import fold_run
from normjax.training.loop import train
from normjax.training.session import build_session

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("without_pictures")

KEPT = {"dense0": tuple(range(0, 32, 2)), "dense1": tuple(range(1, 24, 2))}
MODEL = ModelConfig(name="mlp", widths=(32, 24), kept=KEPT)
CONFIG = run_config(model=MODEL)


@pytest.fixture(scope="module")
def pruned_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("pruned") / "run"
    return path, train(CONFIG, path)


def test_it_has_the_neurons_that_are_named_and_learns(pruned_run):
    path, summary = pruned_run
    _, network, _ = restore_network(path)
    shapes = jax.tree.map(jnp.shape, network["params"])
    assert shapes["dense0"]["kernel"] == (64, 16)
    assert shapes["dense1"]["kernel"] == (16, 12)
    assert shapes["head"]["kernel"] == (12, 10)
    assert summary["parameters"] == 64 * 16 + 16 * 12 + 12 * 10 + 10 + 2 * (16 + 12)
    assert summary["test"]["accuracy"] > 0.3  # thrice chance
    evaluated = evaluate_run(path, split="test", checkpoint="best", data_dir=None)
    assert evaluated["accuracy"] == summary["test"]["accuracy"]
    assert load_config(path / "config.json") == CONFIG


def test_it_resumes_to_the_same_end(pruned_run, tmp_path, monkeypatch):
    path, _ = pruned_run
    stop_after(monkeypatch, 14)
    with pytest.raises(PowerCutError):
        train(CONFIG, tmp_path / "run")
    monkeypatch.undo()
    train(CONFIG, tmp_path / "run")
    (_, one, _), (_, other, _) = (restore_network(run, "last") for run in (path, tmp_path / "run"))
    chex.assert_trees_all_equal(one, other)


def test_its_norms_fold_away(pruned_run):
    path, _ = pruned_run
    folded = fold_run(path)
    assert folded["folded"] == ["norm0", "norm1"]
    assert folded["largest_difference"] < 1e-4 * folded["largest_logit"]


def test_the_layer_of_a_nan_is_named(tmp_path, monkeypatch):
    poison(monkeypatch, range(3, 20))
    with pytest.raises(UserError, match="the first of them step 3, where the first value that is not finite is"):
        train(CONFIG.model_copy(update={"max_skipped_steps": 2}), tmp_path / "run")


def test_gradients_that_overflow_name_their_layer(tmp_path):
    # Weights so large that an activation overflows: the layer behind them is named, as in a whole network.
    from normjax.training.diagnosis import first_non_finite

    config = CONFIG.model_copy(update={"norm": NormConfig(name="none")})
    path = tmp_path / "run"
    train(config, path)
    session = build_session(config, _info(path))
    state = session.initial_state()
    state.params["dense1"]["kernel"] = np.full_like(state.params["dense1"]["kernel"], 3e38)
    batch = {"image": np.full((128, 8, 8, 1), 255, np.uint8), "label": np.zeros(128, np.int32)}
    place = first_non_finite(session, session.parallel.replicate(state), session.parallel.shard(batch))
    assert place == "the output of dense1"


def _info(path):
    from normjax.training.run_directory import RunDirectory

    return RunDirectory(path).read_dataset()


def test_a_network_with_a_reference_batch(tmp_path):
    config = run_config(
        model=MODEL,
        norm=NormConfig(name="reference_batch_norm"),
        reference=ReferenceConfig(size=16, refresh=2),
        epochs=1,
    )
    summary = train(config, tmp_path / "run")
    session, network, _ = restore_network(tmp_path / "run")
    assert network["reference_stats"]["norm0"]["mean"].shape == (16,)
    assert np.isfinite(summary["test"]["loss"])
    assert session.config.model.kept == KEPT


def test_what_prune_leaves_is_what_the_config_builds():
    session = build_session(run_config(), _digits())
    state = session.initial_state()
    variables = {"params": state.params, **state.model_state}
    example = jnp.zeros((1, 8, 8, 1))
    pruned = normjax.prune(session.model, variables, example, share=0.4, config=session.config, train=False)
    smaller = build_session(pruned.config, _digits())
    made = smaller.initial_state()
    assert jax.tree.map(jnp.shape, made.params) == jax.tree.map(jnp.shape, pruned.variables["params"])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8, 8, 1)), jnp.float32)
    one = smaller.model.apply(pruned.variables, x, train=False)
    chex.assert_trees_all_close(one, pruned.apply(pruned.variables, x, train=False), rtol=1e-6)


def _digits():
    from training_cases import tiny_info

    return tiny_info(side=8)


def test_bad_neurons_are_refused(tmp_path):
    for kept, message in (
        ({"dense9": (0,)}, r"model\.kept='dense9' is no group of neurons of this network; use dense0, dense1\."),
        ({"dense0": (8,)}, r"model\.kept\['dense0'\]=\[8\] must name one neuron or more of 0 to 7\."),
    ):
        with pytest.raises(UserError, match=message):
            train(run_config(model=ModelConfig(name="mlp", widths=(8, 6), kept=kept)), tmp_path / "run")
    with pytest.raises(ValueError, match=r"model\.kept is of a network with plain kernels"):
        TrainConfig(model=ModelConfig(kept=KEPT), weight_norm={"name": "weight_norm"})
