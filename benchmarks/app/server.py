"""A server of the app in a process of its own, with a user, for benchmarks."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

# A training that writes lines steadily: the digits network, 80 epochs.
TRAINING = {"epochs": 80, "schedule": {"name": "constant"}, "run": {"log_every": 20}}


class Server:
    """``normjax app`` on a home.

    Args:
      home: its directory.
      port: where it listens.
      watchers: streams that a user may open.
    """

    def __init__(self, home: Path, port: int, watchers: int = 500):
        self.home, self.port, self.address = home, port, f"http://127.0.0.1:{port}"
        self._environment = {**os.environ, "NORMJAX_APP_WATCHERS": str(watchers), "PYTHONUNBUFFERED": "1"}
        self.process: subprocess.Popen | None = None
        self.token = self.cookie = ""

    def start(self) -> None:
        """Starts it and waits until it serves."""
        words = [sys.executable, "-m", "normjax", "app", "--home", str(self.home), "--port", str(self.port)]
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, env=self._environment)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("normjax serves"):
                return
        raise RuntimeError(f"the server ended; see {self.home.parent / 'server.log'}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends it by a signal."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.communicate()

    def make_user(self) -> None:
        """A user with a token and a session, made in the database as the pages would."""
        os.environ["NORMJAX_APP_HOME"] = str(self.home)
        os.environ["DJANGO_SETTINGS_MODULE"] = "normjax.app.settings"
        import django

        django.setup()
        from django.conf import settings
        from django.contrib.auth import SESSION_KEY, get_user_model
        from django.contrib.sessions.backends.db import SessionStore

        from normjax.app.models import Token

        user = get_user_model().objects.create_user("load", password="load of the server")
        self.token = Token.make(user, "benchmark")
        session = SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session["_auth_user_backend"] = settings.AUTHENTICATION_BACKENDS[0]
        session["_auth_user_hash"] = user.get_session_auth_hash()
        session["began"] = session["seen"] = time.time()
        session.create()
        self.cookie = f"{settings.SESSION_COOKIE_NAME}={session.session_key}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """A request to the API."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}/api/v1{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def submit(self, **changes: Any) -> str:
        """Queues a training."""
        return self.ask("POST", "/runs", {"config": {**TRAINING, **changes}})["id"]

    def wait(self, run: str, *statuses: str, limit: float = 600) -> dict[str, Any]:
        """Asks until a run has come to a state."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            told = self.ask("GET", f"/runs/{run}")
            if told["status"] in statuses:
                return told
            time.sleep(0.2)
        raise TimeoutError(f"run {run} is {told['status']} after {limit} s")
