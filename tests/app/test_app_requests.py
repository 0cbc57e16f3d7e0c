"""What holds for every request: checks 9, 13, 20 to 22, 24 to 27 of docs/app.md, with their numbers in ASVS 5.0."""

import ast
import asyncio
import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from app_cases import PASSWORD
from django.conf import settings as django_settings
from django.test import Client
from django.urls import reverse

import normjax.app
from normjax.app.body_limit import BodyLimit, carries_login
from normjax.app.home import Home
from normjax.app.logs import OneLine
from normjax.app.models import OneTimeLink, Run, Token
from normjax.app.turns import Turns
from normjax.app.views import account
from normjax.errors import UserError

pytest_plugins = ["app_fixtures"]
pytestmark = pytest.mark.django_db

SOURCES = sorted(Path(normjax.app.__file__).parent.rglob("*.py"))


def test_3_5_1_a_form_without_its_token_changes_nothing(ada, make_run, as_user):
    run = make_run(ada, status="finished")
    client = as_user(ada, enforce_csrf_checks=True)
    assert client.post(reverse("run_delete", args=[run.pk])).status_code == 403
    # The API by cookie asks for it, too; by token it need not.
    assert client.delete(f"/api/v1/runs/{run.pk}").status_code == 403
    assert Run.objects.filter(pk=run.pk).exists()
    token = Token.make(ada, "script")
    headers = {"Authorization": f"Bearer {token}"}
    assert Client(enforce_csrf_checks=True).delete(f"/api/v1/runs/{run.pk}", headers=headers).status_code == 204


def test_3_5_1_a_token_of_another_site_is_refused(ada, as_user):
    client = as_user(ada, enforce_csrf_checks=True)
    page = client.get("/account/").content.decode()
    token = page.split('name="csrfmiddlewaretoken" value="')[1].split('"')[0]
    data = {"csrfmiddlewaretoken": token, "name": "script"}
    assert client.post("/account/tokens/", data, headers={"Origin": "https://evil.example"}).status_code == 403
    assert Token.objects.count() == 0
    assert client.post("/account/tokens/", data, headers={"Origin": "http://testserver"}).status_code == 302


@pytest.mark.parametrize(
    "address", ["/account/login/", "/runs/", "/nothing/", "/users/", "/api/v1/me", "/api/v1/openapi.json"]
)
def test_3_4_headers_of_every_answer(ada, as_user, address):
    response = as_user(ada).get(address)
    headers = response.headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    # 14.3.2: nothing private is kept by a cache.
    assert "no-store" in headers["Cache-Control"]
    assert "Strict-Transport-Security" not in headers  # there is no TLS to be strict about


