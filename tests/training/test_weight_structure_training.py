"""Training with reparametrised kernels and with proximal steps: devices, exact zeros, resume, and what is refused."""

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from run_cases import PowerCutError, assert_same_bits, run_config, state_of, stop_after
from training_cases import Steps, draw_batch, random_state, tiny_config, uneven_mask

from normjax.data import load_dataset
from normjax.errors import UserError
from normjax.functional import prox_exclusive_sparsity, prox_group_sparsity, prox_l1
from normjax.training.config import parse_config
from normjax.training.loop import train
from normjax.training.step import Images

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("without_pictures")

SPARSE = {"name": "structural", "options": {"measure": "sparsity", "strength": 0.3}}
NEURON = {"name": "structural", "options": {"measure": "neuron"}}


@pytest.mark.parametrize(
    ("weight_norm", "mode"),
    [(SPARSE, "pmap"), (SPARSE, "shard_map"), (NEURON, "pmap"), ({"name": "weight_norm"}, "pmap")],
    ids=["sparsity", "sparsity, shard_map", "neuron", "plain"],
)
def test_eight_devices_do_as_one(weight_norm, mode):
    batches = [draw_batch(seed=seed, valid=uneven_mask(32, (4, 1, 0, 3, 2, 4, 1, 3))) for seed in range(3)]
    one, eight = (
        Steps(tiny_config(kind, weight_norm=weight_norm, norm={"name": "none"}), devices)
        for kind, devices in (("pmap", 1), (mode, 8))
    )
    state = random_state(one.session)
    expected, got = one.run(batches, state)[0], eight.run(batches, state)[0]
    chex.assert_trees_all_close(got.params, expected.params, rtol=1e-4, atol=1e-5)
    assert not np.allclose(expected.params["dense0_weight_norm"]["scale"], state.params["dense0_weight_norm"]["scale"])


