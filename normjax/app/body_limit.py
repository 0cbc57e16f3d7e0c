"""Refuses requests that are too large, before and while they are read: Django would write them to a disk first."""

from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _TooLargeError(Exception):
    pass


class BodyLimit:
    """An ASGI application before another, which answers 413 where a body is too large.

    Args:
      application: the other.
      most: bytes of a body.
      anonymous: bytes where the request carries neither a session nor a token.
      session_cookie: name of the session's cookie.
    """

    def __init__(self, application: Any, *, most: int, anonymous: int, session_cookie: str):
        self._application, self._most, self._anonymous = application, most, anonymous
        self._cookie = session_cookie.encode() + b"="

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = dict(scope["headers"])
        known = b"authorization" in headers or self._cookie in headers.get(b"cookie", b"")
        most = self._most if known else self._anonymous
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > most:
            await _refuse(send)
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
                await _refuse(send)


async def _refuse(send: Send) -> None:
    body = b'{"detail": "The request is too large."}'
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
