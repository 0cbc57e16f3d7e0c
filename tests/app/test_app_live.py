"""A server in a process of its own: it starts, trains, tells of it as it happens, and is killed."""

import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.parse

import psutil
import pytest
from app_cases import PASSWORD, QUICK, totp
from app_fixtures import free_port, start_server

from normjax.app.serve import serve
from normjax.errors import UserError

pytest_plugins = ["app_fixtures"]
pytestmark = pytest.mark.slow

LONG = {**QUICK, "epochs": 900, "schedule": {"warmup_epochs": 1, "name": "constant"}}


class Browser:
    """Cookies, forms and streams of one user, by the standard library alone."""

    def __init__(self, address):
        self.address = address
        self.cookies = {}

    def ask(self, method, path, data=None, headers=None, stream=False):
        host = urllib.parse.urlsplit(self.address)
        connection = http.client.HTTPConnection(host.hostname, host.port, timeout=60)
        body = urllib.parse.urlencode(data) if data is not None else None
        kind = {"Content-Type": "application/x-www-form-urlencoded"} if data is not None else {}
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection.request(method, path, body, {"Cookie": cookies, **kind, **(headers or {})})
        response = connection.getresponse()
        for name, value in response.getheaders():
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                self.cookies[key] = rest.partition(";")[0]
        if stream:
            return connection, response
        text = response.read().decode()
        connection.close()
        return response.status, response.getheader("Location"), text

    def post(self, path, **data):
        own = path.startswith(("/join/", "/account/login/", "/account/reauthenticate/"))
        _, _, page = self.ask("GET", path if own else "/account/")
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[1]
        return self.ask("POST", path, {"csrfmiddlewaretoken": token, **data})

    def login(self, name):
        return self.post("/account/login/", login=name, password=PASSWORD)

    def api(self, method, path, body=None, token=""):
        host = urllib.parse.urlsplit(self.address)
        connection = http.client.HTTPConnection(host.hostname, host.port, timeout=60)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request(method, f"/api/v1{path}", None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer


def administrator(server):
    """The first one, by the link that the terminal showed, with the second factor set up."""
    browser = Browser(server.address)
    path = urllib.parse.urlsplit(server.invitation).path
    assert browser.post(path, username="root", password1=PASSWORD, password2=PASSWORD)[0] == 302
    assert browser.login("root")[0] == 302
    setup = "/account/second-factor/totp/activate/"
    assert browser.ask("GET", "/runs/")[1] == setup
    _, reauthenticate, _ = browser.ask("GET", setup)
    browser.post(reauthenticate.partition("?")[0], password=PASSWORD)
    _, _, page = browser.ask("GET", setup)
    secret = re.search(r'id="authenticator_secret"[^>]*value="(\w+)"', page, re.S)[1]
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[1]
    assert browser.ask("POST", setup, {"csrfmiddlewaretoken": token, "code": totp(secret)})[0] == 302
    return browser


@pytest.fixture(scope="module")
def root(server):
    browser = administrator(server)
    page = browser.post("/account/tokens/", name="tests")[2]
    browser.token = re.search(r"normjax_[\w-]+", page.partition('id="new-token"')[2])[0]
    return browser


def submit(root, config):
    status, run = root.api("POST", "/runs", {"config": config}, root.token)
    assert status == 201, run
    return run["id"]


def events(stream):
    """Event by event, as dictionaries of their fields; who leaves closes the connection."""
    connection, response = stream
    assert response.status == 200
    event = {}
    try:
        for raw in response:
            line = raw.decode().rstrip("\n")
            if not line:
                if event:
                    yield event
                event = {}
            elif not line.startswith(":"):
                name, _, value = line.partition(": ")
                event[name] = value
    finally:
        response.close()
        connection.close()


def stream_of(root, run, last=None):
    return root.ask("GET", f"/runs/{run}/events/", headers={"Last-Event-ID": str(last)} if last else {}, stream=True)


def wait_until(root, run, *statuses):
    """Listens until the run has come to a state."""
    for event in events(stream_of(root, run)):
        if event.get("event") == "status" and json.loads(event["data"])["status"] in statuses:
            break
    return root.api("GET", f"/runs/{run}", token=root.token)[1]


def test_there_is_no_default_account_and_what_is_kept_is_its_owners_alone(server, root):
    assert root.api("GET", "/me", token=root.token)[1] == {"username": "root", "administrator": True}
    for path in (server.home, server.home / "secret.key", server.home / "app.sqlite3", server.home / "runs"):
        assert path.stat().st_mode & 0o077 == 0, path
    with sqlite3.connect(server.home / "app.sqlite3") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        (password,) = database.execute("select password from normjax_app_user").fetchone()
    assert password.startswith("argon2$argon2id$")
    database.close()


def test_it_listens_to_this_machine_alone(server):
    (listening,) = [c for c in psutil.Process(server.process.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening.laddr.ip == "127.0.0.1"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"host": "0.0.0.0"}, "passwords would cross the network in the clear"),
        ({"port": 70000}, "port=70000: use 1 to 65535"),
        ({"jobs": 0}, "jobs=0: use 1 or more"),
        ({"origin": "http://lab.example"}, "origin='http://lab.example': use https://"),
        ({"origin": "https://lab.example/app"}, "origin='https://lab.example/app': use https://"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_made(options, told, tmp_path):
    with pytest.raises(UserError, match=re.escape(told)):
        serve(tmp_path / "home", **options)
    assert not (tmp_path / "home").exists()


def test_a_port_that_is_taken_is_told(server, tmp_path):
    port = server.address.rsplit(":", 1)[1]
    words = [sys.executable, "-m", "normjax", "app", "--home", str(tmp_path / "home"), "--port", port]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "cannot be listened on: Address already in use" in done.stderr.splitlines()[-1]


def test_the_curve_of_a_training_is_told_line_by_line_and_goes_on_where_it_was_cut(server, root):
    run = submit(root, QUICK)
    whole = list(events(stream_of(root, run)))
    file = (server.home / "runs" / run / "run" / "metrics.jsonl").read_bytes()
    lines = [event for event in whole if "id" in event and "event" not in event]
    assert [event["data"] for event in lines] == file.decode().splitlines()
    # The id of an event is the place behind its line.
    for event in lines:
        assert file[: int(event["id"])].endswith(event["data"].encode() + b"\n")
    assert whole[-1]["event"] == "end"
    statuses = [json.loads(event["data"])["status"] for event in whole if event.get("event") == "status"]
    assert statuses[-1] == "finished"
    again = list(events(stream_of(root, run, last=lines[4]["id"])))
    assert [event["data"] for event in again if "id" in event] == [event["data"] for event in lines[5:]]
    # Within a line, or behind the end: another file than this, told from its start.
    for wrong in (int(lines[4]["id"]) - 1, 10**9):
        told = list(events(stream_of(root, run, last=wrong)))
        assert told[0]["event"] == "reset"
        assert [event["data"] for event in told[1:] if "id" in event] == [event["data"] for event in lines]


def test_stop_saves_and_resume_goes_on_to_the_same_end(root):
    straight = wait_until(root, submit(root, {**QUICK, "epochs": 30}), "finished")
    run = submit(root, {**QUICK, "epochs": 30})
    for event in events(stream_of(root, run)):
        if "id" in event and json.loads(event["data"])["step"] >= 20:
            break
    assert root.api("POST", f"/runs/{run}/stop", token=root.token)[0] == 202
    stopped = wait_until(root, run, "stopped")
    assert 20 <= stopped["figures"]["step"] < straight["figures"]["step"]
    assert root.api("POST", f"/runs/{run}/resume", token=root.token)[0] == 202
    ended = wait_until(root, run, "finished")
    for name in ("test_accuracy", "test_loss", "best_validation_loss", "step"):
        assert ended["figures"][name] == straight["figures"][name]


def test_a_network_is_pruned_and_folded_with_size_and_speed_before_and_after(root):
    run = submit(root, QUICK)
    wait_until(root, run, "finished")
    options = {"max_drop": 0.5, "step": 0.4, "min_step": 0.4, "epochs": 0.5, "final_epochs": 0.5}
    pruned = root.api("POST", f"/runs/{run}/prune", options, root.token)[1]["id"]
    folded = root.api("POST", f"/runs/{run}/fold", None, root.token)[1]["id"]
    result = wait_until(root, pruned, "finished")["result"]
    assert result["after"]["parameters"] < result["before"]["parameters"]
    page = root.ask("GET", f"/runs/{pruned}/")[2]
    assert f"{result['before']['parameters']:,}" in page
    assert f"{result['after']['parameters']:,}" in page
    told = wait_until(root, folded, "finished")["result"]
    assert told["folded"] == ["norm0", "norm1"]
    assert told["weight_bytes_after"] < told["weight_bytes_before"]
    assert "folded.stablehlo" in root.ask("GET", f"/runs/{folded}/")[2]
    assert root.ask("GET", f"/runs/{pruned}/confusion/")[0] == 200
    # What is told of a job names no directory of the machine.
    assert not {"run", "output", "file"} & {*result, *told}


def test_7_4_a_stream_ends_with_the_session_it_was_opened_by(server, root):
    run = submit(root, LONG)
    link = root.post("/users/invite/", role="user")[2]
    path = urllib.parse.urlsplit(re.search(r'id="link">([^<]+)<', link)[1]).path
    eve = Browser(server.address)
    assert eve.post(path, username="eve", password1=PASSWORD, password2=PASSWORD)[0] == 302
    eve.login("eve")
    assert eve.ask("GET", f"/runs/{run}/events/")[0] == 404
    assert root.api("PATCH", f"/runs/{run}", {"shared_with": ["eve"]}, root.token)[0] == 200
    told = events(eve.ask("GET", f"/runs/{run}/events/", stream=True))
    next(told)
    # She logs out elsewhere: what is open ends within seconds, while the training goes on.
    began = time.monotonic()
    eve.post("/account/logout/")
    assert list(told)[-1] == {"event": "end", "data": '{"allowed": false}'}
    assert time.monotonic() - began < 10
    assert root.api("GET", f"/runs/{run}", token=root.token)[1]["status"] in ("starting", "running")
    root.api("POST", f"/runs/{run}/stop", token=root.token)
    assert wait_until(root, run, "stopped")["status"] == "stopped"


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server):
    host = urllib.parse.urlsplit(server.address)
    with socket.create_connection((host.hostname, host.port), timeout=30) as connection:
        head = f"POST /recognise/ HTTP/1.1\r\nHost: {host.netloc}\r\nContent-Length: {10**12}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_server_that_is_killed_loses_no_training_and_its_watchers_go_on(tmp_path):
    home, port = tmp_path / "home", free_port()
    first = start_server(home, port, tmp_path / "log.txt")
    try:
        root = administrator(first)
        page = root.post("/account/tokens/", name="tests")[2]
        root.token = re.search(r"normjax_[\w-]+", page.partition('id="new-token"')[2])[0]
        run = submit(root, {**QUICK, "epochs": 40})
        seen = {}
        for event in events(stream_of(root, run)):
            if "id" in event:
                seen[int(event["id"])] = event["data"]
                if len(seen) == 20:
                    break
        first.process.kill()
        first.process.communicate()
        with sqlite3.connect(home / "app.sqlite3") as database:
            ((pid,),) = database.execute("select pid from normjax_app_run").fetchall()
        database.close()
        assert psutil.Process(pid).is_running()
        second = start_server(home, port, tmp_path / "log.txt")
        assert second.invitation == ""  # there is a user
        try:
            for event in events(stream_of(root, run, last=max(seen))):
                if "id" in event:
                    seen[int(event["id"])] = event["data"]
            ended = root.api("GET", f"/runs/{run}", token=root.token)[1]
            assert ended["status"] == "finished"
            # No line was lost, and none came twice: the run was not begun again.
            file = (home / "runs" / run / "run" / "metrics.jsonl").read_text()
            assert [seen[place] for place in sorted(seen)] == file.splitlines()
            assert (home / "runs" / run / "log.txt").read_text().count("parameters, on digits") == 1
        finally:
            second.process.send_signal(signal.SIGTERM)
            second.process.communicate(timeout=30)
            assert second.process.returncode == 0
    finally:
        if first.process.poll() is None:
            os.kill(first.process.pid, signal.SIGKILL)
            first.process.communicate()
