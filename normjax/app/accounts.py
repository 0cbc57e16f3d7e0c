"""Passwords and accounts: what differs from Django's and allauth's defaults."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.signals import password_changed
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

MAX_PASSWORD = 256


def connect() -> None:
    """A new password ends tokens and links as well as sessions."""
    password_changed.connect(_password_changed, dispatch_uid="normjax")


def _password_changed(user: Any, **_: Any) -> None:
    user.end_secrets()


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
