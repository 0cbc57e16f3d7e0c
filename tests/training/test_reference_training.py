"""Training with a reference batch: when it is passed, what a step does with it, and that a run can go on with it."""

import chex
import jax
import numpy as np
import pytest
from run_cases import PowerCutError, assert_same_bits, run_config, state_of, stop_after
from training_cases import Steps, draw_batch, scaled, tiny_config, uneven_mask

import normjax
from normjax.errors import UserError
from normjax.training.config import parse_config
from normjax.training.evaluate import Evaluator, evaluate_run, restore_network
from normjax.training.loop import train
from normjax.training.predict import predict_run

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("without_pictures")

REFERENCE = draw_batch(20, seed=5)["image"]
NORM = {"name": "reference_batch_norm"}


def reference_config(refresh=1, options=None, size=20, mode="pmap", **changes):
    norm = {**NORM, "options": options or {}}
    return tiny_config(mode, norm=norm, reference={"size": size, "refresh": refresh}, **changes)


def start(steps):
    return steps.session.initial_state(REFERENCE)


def one_device_model(steps):
    return steps.session.model.clone(
        norm=normjax.make_norm("reference_batch_norm", **steps.session.config.norm.options)
    )


def statistics_under(steps, params):
    """The reference statistics, by a plain pass on one device."""
    return normjax.reference_pass(one_device_model(steps), {"params": params}, scaled_reference(), train=False)[
        "reference_stats"
    ]


def scaled_reference():
    return scaled({"image": REFERENCE})["image"]


@pytest.mark.parametrize("refresh", [1, 3, "once"])
def test_the_first_statistics_are_those_of_the_initial_weights(refresh):
    steps = Steps(reference_config(refresh))
    state = start(steps)
    chex.assert_trees_all_close(
        state.model_state["reference_stats"], statistics_under(steps, state.params), rtol=1e-4, atol=1e-5
    )


def test_a_step_differentiates_through_the_reference():
    # One gradient by parts (the live pass, then back through the reference) is that of the whole loss.
    steps = Steps(reference_config())
    before, batch = start(steps), draw_batch(seed=1)
    model, rate = one_device_model(steps), 0.1

    def loss(params):
        variables = normjax.reference_pass(model, {"params": params}, scaled_reference(), train=False)
        logits = model.apply(variables, scaled(batch)["image"], train=True)
        return -jax.nn.log_softmax(logits)[np.arange(32), batch["label"]].mean()

    after, _ = steps.run([batch], before)
    expected = jax.tree.map(lambda p, g: p - rate * g, before.params, jax.grad(loss)(before.params))
    chex.assert_trees_all_close(after.params, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"reference_gradient": False}, {}])
def test_without_gradients_the_reference_is_a_constant(options):
    steps = Steps(reference_config(options=options))
    constant = Steps(reference_config("once", options=options))
    batch, before = draw_batch(seed=1), start(steps)
    after, expected = steps.run([batch], before)[0], constant.run([batch], before)[0]
    same = np.allclose(after.params["dense0"]["kernel"], expected.params["dense0"]["kernel"], rtol=1e-4, atol=1e-6)
    assert same == (not options.get("reference_gradient", True))


@pytest.mark.parametrize("options", [{}, {"mode": "mixed"}])
def test_micro_batches_share_one_reference_pass(options):
    # Virtual looks at no other example, so parts do as the whole; mixed counts the values of each part.
    before, batch = start(Steps(reference_config())), draw_batch(seed=1)
    whole = Steps(reference_config(options=options)).run([batch], before)[0]
    parts = Steps(reference_config(options=options, micro_batches=4)).run([batch], before)[0]
    chex.assert_trees_all_close(
        parts.model_state["reference_stats"], whole.model_state["reference_stats"], rtol=1e-5, atol=1e-6
    )
    same = np.allclose(parts.params["dense0"]["kernel"], whole.params["dense0"]["kernel"], rtol=1e-4, atol=1e-5)
    assert same == (not options)


