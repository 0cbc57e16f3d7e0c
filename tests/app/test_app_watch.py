"""The stream of metrics: a file that grows, is cut and is written anew, and how many may watch (check 23)."""

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest
from django.urls import reverse

from normjax.app import run_facts
from normjax.app.jobs import watch
from normjax.app.jobs.watch import Tail

pytest_plugins = ["app_fixtures"]


def test_a_tail_gives_whole_lines_with_the_place_behind_them(tmp_path):
    file = tmp_path / "metrics.jsonl"
    tail = Tail(file)
    assert tail.read() == (False, [])  # it is not there yet
    file.write_bytes(b'{"a": 1}\n{"b"')
    assert tail.read() == (False, [(9, '{"a": 1}')])
    assert tail.read() == (False, [])  # half a line is none
    with file.open("ab") as more:
        more.write(b': 2}\n{"c": 3}\n')
    assert tail.read() == (False, [(18, '{"b": 2}'), (27, '{"c": 3}')])


def test_a_file_that_was_written_anew_is_told_from_its_start(tmp_path):
    file, draft = tmp_path / "metrics.jsonl", tmp_path / "draft"
    file.write_bytes(b"1\n2\n3\n")
    tail = Tail(file)
    tail.read()
    draft.write_bytes(b"1\n2\n4\n")  # of the same length, as a resumed run may write it
    draft.replace(file)
    assert tail.read() == (True, [(2, "1"), (4, "2"), (6, "4")])
    assert tail.read() == (False, [])


@pytest.mark.parametrize("offset", [1, 3, 100])
def test_a_place_that_is_none_begins_anew(tmp_path, offset):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"11\n22\n")
    assert Tail(file, offset).read() == (offset != 3, [(3, "11"), (6, "22")] if offset != 3 else [(6, "22")])


def test_a_long_file_is_read_in_turns(tmp_path):
    # Once the whole file was in memory, for each watcher.
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(metric(step) for step in range(10_000)))
    tail, turns = Tail(file), []
    while lines := tail.read()[1]:
        turns.append("".join(f"{line}\n" for _end, line in lines))
        assert tail.behind == file.stat().st_size - sum(map(len, turns))
    assert "".join(turns) == file.read_text()
    assert max(map(len, turns)) < 256 * 1024 + 200


def test_a_line_that_a_disk_has_spoilt_ends_no_stream(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"1\n\xff\n3\n")
    assert Tail(file).read() == (False, [(2, "1"), (4, "\ufffd"), (6, "3")])


