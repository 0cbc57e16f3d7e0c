"""Data sets of TFDS that are not there: prepared where there is a network, else the message says how."""

import email.message
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data_cases import distinct_pixels, records

from normjax.data import load_source
from normjax.data import tfds as normjax_tfds
from normjax.errors import UserError

CIFAR = tfds.builder_cls("cifar10")


def load(data_dir, name="cifar10", split="train"):
    return load_source(name, split, seed=0, data_dir=data_dir)


@pytest.fixture
def downloads(monkeypatch):
    """Arguments of each call of download_and_prepare of CIFAR-10; the rest of it is TFDS's own."""
    calls, own = [], CIFAR.download_and_prepare

    def download_and_prepare(self, **kwargs):
        calls.append(kwargs)
        return own(self, **kwargs)

    monkeypatch.setattr(CIFAR, "download_and_prepare", download_and_prepare)
    return calls


def test_without_a_network_the_message_says_where_it_is_missing_and_how_to_get_it(tmp_path, monkeypatch, downloads):
    monkeypatch.setattr(normjax_tfds, "_online", lambda: False)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"data set cifar10 is not in {tmp_path}. ")
    assert "--data-dir or TFDS_DATA_DIR" in message
    # The command is meant to be pasted: it names this data set, this folder and the format that is read.
    command = message.split('python -c "')[1].rstrip('".')
    compile(command, "command", "exec")
    assert f"tfds.builder('cifar10', data_dir='{tmp_path}'" in command
    assert "download_and_prepare(file_format='array_record')" in command
    assert downloads == []


def test_with_a_network_it_is_prepared_as_array_record_and_read(tmp_path, monkeypatch, downloads):
    # Instead of the download stand five examples; all else is what TFDS does.
    pixels = distinct_pixels(5, 32, 32, 3)
    examples = [{"id": f"train_{i}", **record} for i, record in enumerate(records(pixels))]
    splits = {"train": lambda: ((e["id"], e) for e in examples)}
    monkeypatch.setattr(normjax_tfds, "_online", lambda: True)
    monkeypatch.setattr(CIFAR, "_split_generators", lambda *_: {name: make() for name, make in splits.items()})
    images, labels = load(tmp_path).read(range(5))
    assert downloads == [{"file_format": "array_record"}]
    # TFDS shuffles as it writes: each image is found by its pixels.
    found = [int((pixels == image).all((1, 2, 3)).argmax()) for image in images]
    assert sorted(found) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(labels, np.array(found) % 3)
    load(tmp_path)
    assert len(downloads) == 1  # the second time it is there


def test_a_download_that_fails_is_reported_with_its_cause(tmp_path, monkeypatch, downloads):
    def fail(*_):
        raise ConnectionError("no route to the host")

    monkeypatch.setattr(normjax_tfds, "_online", lambda: True)
    monkeypatch.setattr(CIFAR, "_split_generators", fail)
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"data set cifar10 is not in {tmp_path}. ")
    assert message.endswith("Here it failed: ConnectionError: no route to the host")
    assert len(downloads) == 1


def test_an_unknown_name_is_refused_with_what_is_known(tmp_path):
    with pytest.raises(
        UserError, match=r"data\.name='cifar_10_' is not known; use digits, folder, or a data set of TFDS"
    ):
        load(tmp_path, "cifar_10_")


@pytest.mark.parametrize("name", ["cifar10/no_such_config", "cifar10:9.9.9"])
def test_an_unknown_version_or_config_is_an_error_for_the_user(tmp_path, name):
    with pytest.raises(UserError, match=f"data set {name} in .* cannot be opened: "):
        load(tmp_path, name)


def test_a_host_that_answers_with_an_error_is_a_network(monkeypatch):
    # It is the answer that counts: the bucket itself may not be listed.
    forbidden = urllib.error.HTTPError("", 403, "Forbidden", email.message.Message(), None)
    for error, online in ((forbidden, True), (urllib.error.URLError("no name server"), False), (TimeoutError(), False)):

        def refuse(*_, error=error, **__):
            raise error

        monkeypatch.setattr(urllib.request, "urlopen", refuse)
        assert normjax_tfds._online() == online
