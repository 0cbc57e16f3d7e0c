"""Users, runs, and a server in a process of its own.

A pytest plugin, since a second conftest.py cannot be imported for its doctests.
Doctests import it before pytest does, hence PYTEST_DONT_REWRITE
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from app_cases import BROWSER_ARGUMENTS, PASSWORD, QUICK


@pytest.fixture(scope="session", autouse=True)
def recogniser_ends() -> Iterator[None]:
    """No test run leaves a process behind."""
    yield
    from normjax.app.recognition.client import recogniser

    recogniser().close()


@pytest.fixture(autouse=True)
def fresh_start() -> Iterator[None]:
    """What is throttled in one test is not in the next, and the language of one is not that of the next."""
    yield
    from django.core.cache import cache
    from django.utils.translation import deactivate

    cache.clear()
    deactivate()


@pytest.fixture(scope="session")
def hashed_password() -> str:
    """Of all users: hashing is slow on purpose."""
    from django.contrib.auth.hashers import make_password

    return make_password(PASSWORD)


@pytest.fixture
def make_user(db, hashed_password) -> Callable[..., Any]:  # noqa: ARG001 - of pytest-django
    from allauth.mfa.totp.internal.auth import TOTP

    from normjax.app.models import User

    def make(name: str, *, administrator: bool = False, second_factor: bool | None = None) -> Any:
        user = User.objects.create(username=name, password=hashed_password, is_staff=administrator)
        if administrator if second_factor is None else second_factor:
            TOTP.activate(user, "JBSWY3DPEHPK3PXP")
        return user

    return make


@pytest.fixture
def ada(make_user) -> Any:
    return make_user("ada")


@pytest.fixture
def bob(make_user) -> Any:
    return make_user("bob")


@pytest.fixture
def root(make_user) -> Any:
    return make_user("root", administrator=True)


@pytest.fixture
def as_user() -> Callable[[Any], Any]:
    """A client that is logged in."""
    from django.test import Client

    def login(user: Any | None, **options: Any) -> Any:
        client = Client(**options)
        if user is not None:
            client.force_login(user)
        return client

    return login


@pytest.fixture(scope="session")
def trained_directory(tmp_path_factory) -> Path:
    """What a small training of the digits has left, by a process as the app starts it."""
    import json

    folder = tmp_path_factory.mktemp("trained")
    (folder / "config.json").write_text(json.dumps(QUICK))
    words = ["-m", "normjax", "train", "--config", folder / "config.json", "--workdir", folder / "run"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (folder / "log.txt").write_text(done.stdout)
    return folder


@pytest.fixture
def make_run(db) -> Callable[..., Any]:  # noqa: ARG001 - of pytest-django
    from normjax.app.models import Run
    from normjax.training.config import TrainConfig

    made = []

    def make(owner: Any, **fields: Any) -> Any:
        config = TrainConfig.model_validate(QUICK).model_dump(mode="json")
        run = Run.objects.create(**{"owner": owner, "name": "a run", "config": config, **fields})
        made.append(run.path)
        return run

    yield make
    for path in made:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def trained(make_run, ada, trained_directory) -> Any:
    """A finished run of ada."""
    run = make_run(ada, status="finished", name="trained")
    shutil.copytree(trained_directory, run.path)
    return run


@pytest.fixture
def picture(ada) -> Any:
    """A picture that ada has sent."""
    from app_cases import digit_png
    from django.core.files.uploadedfile import SimpleUploadedFile

    from normjax.app.pictures import keep_picture

    return keep_picture(ada, SimpleUploadedFile("digit.png", digit_png()))


@pytest.fixture
def data_set(ada) -> Any:
    """A data set of ada with two classes of two pictures."""
    import numpy as np
    from app_cases import png
    from django.core.files.uploadedfile import SimpleUploadedFile

    from normjax.app import data_sets

    made = data_sets.create(ada, "squares")
    for label, level in (("dark", 20), ("light", 220)):
        for shift in range(2):
            pixels = np.full((8, 8), level + shift, np.uint8)
            data_sets.add_picture(made, label, SimpleUploadedFile("x.png", png(pixels)))
    made.refresh_from_db()
    yield made
    shutil.rmtree(made.path, ignore_errors=True)


class Server(NamedTuple):
    """A server in a process of its own."""

    address: str
    home: Path
    invitation: str  # of the first administrator
    process: subprocess.Popen
    log: Path


def start_server(home: Path, port: int, log: Path) -> Server:
    """Starts ``normjax app`` and waits until it serves."""
    words = [sys.executable, "-m", "normjax", "app", "--home", str(home), "--port", str(port)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NORMJAX_APP", "DJANGO"))}
    environment = {**kept, "PYTHONUNBUFFERED": "1", "JAX_PLATFORMS": "cpu", "NORMJAX_APP_WATCHERS": "200"}
    environment["NORMJAX_APP_NICE"] = "0"  # other tests do not wait for trainings, nor the other way round
    with log.open("ab") as output:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=output, text=True, env=environment)
    assert process.stdout is not None
    invitation = ""
    for line in process.stdout:
        if found := re.search(r"http\S+/join/\S+", line):
            invitation = found[0]
        if line.startswith("normjax serves"):
            break
    else:
        raise AssertionError(f"the server ended: {log.read_text()}")
    return Server(f"http://127.0.0.1:{port}", home, invitation, process, log)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """A server with a home of its own."""
    folder = tmp_path_factory.mktemp("server")
    started = start_server(folder / "home", free_port(), folder / "log.txt")
    yield started
    started.process.send_signal(signal.SIGTERM)
    started.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
    with playwright.sync_playwright() as started:
        path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = started.chromium.launch(executable_path=path, args=BROWSER_ARGUMENTS)
        yield browser
        browser.close()
