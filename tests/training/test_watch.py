"""The lines between processes, tried with threads for processes: every end is told apart, and told to all."""

import contextlib
import socket
import threading

import pytest

from normjax.training import watch
from normjax.training.watch import Watch

NAMES = ("first", "second", "third")


class Party:
    """A few watches that are connected, and what each reports."""

    def __init__(self, knock=None):
        self.news = {number: [] for number in range(len(NAMES))}
        self.heard = {number: threading.Event() for number in range(len(NAMES))}
        self.members = [Watch(number, NAMES, self.note(number)) for number in range(len(NAMES))]
        place = self.members[0].open()
        if knock is not None:
            knock(int(place.split()[0]))
        connecting = [threading.Thread(target=member.connect, args=("127.0.0.1", place)) for member in self.members]
        for thread in connecting:
            thread.start()
        for thread in connecting:
            thread.join(20)
            assert not thread.is_alive()

    def note(self, number):
        def report(news):
            self.news[number].append(news)
            self.heard[number].set()

        return report

    def end(self):
        for member in self.members:
            member._leaving.set()
            for line in member._lines.values():
                with contextlib.suppress(OSError):  # closed by its other end
                    line.shutdown(socket.SHUT_RDWR)
            for thread in member._threads:
                thread.join(20)
            for line in member._lines.values():
                line.close()

    def cut(self, number):
        """What the kernel does when a process ends."""
        for line in self.members[number]._lines.values():
            line.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def meet(monkeypatch):
    """Makes parties whose members are quick to worry."""
    monkeypatch.setattr(watch, "_BEAT_SECONDS", 0.2)
    monkeypatch.setattr(watch, "_SILENT_SECONDS", 3.0)
    parties = []

    def make(knock=None):
        parties.append(Party(knock))
        return parties[-1]

    yield make
    for party in parties:
        party.end()


def test_those_that_leave_in_order_are_not_missed(meet):
    party = meet()
    leaving = [threading.Thread(target=member.leave) for member in party.members]
    for thread in leaving:
        thread.start()
    for thread in leaving:
        thread.join(20)
        assert not thread.is_alive()
    assert party.news == {0: [], 1: [], 2: []}


@pytest.mark.parametrize("lost", [1, 2])
def test_one_that_is_gone_is_named_to_all(meet, lost):
    party = meet()
    party.members[lost]._leaving.set()
    party.cut(lost)
    for number in {0, 1, 2} - {lost}:
        assert party.heard[number].wait(20)
        assert party.news[number] == [f"{NAMES[lost]} is gone"]


def test_the_loss_of_the_first_is_noticed_by_each(meet):
    party = meet()
    party.members[0]._leaving.set()
    party.cut(0)
    for number in (1, 2):
        assert party.heard[number].wait(20)
        assert party.news[number] == ["first is gone"]


@pytest.mark.parametrize("failed", [0, 2])
def test_a_failure_is_told_with_its_reason(meet, failed):
    party = meet()
    party.members[failed].fail("the disk\nis full")
    for number in {0, 1, 2} - {failed}:
        assert party.heard[number].wait(20)
        assert party.news[number] == [f"{NAMES[failed]} has failed: the disk is full"]
    assert party.news[failed] == []


def test_one_that_is_silent_for_too_long_is_given_up(meet):
    # A host without power sends no end of the line.
    party = meet()
    party.members[1]._say = lambda *_: None
    for number in (0, 2):  # the third has the news from the first, which may be about to report them
        assert party.heard[number].wait(20)
        assert party.news[number] == ["second is gone"]


def test_a_stranger_gets_no_line(meet):
    strangers = []

    def knock(port):
        for said in (b"", b"hello\n", b"0 1\n", b"\xff\xfe\n"):
            strangers.append(socket.create_connection(("127.0.0.1", port)))
            strangers[-1].sendall(said)

    party = meet(knock)
    for stranger in strangers:
        stranger.settimeout(20)
        with contextlib.suppress(ConnectionResetError):  # of one that was still in the queue at the end
            assert stranger.recv(10) == b""
        stranger.close()
    assert party.news == {0: [], 1: [], 2: []}
    assert sorted(party.members[0]._lines) == [1, 2]
