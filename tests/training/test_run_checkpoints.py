"""Checkpoints: which are kept, that they come back bit for bit, and that a failure costs none of them."""

import errno
import os
import resource
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import CheckpointManager
from run_cases import failing_saves

from normjax.errors import UserError
from normjax.training import checkpoint
from normjax.training.checkpoint import Checkpoints

META = {"seconds": {"training": 1.5}, "skipped": 2}


@pytest.fixture
def opened():
    """Opens checkpoints in a folder, and closes them all at the end."""
    made = []

    def make(folder, keep=2, **options):
        made.append(Checkpoints(folder / "checkpoints", keep, **options))
        return made[-1]

    yield make
    for checkpoints in made:
        checkpoints.close()


def draw_state(seed=0, features=3):
    rng = np.random.default_rng(seed)
    return {
        "step": np.int32(rng.integers(2**31)),
        "params": {"kernel": rng.normal(size=(2, features)).astype(np.float32)},
        # Numbers that a detour over text or another type would not leave as they are.
        "odd": np.array([np.nan, -np.inf, -0.0, 1e-42, np.pi], np.float32),
        "half": np.asarray(jnp.asarray(rng.normal(size=4), jnp.bfloat16)),
        "ema": None,
    }


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for old, new in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(old).dtype == np.asarray(new).dtype
        assert np.asarray(old).tobytes() == np.asarray(new).tobytes()


def save(checkpoints, accuracies):
    """A checkpoint of every step, its state drawn by its number."""
    for step, accuracy in accuracies.items():
        checkpoints.save(step, draw_state(step), META, accuracy)
    checkpoints.wait()


def test_a_state_comes_back_bit_for_bit(opened, tmp_path):
    save(opened(tmp_path), {3: None, 7: 0.5})
    # As a later process would open it; what it asks for has other numbers.
    again = opened(tmp_path)
    for step in (3, 7):
        state, meta = again.restore(step, draw_state(99))
        assert_same_bits(state, draw_state(step))
        assert meta == META


def test_a_copy_beside_a_checkpoint_is_no_hindrance(opened, tmp_path):
    # The folder 2.bak was taken for the draft of 2, and 2 was never written.
    (tmp_path / "checkpoints" / "2.bak").mkdir(parents=True)
    checkpoints = opened(tmp_path)
    save(checkpoints, {2: None})
    checkpoints.wait()
    assert checkpoints.steps == [2]


@pytest.mark.parametrize(
    ("keep", "accuracies", "kept", "best"),
    [
        (2, {1: 0.9, 2: 0.3, 3: 0.4, 4: 0.5}, [1, 3, 4], 1),
        (1, {1: 0.1, 2: 0.9, 3: 0.4, 4: 0.5}, [2, 4], 2),
        (2, {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}, [3, 4], 4),
        # The later of equals: it has learned longer, and old ones may go.
        (1, {1: 0.5, 2: 0.7, 3: 0.7, 4: 0.6}, [3, 4], 3),
        (3, {1: 0.7, 2: 0.7, 3: 0.6}, [1, 2, 3], 2),
        # Between the epochs nothing is measured: those are kept as the latest, never as the best.
        (2, {1: None, 2: 0.7, 3: None, 4: None, 5: None}, [2, 4, 5], 2),
        (2, {1: None, 2: None, 3: None}, [2, 3], None),
        (3, {1: 0.0, 2: None}, [1, 2], 1),
    ],
)
def test_the_latest_and_the_best_are_kept(opened, tmp_path, keep, accuracies, kept, best):
    save(opened(tmp_path, keep), accuracies)
    again = opened(tmp_path, keep)
    assert (again.steps, again.latest, again.best) == (kept, kept[-1], best)
    for step in kept:
        assert_same_bits(again.restore(step, draw_state())[0], draw_state(step))


def test_a_process_killed_while_it_deletes_leaves_no_damaged_checkpoint(opened, monkeypatch, tmp_path):
    # Old checkpoints were deleted where they lay, file by file: half of one looked damaged and was kept in damaged/.
    with monkeypatch.context() as killed:
        killed.setattr(checkpoint.shutil, "rmtree", lambda folder: (folder / "1" / "SHA256SUMS").unlink())
        save(opened(tmp_path, keep=1), {1: None, 2: None})
    assert sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir()) == ["2", "removed"]
    again = opened(tmp_path, keep=1)
    assert again.damaged == {}
    assert again.steps == [2]
    save(again, {3: None})
    assert sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir()) == ["3"]


