"""Refuses requests that are too large, before and while they are read: Django would write them to a disk first."""

from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.http import parse_cookie

from normjax.app.plain_asgi import Message, Receive, Send, refuse

Headers = dict[bytes, bytes]
_TOO_LARGE = (413, "The request is too large.", (b"connection", b"close"))


class _TooLargeError(Exception):
    pass


class BodyLimit:
    """An ASGI application before another, which answers 413 where a body is too large.

    Args:
      application: the other.
      most: bytes of a body.
      anonymous: bytes where nobody known asks.
      knows: tells by the headers whether somebody known asks; only large requests make it look.
    """

    def __init__(self, application: Any, *, most: int, anonymous: int, knows: Callable[[Headers], Awaitable[bool]]):
        self._application, self._most, self._anonymous, self._knows = application, most, anonymous, knows

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._most:
            await refuse(send, *_TOO_LARGE)
            return
        large = int(declared) > self._anonymous or b"transfer-encoding" in headers
        most = self._most if large and await self._knows(headers) else self._anonymous
        if int(declared) > most:
            await refuse(send, *_TOO_LARGE)
            return
        taken, answered = 0, False

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise _TooLargeError
            return message

        async def watched(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._application(scope, counted, watched)
        except _TooLargeError:
            if not answered:
                await refuse(send, *_TOO_LARGE)


def carries_login(headers: Headers) -> bool:
    """Whether a request comes with the session of a user or with a token."""
    from normjax.app.models import Token  # this module is read before there are models

    kind, _space, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind.lower() == "bearer" and Token.owner(secret) is not None:
        return True
    key = parse_cookie(headers.get(b"cookie", b"").decode("latin-1")).get(settings.SESSION_COOKIE_NAME)
    return key is not None and SESSION_KEY in SessionStore(key)
