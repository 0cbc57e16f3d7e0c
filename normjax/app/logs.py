"""What is logged: one line an event, whoever wrote parts of it, and the events that security wants remembered."""

import logging
import re
from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed

_log = logging.getLogger("normjax.app.security")
_LINKS = re.compile(r"/(join|new-password)/[^/\s]+")  # Django logs the path of what it refuses


class OneLine(logging.Formatter):
    """A line for each record: what users typed cannot begin another one, and links that may still be used are cut."""

    def format(self, record: logging.LogRecord) -> str:
        text = _LINKS.sub(r"/\1/…", super().format(record))
        return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def security(event: str, **facts: object) -> None:
    """Notes an event: who did what to whom. Never a password, a token or a link."""
    _log.info("%s %s", event, " ".join(f"{name}={value!r}" for name, value in facts.items()))


def connect() -> None:
    """Logs who logs in and out, and who fails to."""
    user_logged_in.connect(_logged_in, dispatch_uid="normjax")
    user_logged_out.connect(_logged_out, dispatch_uid="normjax")
    user_login_failed.connect(_login_failed, dispatch_uid="normjax")


def _address(request: Any) -> str:
    if request is None or not request.META.get("REMOTE_ADDR"):  # of no connection
        return ""
    from allauth.account.adapter import get_adapter  # logging is set up before there are models

    return get_adapter().get_client_ip(request)  # behind a proxy that of the client


def _logged_in(request: Any, user: Any, **_: Any) -> None:
    security("login", user=user.get_username(), address=_address(request))


def _logged_out(request: Any, user: Any, **_: Any) -> None:
    if user is not None:
        security("logout", user=user.get_username(), address=_address(request))


def _login_failed(credentials: dict[str, Any], request: Any = None, **_: Any) -> None:
    security("login failed", user=str(credentials.get("username", ""))[:150], address=_address(request))
