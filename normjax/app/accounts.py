"""Passwords and accounts: what differs from Django's and allauth's defaults."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.signals import password_changed
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import ValidationError
from django.http import parse_cookie
from django.utils.translation import gettext as _

MAX_PASSWORD = 256


def connect() -> None:
    """A new password ends tokens and links as well as sessions."""
    password_changed.connect(_password_changed, dispatch_uid="normjax")


def _password_changed(user: Any, **_: Any) -> None:
    user.end_secrets()


def carries_login(headers: dict[bytes, bytes]) -> bool:
    """Whether a request comes with the session of a user or with a token, as ASGI tells its headers."""
    from normjax.app.models import Token  # settings name what is above, before there are models

    kind, _space, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind.lower() == "bearer" and Token.owner(secret) is not None:
        return True
    key = parse_cookie(headers.get(b"cookie", b"").decode("latin-1")).get(settings.SESSION_COOKIE_NAME)
    return key is not None and SESSION_KEY in SessionStore(key)


class Argon2idHasher(Argon2PasswordHasher):
    """Argon2id with OWASP's smallest parameters: Django's take 100 MiB a login, and logins come in parallel."""

    memory_cost = 19 * 1024  # KiB
    time_cost = 2
    parallelism = 1


class MaximumLengthValidator:
    """Passwords that nobody types only make the hash slow."""

    def validate(self, password: str, user: Any = None) -> None:  # noqa: ARG002 - Django's signature
        if len(password) > MAX_PASSWORD:
            raise ValidationError(
                _("This password is too long. It may have %(most)d characters."),
                code="password_too_long",
                params={"most": MAX_PASSWORD},
            )

    def get_help_text(self) -> str:
        return _("Your password may have %(most)d characters at most.") % {"most": MAX_PASSWORD}


class AccountAdapter(DefaultAccountAdapter):
    """Nobody signs up by himself: an administrator invites."""

    def is_open_for_signup(self, request: Any) -> bool:  # noqa: ARG002 - allauth's signature
        return False

    def authenticate(self, request: Any, **credentials: Any) -> Any:
        # Longer ones cannot have been set; hashing them is work for nothing.
        if len(credentials.get("password") or "") > MAX_PASSWORD:
            credentials["password"] = ""
        return super().authenticate(request, **credentials)
