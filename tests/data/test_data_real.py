"""CIFAR-10 and MNIST themselves, where they are: sizes, classes, and the published mean and deviation."""

import numpy as np
import pytest

from normjax.data import load_dataset, load_source
from normjax.data.options import DataConfig

pytest_plugins = ["real_data"]

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"


@pytest.fixture(scope="module")
def cifar10(real_data_dir):
    return load_dataset(DataConfig(name="cifar10", validation=0.0), seed=0, data_dir=real_data_dir)


def test_cifar10_has_its_published_sizes_and_classes(cifar10):
    assert cifar10.info.classes == tuple(CIFAR_CLASSES.split())
    for source, per_class in ((cifar10.train, 5000), (cifar10.test, 1000)):
        np.testing.assert_array_equal(np.bincount(source.labels), [per_class] * 10)


def test_cifar10_has_its_published_mean_and_deviation(cifar10):
    # Counts of the 256 values of each channel: exact, where sums of 51 million float32 would lose digits.
    counts = np.zeros((3, 256), int)
    for part in np.array_split(cifar10.train.images, 50):
        counts += [np.bincount(part[..., channel].ravel(), minlength=256) for channel in range(3)]
    shares, values = counts / counts.sum(1, keepdims=True), np.arange(256)
    mean = shares @ values
    std = np.sqrt(shares @ values**2 - mean**2)
    np.testing.assert_allclose(mean / 255, CIFAR_MEAN, atol=5e-4)
    np.testing.assert_allclose(std / 255, CIFAR_STD, atol=5e-4)
    # The loader measures every fifth image.
    np.testing.assert_allclose(cifar10.info.mean, CIFAR_MEAN, atol=3e-3)
    np.testing.assert_allclose(cifar10.info.std, CIFAR_STD, atol=3e-3)


def test_cifar10_decoded_once_is_what_is_decoded_each_time(cifar10, real_data_dir):
    # The parts decoded in parallel are put together in order.
    lazy = load_source("cifar10", "train", seed=0, data_dir=real_data_dir)
    indices = np.random.default_rng(0).integers(0, 50_000, 200)
    for decoded, cached in zip(lazy.read(indices), cifar10.train.read(indices), strict=True):
        np.testing.assert_array_equal(decoded, cached)


def test_mnist_is_grey_with_its_published_mean_and_deviation(mnist_dir):
    source = load_source("mnist", "train", seed=0, data_dir=mnist_dir)
    assert len(source) == 60_000
    images, _ = source.read(range(0, 60_000, 12))
    np.testing.assert_allclose((images / 255).mean(), 0.1307, atol=2e-3)
    np.testing.assert_allclose((images / 255).std(), 0.3081, atol=2e-3)
    assert images.shape[-1] == 1


def test_mnist_has_its_published_classes(mnist_dir):
    source = load_source("mnist", "test", seed=0, data_dir=mnist_dir)
    counts = np.bincount(source.read(range(10_000))[1])
    published = {0: 980, 1: 1135, 2: 1032, 3: 1010, 4: 982, 5: 892, 6: 958, 7: 1028, 8: 974, 9: 1009}
    assert {int(name): count for name, count in zip(source.classes, counts, strict=True)} == published
