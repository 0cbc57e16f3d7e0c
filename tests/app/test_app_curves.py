"""The script of the live curves in a real browser: streams that are refused, hidden pages, sessions that end."""

from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from django.template.loader import render_to_string

import normjax.app

pytest_plugins = ["app_fixtures"]
pytestmark = pytest.mark.browser

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
expect = playwright.expect

STATIC = Path(normjax.app.__file__).parent / "static" / "app"
LINE = (200, 'retry: 1\nid: 40\ndata: {"step": 20, "split": "train", "loss": 1.0}\n\n')
END = (200, "event: end\ndata: {}\n\n")
NOT_ALLOWED = (200, 'event: end\ndata: {"allowed": false}\n\n')
CLOSED = "(n) => sources.length === n && sources[n - 1].readyState === EventSource.CLOSED"


@pytest.fixture
def curves(chromium):
    """A page with curves, without a server: ``streams`` and ``looks`` are answers to come, ``asked`` what was asked."""
    run = SimpleNamespace(pk="a", status="running", is_active=True)
    scripts = "".join(f'<script src="/{name}"></script>' for name in ("uplot/uPlot.iife.min.js", "curves.js"))
    context = {
        "run": run,
        "figures": {"step": None, "train_loss": None, "best_validation_accuracy": None},
        "total": 100,
    }
    body = render_to_string("app/run_curves.html", context) + scripts
    page = chromium.new_page()
    page.streams, page.looks, page.asked = [], [], []

    def serve(route):
        url = urlsplit(route.request.url)
        if url.path.endswith("/events/"):
            page.asked.append(url.query)
            status, events = page.streams.pop(0)
            route.fulfill(status=status, content_type="text/event-stream", body=events)
        elif url.path.endswith(".js"):
            route.fulfill(path=STATIC / url.path[1:])
        else:
            page.asked.append("page")
            status = page.looks.pop(0)
            html = f'<!doctype html><html data-looks="{len(page.looks)}">{body}'
            route.fulfill(status=status, headers={"Location": "/login/", "Content-Type": "text/html"}, body=html)

    page.route("**/*", serve)
    page.clock.install()
    page.add_init_script(
        """window.sources = [];
        window.EventSource = class extends EventSource {
          constructor(...all) { super(...all); sources.push(this); }
        };"""
    )
    yield page
    page.close()


def test_a_page_that_is_refused_says_so_and_goes_on_after_the_last_line(curves):
    # EventSource gives up for good on any answer but 200, as on that of a proxy whose server begins anew.
    curves.streams, curves.looks = [LINE, (502, ""), (429, ""), END], [200, 200, 200]
    curves.goto("http://lab.test/")
    lost = curves.locator("#lost")
    for n in (1, 2):
        curves.wait_for_function(CLOSED, arg=n)
        expect(lost).to_be_visible()
        curves.clock.fast_forward(5000)
    curves.wait_for_function(CLOSED, arg=3)
    expect(lost).to_be_hidden()
    # The first time the browser asks again by itself, and tells the place by a header.
    assert curves.asked == ["page", "", "", "page", "after=40", "page", "after=40"]


def test_a_hidden_page_holds_no_connection(curves):
    # Six pages of runs, and a browser without HTTP/2 opened no other page of the lab.
    curves.streams, curves.looks = [(200, LINE[1].replace("retry: 1\n", "retry: 100000\n")), END], [200]
    curves.goto("http://lab.test/")
    curves.wait_for_function("sources[0].readyState === EventSource.CONNECTING")
    expect(curves.locator("#lost")).to_be_visible()  # that answer has ended
    look_away = """(away) => {
      Object.defineProperty(document, "hidden", {value: away, configurable: true});
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    curves.evaluate(look_away, True)
    assert curves.evaluate(CLOSED, 1)
    curves.evaluate(look_away, False)
    curves.wait_for_function(CLOSED, arg=2)
    assert curves.asked == ["page", "", "after=40"]
    # All was told: there is nothing to look for any more.
    curves.evaluate(look_away, False)
    assert curves.evaluate("sources.length") == 2


@pytest.mark.parametrize(
    ("streams", "looks", "asked"),
    [
        ([NOT_ALLOWED, END], [200, 200], ["page", "", "page", ""]),
        # It ended while nobody looked: the stream sends to the log-in, as every page does.
        ([(502, ""), END], [200, 302, 200], ["page", "", "page", "page", ""]),
    ],
)
def test_a_page_whose_session_has_ended_is_asked_for_again(curves, streams, looks, asked):
    curves.streams, curves.looks = list(streams), list(looks)
    curves.goto("http://lab.test/")
    if len(looks) == 3:
        curves.wait_for_function(CLOSED, arg=1)
        curves.clock.fast_forward(5000)
    expect(curves.locator("html[data-looks='0']")).to_be_attached()
    curves.wait_for_function(CLOSED, arg=1)
    assert curves.asked == asked