def metric(step, split="train", **values):
    return json.dumps({"step": step, "epoch": step / 10, "split": split, "loss": 1.0, **values}) + "\n"


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A run that goes on, whose file and clock a test sets; ``tell`` gives what its stream tells next."""

    async def running(_run, **_fresh):
        return "running"

    run = SimpleNamespace(file=tmp_path / "metrics.jsonl", now=0.0)
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: run.now))
    monkeypatch.setattr(watch, "_status", running)
    monkeypatch.setattr(watch, "may_watch", lambda *_: True)
    monkeypatch.setattr(watch, "_PAUSE", 0)
    stream = watch._events(SimpleNamespace(pk="a", directory=tmp_path), "", 0, 64, 2000)

    async def tell():
        return await anext(stream)

    with asyncio.Runner() as runner:
        run.tell = lambda: runner.run(tell())
        yield run


def facts(told):
    return json.loads(told.partition("event: status\ndata: ")[2].partition("\n")[0])


def test_speed_is_that_of_the_lines_that_were_seen_to_come(watched):
    # The last old line, of an unknown time, was taken for one of the moment of connecting: 18 steps a second here.
    unknown = {"images_per_second": None, "seconds_left": None}
    watched.file.write_text(metric(1000))
    assert facts(watched.tell()) == {"status": "running", "step": 1000, **unknown}
    for now, step, speed in (
        (1.0, 1100, unknown),
        (11.0, 1200, {"images_per_second": 10 * 64, "seconds_left": 80}),
    ):
        watched.now = now
        with watched.file.open("a") as file:
            file.write(metric(step))
        assert facts(watched.tell()) == {"status": "running", "step": step, **speed}
    # A run that is resumed writes its past again, at once.
    draft = watched.file.with_name("draft")
    draft.write_text(metric(1000) + metric(1100))
    draft.replace(watched.file)
    assert facts(watched.tell()) == {"status": "running", "step": 1100, **unknown}


def test_a_stream_of_a_run_without_lines_tells_no_speed(watched):
    assert facts(watched.tell()) == {"status": "running", "step": 0, "images_per_second": None, "seconds_left": None}


def test_a_long_past_keeps_nobody_waiting(watched, monkeypatch):
    # Each new watcher stopped all others for half a second per 20,000 lines: read and parsed in the event loop.
    readers, parsed = [], []
    read, step = Tail.read, watch._step
    monkeypatch.setattr(Tail, "read", lambda self: readers.append(threading.get_ident()) or read(self))
    monkeypatch.setattr(watch, "_step", lambda *args: parsed.append(args) or step(*args))
    lines = [metric(n, "validation" if n % 100 == 0 else "train") for n in range(1, 30_001)]
    watched.file.write_text("".join(lines))
    turns = [watched.tell()]
    while facts(turns[-1])["step"] < 30_000:
        turns.append(watched.tell())
    assert threading.get_ident() not in readers
    assert len(parsed) == len(turns) > 5
    # Of what is far back a browser is told less, but every validation.
    told = [
        int(json.loads(row.removeprefix("data: "))["step"]) for row in "".join(turns).split("\n") if '"split"' in row
    ]
    assert told == sorted(set(told))
    assert set(range(100, 30_001, 100)) <= set(told)
    assert set(range(25_000, 30_001)) <= set(told)
    assert len(told) < 25_000


def test_figures_of_a_run_that_goes_on_read_only_what_is_new(settings, monkeypatch):
    # A list of runs parsed the whole file again for each request.
    read, parsed = run_facts.read_line, []
    monkeypatch.setattr(run_facts, "read_line", lambda text: parsed.append(text) or read(text))
    run = SimpleNamespace(pk="figures")
    file = settings.HOME.runs / "figures" / "run" / "metrics.jsonl"
    file.parent.mkdir(parents=True)
    names = ("step", "train_loss", "best_step", "best_validation_accuracy", "best_validation_loss")

    def figures():
        told = run_facts.figures(run)
        return tuple(told[name] for name in names)

    assert figures() == (None,) * 5
    file.write_text(metric(1) + metric(2, "validation", accuracy=0.5) + metric(3, "validation", accuracy=0.9, loss=2.0))
    assert figures() == (3, 1.0, 3, 0.9, 1.0)
    parsed.clear()
    with file.open("a") as more:
        more.write(metric(4, loss=0.1))
    assert figures() == (4, 0.1, 3, 0.9, 1.0)
    assert parsed == [metric(4, loss=0.1).rstrip()]
    # A run that is resumed has forgotten what came after its checkpoint.
    draft = file.with_name("draft")
    draft.write_text(metric(1) + metric(2, "validation", accuracy=0.5))
    draft.replace(file)
    assert figures() == (2, 1.0, 2, 0.5, 1.0)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("header", "query", "offset"),
    [
        (None, None, 0),
        (None, "40", 40),
        ("50", "40", 50),  # after a break the browser itself knows later
        ("0", "40", 0),
        (None, "-1", 0),
        (None, "²", 0),
        (None, "9" * 15, 0),
        (None, "' or 1", 0),
    ],
)
def test_a_browser_goes_on_after_the_event_that_it_names(ada, make_run, as_user, monkeypatch, header, query, offset):
    asked = []
    monkeypatch.setattr(watch, "events", lambda *args: asked.append(args[3]) or iter([]))
    page = reverse("run_events", args=[make_run(ada).pk])
    as_user(ada).get(
        page, {} if query is None else {"after": query}, headers={} if header is None else {"Last-Event-ID": header}
    )
    assert asked == [offset]


@pytest.mark.django_db
def test_15_2_2_a_user_watches_so_many_runs_and_no_more(ada, trained, as_user, settings, monkeypatch):
    client, page = as_user(ada), reverse("run_events", args=[trained.pk])
    settings.MAX_WATCHERS_PER_USER = 2
    monkeypatch.setitem(watch.watchers, ada.pk, 1)
    client.get(page).close()
    monkeypatch.setitem(watch.watchers, ada.pk, 2)
    assert client.get(page).status_code == 429