def test_the_best_survives_a_resumed_run(opened, tmp_path):
    save(opened(tmp_path, keep=1), {1: 0.9, 2: 0.1})
    save(opened(tmp_path, keep=1), {3: 0.2, 4: None})
    assert opened(tmp_path, keep=1).steps == [1, 4]


@pytest.mark.parametrize(
    ("like", "part"),
    [
        (draw_state(features=4), "does not fit this run"),
        ({**draw_state(), "more": np.zeros(2)}, "does not fit this run"),
        ({name: value for name, value in draw_state().items() if name != "half"}, "does not fit this run"),
        ({**draw_state(), "ema": {"kernel": np.zeros((2, 3), np.float32)}}, "does not fit this run"),
    ],
    ids=["shape", "more", "less", "average"],
)
def test_another_network_is_refused(opened, tmp_path, like, part):
    checkpoints = opened(tmp_path)
    save(checkpoints, {5: None})
    with pytest.raises(UserError, match=part) as error:
        checkpoints.restore(5, like)
    assert str(tmp_path / "checkpoints" / "5") in str(error.value)
    assert "\n" not in str(error.value)


def flip(file):
    """One bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


FAULTS = {"flipped": flip, "truncated": truncate, "missing": lambda file: file.unlink()}


def files_of(folder, step):
    """Every file of a checkpoint that what is restored depends on, by its name."""
    whole = folder / "checkpoints" / str(step)
    files = {path.relative_to(whole).as_posix(): path for path in sorted(whole.rglob("*")) if path.is_file()}
    return {name: path for name, path in files.items() if name not in ("_CHECKPOINT_METADATA", "commit_success.txt")}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_any_file_is_noticed(opened, tmp_path, fault):
    # Orbax restores flipped bits of its data files as if nothing were wrong.
    save(opened(tmp_path), {5: 0.5})
    reader = opened(tmp_path, read_only=True)
    for name, file in files_of(tmp_path, 5).items():
        before = file.read_bytes()
        if not before and fault != "missing":
            continue
        FAULTS[fault](file)
        with pytest.raises(UserError, match=r"checkpoint .*5 is damaged: ") as error:
            reader.restore(5, draw_state())
        assert name == "SHA256SUMS" or name in str(error.value)
        assert "\n" not in str(error.value)
        file.write_bytes(before)
    assert_same_bits(reader.restore(5, draw_state())[0], draw_state(5))


def test_a_foreign_file_is_noticed(opened, tmp_path):
    save(opened(tmp_path), {5: 0.5})
    (tmp_path / "checkpoints" / "5" / "state" / "stray").touch()
    with pytest.raises(UserError, match="is damaged: state/stray was not written with it"):
        opened(tmp_path, read_only=True).restore(5, draw_state())


@pytest.mark.parametrize("file", ["_CHECKPOINT_METADATA", "commit_success.txt"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_orbax_writes_last_does_not_decide_what_is_restored(opened, tmp_path, file, fault):
    save(opened(tmp_path), {5: 0.5})
    FAULTS[fault](tmp_path / "checkpoints" / "5" / file)
    assert_same_bits(opened(tmp_path).restore(5, draw_state())[0], draw_state(5))


def test_the_manifest_is_what_sha256sum_reads(opened, tmp_path):
    save(opened(tmp_path), {5: 0.5})
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"],
        cwd=tmp_path / "checkpoints" / "5",
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0
    assert checked.stdout.count(": OK") == len(files_of(tmp_path, 5)) - 1


@pytest.mark.parametrize("file", ["state/_METADATA", "metrics/metrics", "SHA256SUMS"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(opened, tmp_path, file):
    save(opened(tmp_path), {3: 0.6, 5: 0.7})
    flip(tmp_path / "checkpoints" / "5" / file)
    again = opened(tmp_path)
    assert again.steps == [3]
    assert again.latest == again.best == 3
    assert list(again.damaged) == [5]
    assert_same_bits(again.restore(3, draw_state())[0], draw_state(3))
    assert (tmp_path / "damaged" / "5" / file).exists()
    # Its number is free again, and what becomes of that does not get lost either.
    save(again, {5: 0.8})
    flip(tmp_path / "checkpoints" / "5" / file)
    assert opened(tmp_path).steps == [3]
    assert sorted(entry.name for entry in (tmp_path / "damaged").iterdir()) == ["5", "5-2"]


def test_where_none_is_whole_all_stay_where_they_are(opened, tmp_path):
    # Set aside, they would not be there the next time, and the run would begin anew in silence.
    save(opened(tmp_path), {3: 0.6, 5: 0.7})
    for step in (3, 5):
        flip(tmp_path / "checkpoints" / str(step) / "state" / "_METADATA")
    for _ in range(2):
        with pytest.raises(UserError, match=r"no checkpoint in .* is whole; in the latest, 5, state/_METADATA"):
            opened(tmp_path)
    assert opened(tmp_path, read_only=True).steps == [3, 5]


def test_a_reader_leaves_what_is_being_written(opened, tmp_path):
    # Opened as a trainer does, a reader removed the checkpoint that a running trainer was about to finish.
    save(opened(tmp_path), {3: 0.6})
    draft = tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp"
    draft.mkdir()
    reader = opened(tmp_path, read_only=True)
    assert (reader.steps, reader.best, reader.damaged) == ([3], 3, {})
    assert draft.exists()
    save(opened(tmp_path), {5: None})
    assert not draft.exists()


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(opened, tmp_path):
    checkpoints = opened(tmp_path)
    with pytest.raises(UserError, match=r"has no checkpoint 4; it has none"):
        checkpoints.restore(4, draw_state())
    save(checkpoints, {3: None, 7: None})
    with pytest.raises(UserError, match=r"has no checkpoint 4; it has \[3, 7\]"):
        checkpoints.restore(4, draw_state())


def test_a_save_that_fails_at_once_leaves_the_earlier_ones(opened, monkeypatch, tmp_path):
    checkpoints = opened(tmp_path)
    save(checkpoints, {1: 0.5, 2: None})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointManager, "save", full)
        with pytest.raises(UserError, match=r"No space left on device.*the last good one is step 2"):
            checkpoints.save(3, draw_state(3), META)
    again = opened(tmp_path)
    assert again.steps == [1, 2]
    assert_same_bits(again.restore(2, draw_state())[0], draw_state(2))


@pytest.mark.parametrize("where", ["at once", "in the background"])
@failing_saves
def test_what_fails_once_is_written_at_the_second_attempt(opened, monkeypatch, tmp_path, where):
    checkpoints, failed = opened(tmp_path, keep=1), []
    save(checkpoints, {1: 0.5})
    owner, name = (CheckpointManager, "save") if where == "at once" else (checkpoint, "write_manifest")
    works = getattr(owner, name)

    def fails_once(*arguments, **options):
        if not failed:
            failed.append(1)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return works(*arguments, **options)

    monkeypatch.setattr(owner, name, fails_once)
    save(checkpoints, {2: 0.6})
    assert failed
    again = opened(tmp_path)
    assert again.steps == [2]
    assert_same_bits(again.restore(2, draw_state())[0], draw_state(2))


@failing_saves
def test_a_write_that_fails_in_the_background_leaves_the_earlier_ones(opened, tmp_path):
    # A limit on the size of files stands for the full disk: the writing threads meet it, long after save() returned.
    checkpoints = opened(tmp_path)
    save(checkpoints, {1: 0.5, 2: None})
    large = {**draw_state(3), "noise": np.random.default_rng(0).integers(0, 256, 4_000_000, np.uint8)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(UserError, match=r"could not be written .*the last good one is step 2") as error:  # noqa: PT012
            checkpoints.save(3, large, META)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    again = opened(tmp_path)
    assert again.steps == [1, 2]
    assert_same_bits(again.restore(2, draw_state())[0], draw_state(2))
    # And what is saved next is whole.
    save(again, {4: None})
    assert_same_bits(again.restore(4, draw_state())[0], draw_state(4))
