"""The stream of metrics: a file that grows, is cut and is written anew, and how many may watch (check 23)."""

import pytest
from django.urls import reverse

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


@pytest.mark.django_db
def test_15_2_2_a_user_watches_so_many_runs_and_no_more(ada, trained, as_user, settings, monkeypatch):
    client, page = as_user(ada), reverse("run_events", args=[trained.pk])
    settings.MAX_WATCHERS_PER_USER = 2
    monkeypatch.setitem(watch.watchers, ada.pk, 1)
    client.get(page).close()
    monkeypatch.setitem(watch.watchers, ada.pk, 2)
    assert client.get(page).status_code == 429
