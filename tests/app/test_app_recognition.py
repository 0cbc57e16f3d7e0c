"""The recogniser: it answers as the network does, comes back when it dies, and is not waited for for ever."""

import base64
import csv
import io
import json
import os
import shutil
import signal
import threading
import time
from datetime import timedelta

import numpy as np
import pytest
from app_cases import digit_png, sent
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from PIL import Image
from sklearn.datasets import load_digits

from normjax.app import run_facts
from normjax.app.housekeeping import PICTURE_LIFE, tidy_up
from normjax.app.models import Picture, Run, Token
from normjax.app.recognition.client import Recogniser, RecognitionError, recogniser
from normjax.data import load_dataset
from normjax.errors import UserError
from normjax.training.evaluate import restore_network
from normjax.training.predict import predict_run

pytest_plugins = ["app_fixtures"]
pytestmark = pytest.mark.django_db


def recognise(client, runs, *files):
    answer = client.post(reverse("recognise"), {"run": [run.pk for run in runs], "pictures": files})
    return client.get(answer["Location"])


def test_answers_are_those_of_the_network(ada, as_user, trained, tmp_path):
    files = [sent(f"{i}.png", digit_png(i)) for i in range(5)]
    page = recognise(as_user(ada), [trained], *files)
    paths = []
    for i in range(5):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(digit_png(i))
    expected = predict_run(trained.directory, paths)
    for row, told in zip(page.context["rows"], expected, strict=True):
        (answer,) = row["answers"]
        assert [guess["class"] for guess in answer["predictions"]] == [guess["class"] for guess in told["predictions"]]
        got, wanted = ([g["probability"] for g in p] for p in (answer["predictions"], told["predictions"]))
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    # The bars are in the page, for those without scripts.
    assert page.content.decode().count('<ul class="bars">') == 5


def test_several_networks_answer_side_by_side_and_as_csv(ada, as_user, trained, make_run, trained_directory):
    second = make_run(ada, status="finished", name="=second")
    shutil.copytree(trained_directory, second.path)
    client = as_user(ada)
    page = recognise(client, [trained, second], sent("a.png", digit_png(3)), sent("=b.png", digit_png(4)))
    assert [[answer["run"].name for answer in row["answers"]] for row in page.context["rows"]] == [
        ["trained", "=second"]  # as they were asked for
    ] * 2
    table = list(csv.DictReader(io.StringIO(client.get(page.context["csv"]).content.decode())))
    assert len(table) == 2 * 2 * 5
    # What a spreadsheet would compute is text.
    assert {row["picture"] for row in table} == {"a.png", "'=b.png"}
    assert {row["network"] for row in table} == {"trained", "'=second"}
    shares = [float(row["probability"]) for row in table if row["picture"] == "a.png" and row["network"] == "trained"]
    first = page.context["rows"][0]["answers"][0]["predictions"]
    np.testing.assert_allclose(shares, [guess["probability"] for guess in first], atol=1e-6)


def test_networks_and_pictures_of_others_are_left_out(ada, bob, as_user, trained, picture):
    client = as_user(bob)
    page = client.get(reverse("recognise"), {"run": trained.pk, "picture": picture.pk})
    assert (page.context["rows"], page.context["chosen"]) == ([], [])
    answer = client.post(reverse("recognise"), {"run": trained.pk, "pictures": sent("a.png", digit_png())})
    assert trained.pk not in answer["Location"]
    assert ada.pk != bob.pk


def test_a_network_that_was_asked_for_answers_or_none_does(ada, as_user, trained, make_run):
    make_run(ada, name="another").directory.joinpath("checkpoints").mkdir(parents=True)
    Run.objects.filter(pk=trained.pk).update(archived=True)
    page = as_user(ada).get(reverse("recognise"), {"run": trained.pk}).context
    assert page["chosen_ids"] == {trained.pk}  # an archived one was replaced by the newest without a word
    assert trained in page["runs"]
    assert as_user(ada).get(reverse("recognise"), {"run": "unknown"}).context["chosen_ids"] == set()


