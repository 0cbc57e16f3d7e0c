"""What the pages share."""

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils.translation import gettext as _

from normjax.app.models import Run
from normjax.app.recognition.client import RecognitionError
from normjax.errors import UserError


def visible_run(request: HttpRequest, run: str) -> Run:
    """A run that the user may see; to others it does not exist."""
    return get_object_or_404(Run.objects.visible_to(request.user).select_related("owner", "parent", "data_set"), pk=run)


def own_run(request: HttpRequest, run: str) -> Run:
    """A run of the user's own; others cannot change it, shared or not."""
    return get_object_or_404(Run.objects.owned_by(request.user).select_related("parent", "data_set"), pk=run)


def attempt(request: HttpRequest, order: Callable[[], Any], done: str = "") -> bool:
    """Carries out an order and tells the user what came of it.

    Returns:
      Whether it was carried out.
    """
    try:
        order()
    except UserError as error:
        messages.error(request, str(error))
        return False
    if done:
        messages.success(request, done)
    return True


def why_not(error: UserError | RecognitionError) -> str:
    """What a user is told where the recogniser has nothing to show."""
    if isinstance(error, UserError):
        return str(error)
    if str(error) == "busy":
        return _("The recogniser is busy with other requests; try again in a moment.")
    if str(error) == "timeout":
        return _("The recogniser took too long and was ended; try again.")
    return _("The recogniser failed; the log of the server tells why. Try again.")


def not_computed(request: HttpRequest, run: Run, tab: str, error: UserError | RecognitionError) -> HttpResponse:
    """A page of a run that says why there is nothing to see."""
    status = 200 if isinstance(error, UserError) else 503
    return render(request, "app/run_nothing.html", {"run": run, "tab": tab, "why": why_not(error)}, status=status)


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001 - Django's signature
    return render(request, "app/error.html", {"title": _("Not found"), "text": _("There is nothing here.")}, status=404)


def forbidden(request: HttpRequest, exception: Exception | None = None, reason: str = "") -> HttpResponse:  # noqa: ARG001
    text = _("This is not allowed, or the page was open for too long. Load it again and retry.")
    return render(request, "app/error.html", {"title": _("Not allowed"), "text": text}, status=403)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001
    text = _("The request was not understood, or was too large.")
    return render(request, "app/error.html", {"title": _("Not understood"), "text": text}, status=400)


def server_error(request: HttpRequest) -> HttpResponse:
    text = _("Something went wrong on the server; its log tells what.")
    return render(request, "app/error.html", {"title": _("Error"), "text": text}, status=500)