def test_3_3_1_and_3_4_1_behind_tls_cookies_are_for_the_host_alone_and_browsers_stay_with_tls():
    # Settings follow the option --origin; another process reads them anew.
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import json; from normjax.app import settings as s; print(json.dumps(["
            "s.SESSION_COOKIE_NAME, s.CSRF_COOKIE_NAME, s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE, "
            "s.SECURE_HSTS_SECONDS, s.ALLOWED_HOSTS, s.CSRF_TRUSTED_ORIGINS, s.DEBUG, s.ALLAUTH_TRUSTED_PROXY_COUNT]))",
        ],
        env={**os.environ, "NORMJAX_APP_ORIGIN": "https://lab.example"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(told.stdout) == [
        *("__Host-session", "__Host-csrf", True, True, 365 * 24 * 3600),
        *(["lab.example"], ["https://lab.example"], False, 1),
    ]


def test_13_4_2_debugging_is_off(settings):
    assert settings.DEBUG is False


def test_12_a_name_that_is_not_ours_is_refused(settings, client):
    # DNS rebinding: a page of another site whose name points here.
    settings.ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
    assert client.get("/account/login/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/account/login/", headers={"Host": "127.0.0.1:8000"}).status_code == 200


def test_15_3_3_fields_that_nobody_may_set_are_refused(ada, bob, make_run, as_user):
    run = make_run(ada, status="finished")
    headers = {"Authorization": f"Bearer {Token.make(ada, 'script')}"}
    for field, value in (("owner", bob.pk), ("status", "running"), ("pid", 1), ("is_staff", True), ("id", "0")):
        body = json.dumps({"name": "x", field: value})
        for call, address in ((Client().patch, f"/api/v1/runs/{run.pk}"), (Client().post, "/api/v1/runs")):
            answer = call(address, body, content_type="application/json", headers=headers)
            assert answer.status_code == 422, (field, address)
            assert answer.json()["detail"][0]["loc"][-1] == field
    # A form has no such fields, and takes no notice of them.
    as_user(ada).post(reverse("run_rename", args=[run.pk]), {"name": "renamed", "owner": bob.pk, "status": "running"})
    run.refresh_from_db()
    assert (run.name, run.owner, run.status) == ("renamed", ada, "finished")


def test_16_5_1_an_error_tells_its_user_nothing_of_the_server(ada, as_user, monkeypatch):
    def broken(_request):
        raise RuntimeError("secret of the server")

    monkeypatch.setattr(account, "_account", broken)
    client = as_user(ada, raise_request_exception=False)
    response = client.get("/account/")
    assert response.status_code == 500
    assert b"secret" not in response.content
    assert b"Traceback" not in response.content


def test_16_4_1_what_a_user_types_begins_no_line_of_the_log(client, caplog):
    with caplog.at_level(logging.INFO, "normjax.app.security"):
        client.post("/account/login/", {"login": "ada\r\n2026-01-01 INFO login user=root", "password": "x"})
    record = next(record for record in caplog.records if record.name == "normjax.app.security")
    line = OneLine("%(message)s").format(record)
    assert "login failed" in line
    assert "\n" not in line
    assert "\r" not in line
    assert OneLine("%(message)s").format(logging.makeLogRecord({"msg": "a\nb\x1b[31m"})) == r"a\nb\x1b[31m"


def test_16_3_1_logins_and_denials_are_logged_without_secrets(ada, as_user, caplog):
    with caplog.at_level(logging.INFO, "normjax.app.security"):
        Client().post("/account/login/", {"login": "ada", "password": "wrong password"})
        client = as_user(ada)
        client.get("/users/")
        asked = client.post("/account/tokens/", {"name": "script"})
        assert asked["Location"] == "/account/reauthenticate/?next=%2Faccount%2Ftokens%2F"  # a session is not enough
        assert Token.objects.count() == 0
        page = client.post(asked["Location"], {"password": PASSWORD, "next": "/account/tokens/"})
    text = "\n".join(record.getMessage() for record in caplog.records if record.name == "normjax.app.security")
    for event in ("login failed", "login user='ada'", "denied user='ada' path='/users/'", "token made"):
        assert event in text
    assert "wrong password" not in text
    assert page.context["new_token"] not in text


def test_16_2_5_a_link_that_may_still_be_used_is_not_logged():
    # Django logs the path of what it refuses, as of a password that is too short.
    secret = OneTimeLink.make(OneTimeLink.Purpose.INVITATION)
    for page in ("join", "new_password"):
        path = reverse(page, args=[secret])
        record = logging.makeLogRecord({"msg": "Unprocessable Entity: %s", "args": (path,)})
        line = OneLine("%(message)s").format(record)
        assert secret not in line
        assert line.startswith(f"Unprocessable Entity: {path.removesuffix(f'{secret}/')}")


def test_16_2_1_behind_a_proxy_the_address_is_that_of_the_client(settings, caplog):
    settings.ALLAUTH_TRUSTED_PROXY_COUNT = 1
    with caplog.at_level(logging.INFO, "normjax.app.security"):
        forwarded = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9"}
        Client().post("/account/login/", {"login": "ada", "password": "wrong password"}, headers=forwarded)
    assert "address='203.0.113.9'" in caplog.text


def test_13_3_1_the_key_is_made_at_the_first_start_for_its_owner_alone(tmp_path):
    home = Home(tmp_path / "home")
    with pytest.raises(UserError, match=r"secret\.key cannot be read"):
        home.secret_key()
    home.make()
    key = home.secret_key()
    assert len(key) >= 64
    assert stat.S_IMODE(home.secret_key_file.stat().st_mode) == 0o600
    home.make()
    assert home.secret_key() == key
    other = Home(tmp_path / "other")
    other.make()
    assert other.secret_key() != key


def test_1_5_2_nothing_unpickles_and_1_2_5_nothing_calls_a_shell():
    forbidden = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "torch", "multiprocessing"}
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not forbidden & {name.split(".")[0] for name in names}, source
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "os.system", "os.popen", "mark_safe", "format_html"), source
                for keyword in node.keywords:
                    assert keyword.arg not in ("shell", "allow_pickle"), source
    # 1.2.4, 1.3.7: no query is put together from text, and no template comes from a user.
    text = "\n".join(source.read_text() for source in SOURCES)
    for word in (".raw(", ".extra(", "RawSQL", "cursor(", "from_string", "|safe", "autoescape off"):
        assert word not in text
    for template in Path(normjax.app.__file__).parent.rglob("*.html"):
        assert "|safe" not in template.read_text()
        assert "autoescape" not in template.read_text()


def test_a_name_is_shown_and_does_not_run(ada, make_run, as_user):
    run = make_run(ada, status="finished", name="<script>alert(1)</script>")
    page = as_user(ada).get(reverse("run", args=[run.pk])).content.decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


@pytest.mark.usefixtures("ada")
def test_only_our_own_pages_are_redirected_to():
    answer = Client().post(
        "/account/login/", {"login": "ada", "password": "correct horse battery", "next": "https://evil.example/"}
    )
    assert answer["Location"] == "/runs/"
    answer = Client().post("/language/", {"language": "zh-hans", "next": "https://evil.example/"})
    assert "evil" not in answer["Location"]


class TestBodies:
    """5.2.1: too much is refused before it is read, and while it is (check 14)."""

    def ask(self, chunks, *, length=None, known=True):
        read, sent = [], []

        async def application(_scope, receive, send):
            more = True
            while more:
                message = await receive()
                read.append(len(message["body"]))
                more = message["more_body"]
            await send({"type": "http.response.start", "status": 200, "headers": []})

        queue = [
            {"type": "http.request", "body": b"x" * size, "more_body": i + 1 < len(chunks)}
            for i, size in enumerate(chunks)
        ]

        async def receive():
            return queue.pop(0)

        async def send(message):
            sent.append(message)

        async def knows(_headers):
            return known

        chunked = (b"transfer-encoding", b"chunked")
        headers = [(b"content-length", str(length).encode()) if length is not None else chunked]
        limited = BodyLimit(application, most=100, anonymous=10, knows=knows)
        asyncio.run(limited({"type": "http", "headers": headers}, receive, send))
        return sent[0]["status"], read

    def test_a_length_that_is_too_large_is_not_read(self):
        assert self.ask([101], length=101) == (413, [])
        assert self.ask([1], length="-5") == (413, [])

    def test_one_that_comes_in_pieces_without_a_length_is_cut_off(self):
        assert self.ask([60, 60, 60]) == (413, [60])

    def test_one_that_lies_of_its_length_is_cut_off(self):
        assert self.ask([60, 60], length=60) == (413, [60])

    def test_one_that_fits_goes_through(self):
        assert self.ask([60, 40], length=100) == (200, [60, 40])

    def test_a_stranger_may_send_less(self):
        assert self.ask([11], known=False) == (413, [])
        assert self.ask([10], known=False) == (200, [10])
        assert self.ask([11], length=11, known=False) == (413, [])

    def test_a_stranger_is_known_by_no_header_that_he_made_up(self, ada, as_user):
        cookie = as_user(ada).cookies[django_settings.SESSION_COOKIE_NAME].value
        for headers, known in (
            ({}, False),
            ({b"cookie": b"normjax_session=x"}, False),
            ({b"authorization": b"Bearer normjax_x"}, False),
            ({b"cookie": f"a=b; {django_settings.SESSION_COOKIE_NAME}={cookie}".encode()}, True),
            ({b"authorization": f"Bearer {Token.make(ada, 'script')}".encode()}, True),
        ):
            assert carries_login(headers) is known


class TestTurns:
    """A flood of requests got a thread each, and the server never recovered from them."""

    def flood(self, count, *, at_once, waiting):
        """The status of each request, and how many were worked on at a time."""
        working, most, statuses, begin = 0, 0, [], asyncio.Event()

        async def application(_scope, receive, send):
            nonlocal working, most
            while (await receive()).get("more_body"):
                pass
            working += 1
            most = max(most, working)
            await begin.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            working -= 1
            await send({"type": "http.response.body", "body": b""})

        async def one(limited):
            parts = [{"type": "http.request", "body": b"x", "more_body": more} for more in (True, False)]

            async def receive():
                return parts.pop(0)

            async def send(message):
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            await limited({"type": "http"}, receive, send)

        async def main():
            limited = Turns(application, at_once=at_once, waiting=waiting)
            asked = [asyncio.create_task(one(limited)) for _ in range(count)]
            await asyncio.sleep(0)
            begin.set()
            await asyncio.gather(*asked)
            assert limited._places._value == at_once
            assert limited._waiting == 0

        asyncio.run(main())
        return statuses, most

    def test_few_are_worked_on_and_the_others_wait(self):
        statuses, most = self.flood(20, at_once=3, waiting=50)
        assert (statuses, most) == ([200] * 20, 3)

    def test_who_comes_when_too_many_wait_is_told_at_once(self):
        statuses, _ = self.flood(20, at_once=3, waiting=5)
        assert sorted(statuses) == [200] * 8 + [503] * 12

    def test_a_stream_takes_no_turn_from_others(self):
        ended = asyncio.Event()

        async def application(_scope, receive, send):
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await ended.wait()  # a stream, which is open for hours

        async def receive():
            return {"type": "http.request", "body": b""}

        async def send(_message):
            pass

        async def main():
            limited = Turns(application, at_once=1, waiting=1)
            open_ones = [asyncio.create_task(limited({"type": "http"}, receive, send)) for _ in range(5)]
            await asyncio.sleep(0.01)
            assert limited._places._value == 1
            ended.set()
            await asyncio.gather(*open_ones)

        asyncio.run(main())


def test_no_page_of_tensorboard_is_served():
    # Check 28: it has no login.
    text = "\n".join(source.read_text() for source in SOURCES)
    assert "tensorboard" not in text.lower().replace("tensorboardx", "")
    assert "tensorboard" not in " ".join(django_settings.INSTALLED_APPS)