def test_of_many_classes_the_matrix_is_not_made(ada, as_user, trained, monkeypatch):
    known = {"step": 1, "classes": [f"c{i}" for i in range(2000)], "labels": [0, 1, 1], "predicted": [0, 1, 0]}
    monkeypatch.setattr(run_facts, "answers", lambda *_: known)
    context = as_user(ada).get(reverse("run_confusion", args=[trained.pk])).context
    assert context["accuracy"] == 2 / 3
    rows = [(row["total"], row["right"], row["cells"]) for row in context["rows"][:3]]
    assert rows == [(1, 1, []), (2, 0.5, []), (0, 0, [])]
    token = Token.make(ada, "script")
    answer = Client().get(f"/api/v1/runs/{trained.pk}/confusion", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 409


def test_the_confusion_matrix_counts_the_test_set_and_its_cells_open_their_pictures(ada, as_user, trained):
    client = as_user(ada)
    page = client.get(reverse("run_confusion", args=[trained.pk]))
    summary = json.loads((trained.directory / "summary.json").read_text())
    assert page.context["pictures"] == summary["test"]["examples"]
    assert page.context["accuracy"] == pytest.approx(summary["test"]["accuracy"])
    cells = {
        (row["index"], cell["index"]): cell["count"]
        for row in page.context["rows"]
        for cell in row["cells"]
        if cell["count"]
    }
    label, predicted = max((cell for cell in cells if cell[0] != cell[1]), key=cells.get)
    opened = client.get(reverse("run_confusion_cell", args=[trained.pk, label, predicted]))
    assert len(opened.context["pictures"]) == opened.context["total"] == cells[label, predicted]
    # They are pictures of that class, of the digits as scikit-learn has them.
    digits = load_digits()
    known = {
        np.round(image * (255 / 16)).astype(np.uint8).tobytes(): target
        for image, target in zip(digits.images, digits.target, strict=True)
    }
    for _, encoded in opened.context["pictures"]:
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            assert known[np.asarray(image).tobytes()] == label
    assert client.get(reverse("run_confusion_cell", args=[trained.pk, 0, 10])).status_code == 404


def test_activations_are_those_of_the_network_before_and_behind_its_norms(ada, as_user, trained):
    layers = as_user(ada).get(reverse("run_activations", args=[trained.pk])).context["layers"]
    assert [layer["layer"] for layer in layers] == ["norm0", "norm1"]
    # Batch norm scales each channel alone: correlations stay, means move to the bias, which began at 0.
    for layer in layers:
        assert layer["after"]["correlation"] == pytest.approx(layer["before"]["correlation"], abs=1e-4)
        assert layer["after"]["mean"] < layer["before"]["mean"]
        assert layer["after"]["deviation"] == pytest.approx(1, abs=0.3)
    # The first, by numpy on the numbers of the checkpoint.
    session, variables, _ = restore_network(trained.directory)
    info = session.info
    test = load_dataset(
        session.config.data.model_copy(update={"mean": info.mean, "std": info.std}), seed=0, data_dir=None
    ).test
    pixels, _ = test.read(np.linspace(0, len(test) - 1, 256).astype(int))
    x = ((pixels / 255 - info.mean[0]) / info.std[0]).reshape(256, -1) @ variables["params"]["dense0"]["kernel"]
    assert layers[0]["before"]["mean"] == pytest.approx(np.abs(x.mean(0)).mean(), rel=1e-4)
    assert layers[0]["before"]["deviation"] == pytest.approx(x.std(0).mean(), rel=1e-4)
    correlations = np.corrcoef(x, rowvar=False)
    expected = np.abs(correlations[~np.eye(len(correlations), dtype=bool)]).mean()
    assert layers[0]["before"]["correlation"] == pytest.approx(expected, rel=1e-3)


def test_the_map_is_bright_where_the_answer_depends_on_the_picture(ada, as_user, trained, picture):
    looked = as_user(ada).get(reverse("saliency", args=[picture.pk, trained.pk])).context["looked"]
    with Image.open(io.BytesIO(base64.b64decode(looked["map"]))) as image:
        heat = np.asarray(image).astype(int).sum(-1)
    assert heat.shape == (8, 8)
    assert heat.max() == 3 * 255
    # The left column is empty in nearly all digits: little depends on it.
    assert heat[:, 0].mean() < heat[:, 2:6].mean()


def test_a_run_without_a_checkpoint_says_so(ada, as_user, make_run):
    run = make_run(ada, status="running")
    page = as_user(ada).get(reverse("run_confusion", args=[run.pk]))
    assert page.status_code == 200
    assert "no checkpoint yet" in page.content.decode()


def test_a_recogniser_that_is_killed_serves_the_next_request(trained, picture):
    asked = {"files": [str(picture.file)], "top": 1}
    first = recogniser().ask("predict", trained.directory, 1, **asked)
    pid = recogniser().pid
    os.kill(pid, signal.SIGKILL)
    recogniser()._process.wait()
    assert recogniser().ask("predict", trained.directory, 1, **asked) == first
    assert recogniser().pid != pid


def test_one_killed_while_it_works_fails_one_request_and_not_the_next(trained, picture, monkeypatch):
    own = recogniser()
    waiting = own._line

    def killed(process):
        process.kill()
        return waiting(process)

    with monkeypatch.context() as fault:
        fault.setattr(own, "_line", killed)
        with pytest.raises(RecognitionError, match="ended"):
            own.ask("predict", trained.directory, 1, files=[str(picture.file)], top=1)
    assert len(own.ask("predict", trained.directory, 1, files=[str(picture.file)], top=1)) == 1


def test_a_request_that_takes_too_long_is_ended(trained, tmp_path):
    slow = Recogniser(tmp_path / "log", timeout=0.01)  # shorter than the start of the process
    with pytest.raises(RecognitionError, match="timeout"):
        slow.ask("predict", trained.directory, 1, files=[], top=1)
    assert slow.pid is None


def test_no_more_wait_than_there_is_room_for(trained, tmp_path, monkeypatch):
    own = Recogniser(tmp_path / "log")
    begun, go_on = threading.Semaphore(0), threading.Event()

    def exchange(_request):
        begun.release()
        assert go_on.wait(30)
        return {"ok": 1}

    monkeypatch.setattr(own, "_exchange", exchange)
    threads = []

    def ask(user):
        threads.append(threading.Thread(target=own.ask, args=("predict", trained.directory, user)))
        threads[-1].start()
        while own._open.total() < len(threads):
            threading.Event().wait(0.001)

    for _ in range(3):
        ask(1)
    assert begun.acquire(timeout=30)
    with pytest.raises(RecognitionError, match="busy"):  # one user leaves room for others
        own.ask("predict", trained.directory, 1)
    for user in (2, 2, 2, 3, 3):
        ask(user)
    with pytest.raises(RecognitionError, match="busy"):
        own.ask("predict", trained.directory, 4)
    go_on.set()
    for thread in threads:
        thread.join()
    assert own.ask("predict", trained.directory, 1) == 1
    assert not own._open


def test_nobody_waits_for_ever(trained, tmp_path, monkeypatch):
    own = Recogniser(tmp_path / "log", timeout=0.05)
    monkeypatch.setattr(own, "_exchange", lambda _request: pytest.fail("out of turn"))
    with own._turn, pytest.raises(RecognitionError, match="busy"):
        own.ask("predict", trained.directory, 1)


def test_what_goes_wrong_is_told_without_paths(trained, settings):
    (trained.directory / "dataset.json").unlink()
    with pytest.raises(UserError) as told:
        recogniser().ask("predict", trained.directory, 1, files=[], top=1)
    assert str(settings.HOME.path) not in str(told.value)
    assert "dataset.json is missing" in str(told.value)


def test_answers_are_kept_until_the_network_changes(trained, monkeypatch):
    first = run_facts.answers(trained, 1)
    with monkeypatch.context() as silent:
        silent.setattr(recogniser(), "ask", lambda *_, **__: pytest.fail("asked again"))
        assert run_facts.answers(trained, 1) == first
    os.utime(trained.directory / "checkpoints", ns=(1, 1))  # as a new checkpoint does
    assert run_facts.answers(trained, 1)["stamp"] == 1


def test_what_a_killed_server_leaves_of_pictures_goes_after_an_hour(picture, settings):
    pictures = settings.HOME.pictures
    (pictures / "tmp1").mkdir()
    for name in ("tmp1/0.png", "nobodys.png", "arriving.png"):
        (pictures / name).write_bytes(b"")
    an_hour_ago = time.time() - 3601
    for entry in (pictures / "tmp1", pictures / "nobodys.png", picture.file):
        os.utime(entry, (an_hour_ago, an_hour_ago))
    tidy_up()
    left = {entry.name for entry in pictures.iterdir()}
    assert {"arriving.png", picture.file.name} <= left
    assert not {"tmp1", "nobodys.png"} & left


def test_pictures_go_after_a_week(ada, picture, monkeypatch):
    tidy_up()
    assert picture.file.exists()
    later = timezone.now() + PICTURE_LIFE + timedelta(seconds=1)
    monkeypatch.setattr(timezone, "now", lambda: later)
    tidy_up()
    assert not picture.file.exists()
    assert not Picture.objects.filter(owner=ada).exists()
