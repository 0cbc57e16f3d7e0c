"""A folder of class folders: its pictures and classes, its splits, and what is wrong with it."""

import numpy as np
import pytest
from data_cases import distinct_pixels, identities
from tfds_standin import encoded

from normjax.data import load_dataset, load_source
from normjax.data.folder import load_folder
from normjax.data.options import DataConfig
from normjax.errors import UserError


def save(path, pixels, file_format="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(pixels, file_format))


def load(root, split="train", seed=0):
    source = load_source("folder", split, seed=seed, data_dir=root)
    return source, *source.read(range(len(source)))


@pytest.fixture
def flat(tmp_path):
    """Three classes of 10, 15 and 5 pictures, without subfolders for the splits."""
    pixels = distinct_pixels(30, 6, 5, 3)
    for i, image in enumerate(pixels):
        save(tmp_path / ("ant" if i < 10 else "bee" if i < 25 else "cat") / f"{i}.png", image)
    return tmp_path, pixels


def test_train_and_test_folders_are_the_splits(tmp_path):
    pixels = distinct_pixels(6, 6, 5, 3)
    for i, (split, name) in enumerate([("train", "b"), ("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")]):
        save(tmp_path / split / name / f"{i}.png", pixels[i])
    source, images, labels = load(tmp_path, "train")
    assert source.classes == ("a", "b")
    np.testing.assert_array_equal(labels, [0, 1, 1])
    np.testing.assert_array_equal(images, pixels[[1, 0, 2]])
    _, images, labels = load(tmp_path, "test")
    np.testing.assert_array_equal(labels, [0, 1])
    np.testing.assert_array_equal(images, pixels[[3, 4]])


@pytest.mark.parametrize("seed", [0, 1])
def test_without_them_a_fifth_of_each_class_is_for_testing(flat, seed):
    root, pixels = flat
    (_, train_images, train), (_, test_images, test) = load(root, "train", seed), load(root, "test", seed)
    np.testing.assert_array_equal(np.bincount(train), [8, 12, 4])
    np.testing.assert_array_equal(np.bincount(test), [2, 3, 1])
    assert identities([*train_images, *test_images]) == identities(pixels)


def test_another_seed_tests_on_other_pictures(flat):
    root, _ = flat
    tests = [identities(load(root, "test", seed)[1]) for seed in (0, 0, 1)]
    assert tests[0] == tests[1] != tests[2]


def test_pictures_keep_their_class(flat):
    root, pixels = flat
    label_of = {image.tobytes(): (i >= 10) + (i >= 25) for i, image in enumerate(pixels)}
    _, images, labels = load(root)
    assert [label_of[np.asarray(image).tobytes()] for image in images] == labels.tolist()


def test_nested_folders_belong_to_their_class_and_other_files_to_none(tmp_path):
    pixels = distinct_pixels(4, 6, 5, 3)
    for split in ("train", "test"):
        save(tmp_path / split / "a" / "deep" / "deeper" / "1.PNG", pixels[0])
        save(tmp_path / split / "a" / "2.png", pixels[1])
        save(tmp_path / split / "b" / "3.bmp", pixels[2], "BMP")
        (tmp_path / split / "b" / "notes.txt").write_text("no picture")
        (tmp_path / split / "b" / "folder.png").mkdir()
        save(tmp_path / split / ".cache" / "4.png", pixels[3])
        save(tmp_path / split / "stray.png", pixels[3])
    source, images, labels = load(tmp_path)
    assert source.classes == ("a", "b")
    assert identities(images) == identities(pixels[:3])
    np.testing.assert_array_equal(labels, [0, 0, 1])


def test_hidden_files_and_folders_in_a_class_are_ignored(tmp_path):
    # Checkpoints of notebooks, and the ._ twins macOS leaves beside each file, which are no pictures.
    pixels = distinct_pixels(3, 6, 5, 3)
    for split in ("train", "test"):
        save(tmp_path / split / "a" / "1.png", pixels[0])
        save(tmp_path / split / "b" / "2.png", pixels[1])
        save(tmp_path / split / "b" / ".checkpoints" / "3.png", pixels[2])
        (tmp_path / split / "b" / "._2.png").write_bytes(b"\x00\x05\x16\x07")
    _, images, _ = load(tmp_path)
    assert identities(images) == identities(pixels[:2])


def test_grey_pictures_come_as_rgb(tmp_path):
    grey = distinct_pixels(2, 6, 5, 1)
    for split in ("train", "test"):
        save(tmp_path / split / "a" / "1.png", grey[0])
        save(tmp_path / split / "b" / "2.png", grey[1])
    _, images, _ = load(tmp_path)
    np.testing.assert_array_equal(images, np.repeat(grey, 3, -1))


def test_sizes_of_their_own_need_an_image_size(flat):
    root, _ = flat
    save(root / "ant" / "large.png", distinct_pixels(1, 9, 12, 3)[0])
    options = {"name": "folder", "augmentation": "none", "validation": 0.0}
    with pytest.raises(UserError, match=r"differ in size; set data\.image_size"):
        load_dataset(DataConfig(**options), seed=0, data_dir=root)
    # Cached as they are all resized to one; the smaller ones stand on the whole 4 x 4.
    data = load_dataset(DataConfig(**options, image_size=4), seed=0, data_dir=root)
    images, _ = data.train.read(range(len(data.train)))
    assert {image.shape for image in images} == {(4, 4, 3)}
    assert data.info.image_shape == (4, 4, 3)


def test_a_file_that_is_no_picture_is_named(flat):
    root, _ = flat
    for name in ("ant", "bee", "cat"):
        for path in (root / name).iterdir():
            path.write_bytes(b"not a picture")
    source = load_source("folder", "train", seed=0, data_dir=root)
    with pytest.raises(UserError) as caught:
        source.read([3])
    assert str(caught.value).startswith(f"{source.source.paths[source.indices[3]]}: not a picture")


WRONG = {
    "empty": [],
    "one class": ["a/1.png"],
    "no pictures": ["a/1.txt", "b/2.txt"],
    "only hidden classes": [".a/1.png", ".b/1.png"],
}


@pytest.mark.parametrize("case", WRONG)
def test_a_folder_without_classes_of_pictures_says_what_it_needs(tmp_path, case):
    for name in WRONG[case]:
        save(tmp_path / name, distinct_pixels(1, 6, 5, 3)[0])
    with pytest.raises(UserError, match=r"needs two or more folders with pictures \(\.png") as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_folder_is_named_with_the_option_that_gives_it(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is not a folder; .*--data-dir"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"needs --data-dir"):
        load(None)


def test_an_unknown_split_names_those_there_are(flat):
    with pytest.raises(UserError, match=r"no split 'valid'; use train or test"):
        load(flat[0], "valid")


def test_train_without_test_is_no_class(tmp_path):
    # Or the folders of the splits would be taken for the classes.
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
    with pytest.raises(UserError, match="has only one of train and test; it needs both"):
        load_folder(tmp_path, "train", seed=0)
