"""Live metrics of a run as server-sent events, read from its file: nothing is lost by a reload or a restart."""

import asyncio
import json
import os
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest

from normjax.app.models import ACTIVE, Run

_PAUSE = 0.4  # seconds between two looks at the file
_CHECK_EVERY = 5.0  # seconds after which a watcher who may not watch any more is sent away
_ALIVE_EVERY = 15.0  # seconds after which something is sent, so that proxies keep the connection
_SPEED_OVER = 20.0  # seconds that speed is measured over
_AT_ONCE = 256 * 2**10  # bytes read in a turn: a long file neither fills the memory nor keeps others waiting
_DENSE = 2**20  # bytes at the end of the file of which browsers are told every line

watchers: Counter[int] = Counter()  # open streams of each user
_statuses: dict[str, tuple[float, str | None]] = {}  # of runs that are watched, for a second


class Tail:
    """Whole lines of a file that grows, from an offset on.

    Args:
      file: need not exist yet.
      offset: of the first byte wanted, as an event told it.
    """

    def __init__(self, file: Path, offset: int = 0):
        self._file, self.offset, self._inode = file, offset, 0
        self.behind = 0  # bytes that the last turn has left

    def read(self) -> tuple[bool, list[tuple[int, str]]]:
        """Whether the file began anew, and the new lines of a turn, each with the offset behind it."""
        try:
            with self._file.open("rb") as file:
                anew = self._began_anew(file)
                file.seek(self.offset)
                whole = [line for line in file.readlines(_AT_ONCE) if line.endswith(b"\n")]
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return False, []
        lines = []
        for line in whole:
            self.offset += len(line)
            lines.append((self.offset, line.decode(errors="replace").rstrip("\n")))
        self.behind = size - self.offset
        return anew, lines

    def _began_anew(self, file: Any) -> bool:
        """A run that is resumed writes its file again, without what came after the checkpoint."""
        inode, before = os.fstat(file.fileno()).st_ino, self._inode
        self._inode = inode
        anew = bool(before and before != inode)
        if self.offset and not anew:
            file.seek(self.offset - 1)
            anew = file.read(1) != b"\n"  # beyond the end, or within a line: of another file than this
        if anew:
            self.offset = 0
        return anew


async def events(run: Run, user_id: int, session_key: str, offset: int, batch_size: int, total: int | None) -> Any:
    """The stream: lines of the metrics with the offset as their id, and what is known of status and speed."""
    watchers[user_id] += 1
    try:
        async for event in _events(run, session_key, offset, batch_size, total):
            yield event
    finally:
        watchers[user_id] -= 1


async def _events(run: Run, session_key: str, offset: int, batch_size: int, total: int | None) -> AsyncIterator[str]:
    tail = Tail(run.directory / "metrics.jsonl", offset)
    seen: deque[tuple[float, int]] = deque()
    checked = sent = time.monotonic()
    told: dict[str, Any] = {}
    step, first, live = 0, True, False
    while True:
        now = time.monotonic()
        if now - checked > _CHECK_EVERY:
            checked = now
            if not await sync_to_async(may_watch, thread_sensitive=False)(session_key, run.pk):
                yield 'event: end\ndata: {"allowed": false}\n\n'
                return
        # Before the lines: what is written before the end is sent before it.
        status = await _status(run.pk, fresh=first)
        first = False
        anew, lines = await asyncio.to_thread(tail.read)
        parts = []
        if anew:
            parts.append("event: reset\nid: 0\ndata: {}\n\n")
            seen.clear()
            live = False
        every = 1 + tail.behind // _DENSE  # the further back, the fewer lines of the training
        for number, (end, line) in enumerate(lines):
            if number % every == 0 or '"split": "train"' not in line:
                parts.append(f"id: {end}\ndata: {line}\n\n")
        if lines:
            step = _step(lines[-1][1], step)
            if live:  # lines of the past come at once, and tell no speed
                seen.append((now, step))
        while len(seen) > 2 and now - seen[0][0] > _SPEED_OVER:
            seen.popleft()
        facts = {"status": status, "step": step, **_speed(seen, batch_size, total, running=status == "running")}
        if facts != told:
            told = facts
            parts.append(f"event: status\ndata: {json.dumps(facts)}\n\n")
        if parts or now - sent > _ALIVE_EVERY:
            sent = now
            yield "".join(parts) or ": alive\n\n"
        if lines and tail.behind:
            continue
        if status not in ACTIVE:
            yield "event: end\ndata: {}\n\n"
            return
        live = True
        await asyncio.sleep(_PAUSE)


def may_watch(session_key: str, run: str) -> bool:
    """Whether a session is still that of a user who may see the run."""
    request = HttpRequest()
    request.session = SessionStore(session_key)
    user = get_user(request)
    if not user.is_authenticated or time.time() - request.session.get("began", 0) > settings.SESSION_COOKIE_AGE:
        return False
    return Run.objects.visible_to(user).filter(pk=run).exists()


async def _status(run: str, *, fresh: bool) -> str | None:
    """The status of a run, None where it is gone; asked for once a second, however many watch."""
    now = time.monotonic()
    asked, status = _statuses.get(run, (float("-inf"), None))
    if fresh or now - asked > 1:
        if status is not None:
            _statuses[run] = (now, status)  # first, so that the others do not ask meanwhile
        status = await sync_to_async(_read_status, thread_sensitive=False)(run)
        _statuses[run] = (now, status)
        for old in [key for key, (when, _status) in _statuses.items() if now - when > 60]:
            del _statuses[old]
    return status


def _read_status(run: str) -> str | None:
    return Run.objects.filter(pk=run).values_list("status", flat=True).first()


def _step(line: str, before: int) -> int:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return before  # a line that a crash has spoilt
    return step if isinstance(step, int) else before


def _speed(seen: deque[tuple[float, int]], batch_size: int, total: int | None, *, running: bool) -> dict[str, Any]:
    unknown = {"images_per_second": None, "seconds_left": None}
    if not running or not seen:
        return unknown
    seconds, steps = seen[-1][0] - seen[0][0], seen[-1][1] - seen[0][1]
    if seconds <= 0 or steps <= 0:
        return unknown
    left = (total - seen[-1][1]) * seconds / steps if total else None
    return {"images_per_second": round(steps * batch_size / seconds), "seconds_left": left and round(left)}
