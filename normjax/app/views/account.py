"""The user's own account: sessions, tokens, and the way to password and second factor."""

from allauth.account.decorators import reauthentication_required
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from normjax.app.logs import security
from normjax.app.models import Token, User

_MAX_TOKENS = 10


@require_GET
def account(request: HttpRequest) -> HttpResponse:
    """Everything about the account on one page."""
    return render(request, "app/account.html", _account(request))


@require_POST
def session_end(request: HttpRequest, session: int) -> HttpResponse:
    """Ends one of the user's sessions, on whatever machine it is."""
    ended = get_object_or_404(UserSession, pk=session, user=request.user)
    ended.end()
    security("session ended", user=request.user.get_username())
    messages.success(request, _("Session ended."))
    return redirect("account")


@require_POST
def sessions_end(request: HttpRequest) -> HttpResponse:
    """Ends all sessions of the user but this one."""
    for session in UserSession.objects.filter(user=request.user).exclude(session_key=request.session.session_key):
        session.end()
    security("other sessions ended", user=request.user.get_username())
    messages.success(request, _("All other sessions ended."))
    return redirect("account")


@require_POST
@reauthentication_required
def token_new(request: HttpRequest) -> HttpResponse:
    """Makes a token and shows it, this once; an open session is not enough for it."""
    user: User = request.user
    name = request.POST.get("name", "").strip()
    error = ""
    if not 1 <= len(name) <= 60:
        error = _("A name has 1 to 60 characters.")
    elif user.tokens.count() >= _MAX_TOKENS:
        error = _("You have %(most)d tokens; remove one first.") % {"most": _MAX_TOKENS}
    if error:
        return render(request, "app/account.html", {**_account(request), "token_error": error}, status=422)
    secret = Token.make(user, name)
    security("token made", user=user.username)
    return render(request, "app/account.html", {**_account(request), "new_token": secret})


@require_POST
def token_delete(request: HttpRequest, token: int) -> HttpResponse:
    get_object_or_404(Token, pk=token, user=request.user).delete()
    security("token removed", user=request.user.get_username())
    messages.success(request, _("Token removed."))
    return redirect("account")


def _account(request: HttpRequest) -> dict:
    return {
        "sessions": UserSession.objects.purge_and_list(request.user),
        "tokens": Token.objects.filter(user=request.user).order_by("-created"),
        "second_factor": Authenticator.objects.filter(user=request.user, type=Authenticator.Type.TOTP).exists(),
    }
