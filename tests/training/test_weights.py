"""Weights as safetensors files: written, read, and as what a run starts from."""

import jax
import numpy as np
import pytest
from run_cases import run_config

from normjax.errors import UserError
from normjax.training.config import DataConfig, ModelConfig, NormConfig, ReferenceConfig
from normjax.training.evaluate import restore_network
from normjax.training.loop import train
from normjax.training.session import build_session
from normjax.training.weights import read_weights, write_weights

pytest_plugins = ["training_fixtures"]


@pytest.fixture(scope="module")
def written(straight_run, tmp_path_factory):
    """A trained network as a file."""
    _, network, _ = restore_network(straight_run.path)
    file = tmp_path_factory.mktemp("weights") / "network.safetensors"
    write_weights(file, network)
    return file, network


def start(config, info):
    state = build_session(config, info).initial_state()
    return {"params": state.params, **state.model_state}


def with_weights(straight_run, file, **changes):
    model = straight_run.config.model.model_copy(update={"weights": file})
    return straight_run.config.model_copy(update={"model": model, **changes})


def test_what_is_written_is_read_bit_for_bit(written):
    file, network = written
    read = read_weights(file)
    leaves = {tuple(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(network)}
    assert read.keys() == leaves.keys()
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(read[path], leaf)


def test_a_run_starts_from_the_network_of_another(straight_run, written, tmp_path):
    file, network = written
    info = restore_network(straight_run.path)[0].info
    begun = start(with_weights(straight_run, file), info)
    jax.tree.map(np.testing.assert_array_equal, begun, dict(network))
    # It trains on: one epoch more than the run had, from what it had reached.
    summary = train(with_weights(straight_run, file, epochs=1), tmp_path / "run")
    assert summary["test"]["loss"] < straight_run.summary["test"]["loss"]


def test_a_head_for_other_classes_starts_anew(straight_run, written, tmp_path):
    file, network = written
    data = DataConfig(classes=("3", "8"))
    summary = train(with_weights(straight_run, file, data=data, epochs=20), tmp_path / "run")
    assert summary["test"]["accuracy"] > 0.9
    session, fine_tuned, _ = restore_network(tmp_path / "run", "last")
    assert session.info.classes == ("3", "8")
    assert fine_tuned["params"]["head"]["kernel"].shape == (6, 2)
    begun = start(session.config, session.info)
    np.testing.assert_array_equal(begun["params"]["dense0"]["kernel"], network["params"]["dense0"]["kernel"])
    np.testing.assert_array_equal(begun["batch_stats"]["norm1"]["var"], network["batch_stats"]["norm1"]["var"])


def test_statistics_of_a_reference_batch_are_those_of_the_weights(straight_run, written, tmp_path):
    # They were once taken under the initial weights that the given ones replace.
    reference = {"norm": NormConfig(name="reference_batch_norm"), "reference": ReferenceConfig(size=20)}
    _, network = written
    write_weights(tmp_path / "weights.safetensors", {"params": network["params"]})
    config = with_weights(straight_run, tmp_path / "weights.safetensors", **reference)
    session = build_session(config, restore_network(straight_run.path)[0].info)
    images = np.random.default_rng(0).integers(0, 256, (20, *session.info.image_shape), np.uint8)
    state = session.initial_state(images)
    pixels = ((images / 255 - session.info.mean) / session.info.std).reshape(20, -1)
    expected = (pixels @ np.asarray(network["params"]["dense0"]["kernel"], np.float64)).mean(0)
    np.testing.assert_allclose(state.model_state["reference_stats"]["norm0"]["mean"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda flat: flat.pop("params/dense1/kernel"), "lacks params/dense1/kernel, which the network has"),
        (lambda flat: flat.update({"params/dense7/kernel": np.ones(3)}), "holds params/dense7/kernel, which the"),
        (lambda flat: flat.update({"params/dense1/kernel": np.ones((8, 5))}), r"shape \(8, 5\), the network wants"),
    ],
)
def test_weights_of_another_network_are_refused(straight_run, written, tmp_path, spoil, message):
    flat = {"/".join(path): leaf for path, leaf in read_weights(written[0]).items()}
    spoil(flat)
    write_weights(tmp_path / "spoilt.safetensors", nested(flat))
    config = with_weights(straight_run, tmp_path / "spoilt.safetensors")
    with pytest.raises(UserError, match=message):
        start(config, restore_network(straight_run.path)[0].info)


def test_half_precision_becomes_what_the_network_has_and_integers_are_refused(straight_run, written, tmp_path):
    info = restore_network(straight_run.path)[0].info
    for dtype in (np.float16, np.int32):
        flat = {"/".join(path): leaf.astype(dtype) for path, leaf in read_weights(written[0]).items()}
        write_weights(tmp_path / "typed.safetensors", nested(flat))
        config = with_weights(straight_run, tmp_path / "typed.safetensors")
        if dtype is np.int32:
            with pytest.raises(UserError, match="is int32; use floating-point numbers"):
                start(config, info)
        else:
            assert {leaf.dtype for leaf in jax.tree.leaves(start(config, info))} == {np.dtype(np.float32)}


def test_a_run_goes_on_without_the_file_it_started_from(straight_run, written, tmp_path):
    file = tmp_path / "gone.safetensors"
    file.write_bytes(written[0].read_bytes())
    config = with_weights(straight_run, file, epochs=1)
    summary = train(config, tmp_path / "run")
    file.unlink()
    assert train(config, tmp_path / "run")["test"] == summary["test"]


def test_what_is_no_such_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_weights(tmp_path / "nowhere.safetensors")
    (tmp_path / "text.safetensors").write_text("weights")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        train(run_config(model=ModelConfig(name="mlp", weights=tmp_path / "text.safetensors")), tmp_path / "run")
    with pytest.raises(UserError, match="cannot be written"):
        write_weights(tmp_path / "no" / "folder.safetensors", {"params": {"a": np.ones(1)}})


def nested(flat):
    tree: dict = {}
    for name, leaf in flat.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = leaf
    return tree
