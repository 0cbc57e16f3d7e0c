"""What holds for every page: not kept by caches, sessions that end, a second factor for administrators."""

import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

Handler = Callable[[HttpRequest], HttpResponse]
_NOTED_EVERY = 300  # seconds between two writes of when a session was seen
# Where an administrator without a second factor may go: to set one up, or away.
_WITHOUT_SECOND_FACTOR = {
    "mfa_activate_totp",
    "account_reauthenticate",
    "account_logout",
    "set_language",
}


def private_pages(get_response: Handler) -> Handler:
    """Pages and answers of the API are kept nowhere; a browser may use nothing that the app does not."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["Permissions-Policy"] = "camera=(self), microphone=(), geolocation=(), payment=()"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response

    return middleware


def session_ends(get_response: Handler) -> Handler:
    """Ends a session that was not used for ``SESSION_IDLE_SECONDS``, or is older than ``SESSION_COOKIE_AGE``."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.user.is_authenticated:
            now = time.time()
            began = request.session.setdefault("began", now)
            seen = request.session.get("seen", now)
            if now - seen > settings.SESSION_IDLE_SECONDS or now - began > settings.SESSION_COOKIE_AGE:
                logout(request)
            elif "seen" not in request.session or now - seen > _NOTED_EVERY:
                request.session["seen"] = now
        return get_response(request)

    return middleware


def second_factor_of_administrators(get_response: Handler) -> Handler:
    """Sends administrators without a second factor to the page where they set it up."""

    def middleware(request: HttpRequest) -> HttpResponse:
        return get_response(request)

    def process_view(request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:  # noqa: ARG001
        user: Any = request.user
        name = request.resolver_match.url_name if request.resolver_match else None
        if user.is_authenticated and user.lacks_second_factor() and name not in _WITHOUT_SECOND_FACTOR:
            return redirect("mfa_activate_totp")
        return None

    middleware.process_view = process_view  # type: ignore[attr-defined]
    return middleware