@pytest.mark.parametrize(
    ("proximal", "prox"),
    [
        ({"penalty": "exclusive_sparsity"}, prox_exclusive_sparsity),
        ({"penalty": "exclusive_sparsity", "rule": "cges"}, lambda k, s: prox_exclusive_sparsity(k, s, rule="cges")),
        ({"penalty": "exclusive_sparsity", "axis": "output"}, lambda k, s: prox_exclusive_sparsity(k, s, 0)),
        ({"penalty": "group_sparsity", "strength": 25.0}, prox_group_sparsity),
        ({"penalty": "l1"}, prox_l1),
        ({"penalty": "combined", "strength": 3.0}, None),
    ],
)
def test_the_step_ends_in_the_proximal_operator(proximal, prox):
    plain, sparse = (
        Steps(tiny_config(proximal=options)) for options in ({}, {"strength": 0.8, **proximal, "rise": 0.5})
    )
    total = sparse.session.total_steps
    state = random_state(plain.session)
    # In the first half of the training the strength rises from 0: here 4 steps have passed.
    before = optax.tree.set(random_state(sparse.session).opt_state, step=np.int32(4))
    batch = draw_batch()
    want = plain.run([batch], state)[0].params
    got = sparse.run([batch], random_state(sparse.session).replace(opt_state=before))[0].params
    strength = 0.1 * proximal.get("strength", 0.8) * 4 / round(total / 2)

    # Combined, of two layers: 0.8 of the strength is group sparsity in the first layer, then the rest exclusive.
    def both(k, s, a):
        return prox_exclusive_sparsity(prox_group_sparsity(k, s * a), s * (1 - a))

    for layer, share in (("dense0", 0.8), ("dense1", 0.2)):
        kernel = jnp.asarray(want[layer]["kernel"])
        want[layer]["kernel"] = np.asarray(prox(kernel, strength) if prox else both(kernel, strength, share))
    chex.assert_trees_all_close(got, want, atol=1e-6)
    zeros = {layer: int((got[layer]["kernel"] == 0).sum()) for layer in ("dense0", "dense1", "head")}
    assert zeros["dense0"] + zeros["dense1"] > 0
    assert zeros["head"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_norm": {**SPARSE, "initialize_from": 64}, "norm": {"name": "none"}},
        {"proximal": {"penalty": "exclusive_sparsity", "strength": 0.01, "rise": 0.5}},
    ],
    ids=["structural", "proximal"],
)
def test_a_run_stopped_and_resumed_ends_as_if_it_had_not(monkeypatch, tmp_path, changes):
    config = run_config(**changes, optimizer={"learning_rate": 0.02})
    train(config, tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop_after(patch, 14)
        with pytest.raises(PowerCutError):
            train(config, tmp_path / "run")
    train(config, tmp_path / "run")
    assert_same_bits(state_of(tmp_path / "run"), state_of(tmp_path / "straight"))


def test_layers_start_with_outputs_of_mean_zero_and_variance_one(tmp_path):
    # Before the first step of a run, on examples of its training set.
    steps = Steps(tiny_config(weight_norm={"name": "weight_norm", "initialize_from": 200}, norm={"name": "none"}))
    first = draw_batch(200, seed=3)["image"]
    state = steps.session.initial_state(None, first)
    images = Images(steps.session.info.mean, steps.session.info.std).scale(first)
    _, told = steps.session.model.apply(
        {"params": state.params},
        images,
        train=False,
        capture_intermediates=lambda module, _: module.name in ("norm0", "norm1"),
        mutable=["intermediates"],
    )
    for name in ("norm0", "norm1"):
        y = told["intermediates"][name]["__call__"][0]
        np.testing.assert_allclose(y.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(y.std(0), 1, atol=1e-3)
    config = run_config(weight_norm={"name": "weight_norm", "initialize_from": 64}, norm={"name": "none"})
    train(config, tmp_path / "run")
    scales = state_of(tmp_path / "run").params["dense0_weight_norm"]["scale"]
    assert np.ptp(scales) > 0.01


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"weight_norm": {"name": "orthogonal", "options": {"strength": 1}}}, "weight norm 'orthogonal' has no option"),
        (
            {"weight_norm": {"name": "structural", "options": {"measure": "sparsity", "strength": -1.0}}},
            r"strength=-1.0 is out of range; use a finite number, 0 or more",
        ),
        ({"weight_norm": {"initialize_from": 8}}, "initialize_from=8 sets scales, and there are none with name=none"),
        (
            {"weight_norm": {"name": "weight_norm", "initialize_from": 8}, "norm": {"name": "reference_batch_norm"}},
            "weight_norm.initialize_from goes with norms that need no reference batch",
        ),
        ({"proximal": {"strength": 0.1}}, "proximal needs a penalty, for example exclusive_sparsity"),
        ({"proximal": {"penalty": "l1", "strength": -0.1}}, "proximal.strength=-0.1: Input should be greater than"),
        (
            {"proximal": {"penalty": "l1"}, "weight_norm": {"name": "orthogonal"}},
            "proximal.penalty=l1 makes zeros in stored kernels, of which weight_norm.name=orthogonal makes others",
        ),
        (
            {"proximal": {"penalty": "magnitude", "strength": 1.0}},
            "strength=1 is the share of zeros .* say which, less than 1",
        ),
        ({"proximal": {"penalty": "magnitude"}}, "proximal.strength=0.0001 is the share of zeros .* say which"),
        ({"proximal": {"penalty": "l1", "axis": "output"}}, "proximal.axis has no meaning with penalty=l1"),
        ({"proximal": {"penalty": "group_sparsity", "rule": "cges"}}, "proximal.rule is of exclusive sparsity"),
        ({"proximal": {"penalty": "l1"}, "ema_decay": 0.9}, "exact zeros, which averaged weights have not"),
    ],
)
def test_what_does_not_go_together_is_refused(data, message):
    with pytest.raises(UserError, match=message):
        parse_config(data)


def test_what_does_not_suit_the_network_is_refused_before_training(tmp_path):
    config = run_config(weight_norm={"name": "orthogonal", "options": {"group_size": 3}})
    with pytest.raises(UserError, match=r"cannot be built: group_size=3 does not divide the 8 outputs"):
        train(config, tmp_path / "run")
    examples = len(load_dataset(config.data, seed=0, data_dir=None).train)
    config = run_config(weight_norm={"name": "orthogonal", "initialize_from": examples + 1})
    with pytest.raises(
        UserError, match=f"weight_norm.initialize_from={examples + 1} is more than the {examples} train"
    ):
        train(config, tmp_path / "run")