@pytest.mark.parametrize(
    ("norm_mode", "mode"),
    [("virtual", "pmap"), ("virtual", "shard_map"), ("mixed", "pmap"), ("fixed", "pmap"), ("renorm", "pmap")],
)
def test_eight_devices_do_as_one(norm_mode, mode):
    # 20 reference rows do not divide among 8 devices: the last of them pass padding, which must not count.
    options = {"mode": norm_mode}
    batches = [draw_batch(seed=seed, valid=uneven_mask(32, (4, 1, 0, 3, 2, 4, 1, 3))) for seed in range(3)]
    one, eight = Steps(reference_config(options=options)), Steps(reference_config(options=options, mode=mode), 8)
    before = start(one)
    expected, got = one.run(batches, before)[0], eight.run(batches, before)[0]
    chex.assert_trees_all_close(got.params, expected.params, rtol=1e-3, atol=1e-4)
    chex.assert_trees_all_close(got.model_state, expected.model_state, rtol=1e-3, atol=1e-4)


def test_evaluation_takes_the_reference_under_the_weights_that_are_evaluated():
    steps = Steps(reference_config(ema_decay=0.5))
    state, _ = steps.run([draw_batch(seed=seed) for seed in range(4)], start(steps))
    ready = steps.parallel.fetch(Evaluator(steps.session).ready(steps.parallel.replicate(state)))
    expected = statistics_under(steps, state.ema["params"])
    chex.assert_trees_all_close(ready.ema["reference_stats"], expected, rtol=1e-4, atol=1e-5)
    # What is trained goes on as it was.
    assert_same_bits(ready.model_state, state.model_state)


def test_once_is_evaluated_by_the_statistics_it_was_trained_with():
    steps = Steps(reference_config("once"))
    before = start(steps)
    state, _ = steps.run([draw_batch(seed=seed) for seed in range(4)], before)
    ready = Evaluator(steps.session).ready(steps.parallel.replicate(state))
    assert_same_bits(steps.parallel.fetch(ready).model_state, before.model_state)


@pytest.mark.parametrize("refresh", [1, 4, "once"])
def test_a_run_stopped_and_resumed_ends_as_if_it_had_not(monkeypatch, tmp_path, refresh):
    # Checkpoints every three steps, refreshes every four, stopped between: old statistics must come back.
    config = run_config(norm=NORM, reference={"size": 20, "refresh": refresh}, optimizer={"learning_rate": 0.01})
    train(config, tmp_path / "straight")
    with monkeypatch.context() as patch:
        stop_after(patch, 14)
        with pytest.raises(PowerCutError):
            train(config, tmp_path / "run")
    train(config, tmp_path / "run")
    assert_same_bits(state_of(tmp_path / "run"), state_of(tmp_path / "straight"))
    metrics = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("run", "straight")]
    assert metrics[0] == metrics[1]


def test_evaluation_and_prediction_of_a_run_need_no_data_but_the_checkpoint(tmp_path):
    from PIL import Image

    from normjax.data import load_dataset

    config = run_config(norm=NORM, reference={"size": 20})
    summary = train(config, tmp_path / "run")
    result = evaluate_run(tmp_path / "run", split="test", checkpoint="best", data_dir=None)
    assert {name: result[name] for name in summary["test"]} == pytest.approx(summary["test"])
    test = load_dataset(config.data, seed=0, data_dir=None).test
    files = [tmp_path / f"{i}.png" for i in range(12)]
    for file, image in zip(files, test.read(range(12))[0], strict=True):
        Image.fromarray(image[..., 0]).save(file)
    together = predict_run(tmp_path / "run", files)
    alone = [predict_run(tmp_path / "run", [file])[0] for file in files[:2]]
    for a, b in zip(together, alone, strict=False):
        assert [p["class"] for p in a["predictions"]] == [p["class"] for p in b["predictions"]]
    assert "reference_stats" in restore_network(tmp_path / "run")[1]


def test_a_reference_that_no_layer_wants_is_refused():
    with pytest.raises(UserError, match=r"reference is for norm.name=reference_batch_norm, and norm.name=batch_norm"):
        parse_config({"reference": {"size": 32}})


@pytest.mark.parametrize(
    ("value", "message"), [(0, "refresh=0 is out of range; use 1 or more, or once"), ("twice", "reference.refresh")]
)
def test_a_refresh_that_is_not_known_is_refused(value, message):
    with pytest.raises(UserError, match=message):
        parse_config({"norm": NORM, "reference": {"refresh": value}})


def test_a_reference_larger_than_the_data_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match=r"reference.size=5000 is more than the 1295 training examples"):
        train(run_config(norm=NORM, reference={"size": 5000}), tmp_path / "run")
