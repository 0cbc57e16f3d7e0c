"""Lets few requests be worked on at a time: beyond what the machine can do they wait, and are refused in the end.

Without it each request of a flood gets a thread; hundreds of them keep each other from ever being done.
"""

import asyncio
from typing import Any

from normjax.app.plain_asgi import Message, Receive, Send, refuse


class _BusyError(Exception):
    pass


class Turns:
    """An ASGI application before another. A turn begins when the body is there and ends when the answer begins.

    So neither slow senders nor streams, which take long and little, take a turn from others.

    Args:
      application: the other.
      at_once: requests that are worked on.
      waiting: requests that wait for their turn; one more is answered 503.
    """

    def __init__(self, application: Any, *, at_once: int, waiting: int):
        self._application, self._most = application, waiting
        self._places = asyncio.Semaphore(at_once)
        self._waiting = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        has_turn = False

        async def whole() -> Message:
            nonlocal has_turn
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body") and not has_turn:
                await self._wait()
                has_turn = True
            return message

        async def begun(message: Message) -> None:
            nonlocal has_turn
            if message["type"] == "http.response.start" and has_turn:
                has_turn = False
                self._places.release()
            await send(message)

        try:
            await self._application(scope, whole, begun)
        except _BusyError:
            await refuse(send, 503, "The server has more to do than it can; try again soon.", (b"retry-after", b"5"))
        finally:
            if has_turn:
                self._places.release()

    async def _wait(self) -> None:
        if self._waiting >= self._most:
            raise _BusyError
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
