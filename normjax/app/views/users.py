"""What administrators do: invite, give roles, disable and delete accounts, see the queue of all."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.contrib import messages
from django.db import transaction
from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from normjax.app import data_sets
from normjax.app.housekeeping import remove_picture
from normjax.app.jobs import orders
from normjax.app.logs import security
from normjax.app.models import OneTimeLink, Run, User
from normjax.app.views.common import attempt
from normjax.errors import UserError


def for_administrators(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Only administrators reach the page; for others it does not exist."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        user: User = request.user
        if not user.is_administrator or user.lacks_second_factor():
            security("denied", user=user.username, path=request.path)
            raise Http404
        return view(request, *args, **kwargs)

    return guarded


@require_GET
@for_administrators
def user_list(request: HttpRequest) -> HttpResponse:
    return render(request, "app/users.html", _context())


@require_POST
@for_administrators
def user_invite(request: HttpRequest) -> HttpResponse:
    """Makes a link that lets one person become a user; it is shown this once."""
    administrator = request.POST.get("role") == "administrator"
    secret = OneTimeLink.make(OneTimeLink.Purpose.INVITATION, for_administrator=administrator, made_by=request.user)
    security("invitation made", by=request.user.get_username(), administrator=administrator)
    link = request.build_absolute_uri(reverse("join", args=[secret]))
    return render(request, "app/users.html", {**_context(), "link": link})


@require_POST
@for_administrators
def invitation_withdraw(request: HttpRequest, link: int) -> HttpResponse:
    """Takes an invitation back."""
    get_object_or_404(OneTimeLink, pk=link, purpose=OneTimeLink.Purpose.INVITATION).delete()
    security("invitation withdrawn", by=request.user.get_username())
    messages.success(request, _("Invitation withdrawn."))
    return redirect("users")


@require_POST
@for_administrators
def user_reset(request: HttpRequest, user: int) -> HttpResponse:
    """Makes a link by which a user chooses a new password."""
    changed = _other(request, user)
    OneTimeLink.objects.filter(user=changed).delete()
    secret = OneTimeLink.make(OneTimeLink.Purpose.RESET, user=changed, made_by=request.user)
    security("reset link made", by=request.user.get_username(), user=changed.username)
    link = request.build_absolute_uri(reverse("new_password", args=[secret]))
    return render(request, "app/users.html", {**_context(), "link": link, "link_for": changed})


@require_POST
@for_administrators
def user_second_factor(request: HttpRequest, user: int) -> HttpResponse:
    """Removes the second factor of a user who has lost it."""
    changed = _other(request, user)
    Authenticator.objects.filter(user=changed).delete()
    _end_sessions(changed)
    security("second factor removed", by=request.user.get_username(), user=changed.username)
    messages.success(request, _("Second factor of %(name)s removed.") % {"name": changed.username})
    return redirect("users")


@require_POST
@for_administrators
def user_role(request: HttpRequest, user: int) -> HttpResponse:
    """Makes an administrator of a user, or a user of an administrator."""
    changed = _other(request, user)
    User.objects.filter(pk=changed.pk).update(is_staff=not changed.is_staff)
    changed.links_made.all().delete()  # whom he trusted is asked again
    security("role changed", by=request.user.get_username(), user=changed.username, administrator=not changed.is_staff)
    return redirect("users")


@require_POST
@for_administrators
def user_disable(request: HttpRequest, user: int) -> HttpResponse:
    """Shuts a user out, or lets him in again; his runs stay."""
    changed = _other(request, user)
    User.objects.filter(pk=changed.pk).update(is_active=not changed.is_active)
    if changed.is_active:
        _end_sessions(changed)
        changed.links_made.all().delete()
    security("disabled" if changed.is_active else "enabled", by=request.user.get_username(), user=changed.username)
    return redirect("users")


@require_POST
@for_administrators
def user_delete(request: HttpRequest, user: int) -> HttpResponse:
    """Removes a user with everything that is his."""
    changed = _other(request, user)
    if request.POST.get("name", "").strip() != changed.username:
        messages.error(request, _("Type the user's name to delete the account."))
        return redirect("users")
    if attempt(request, lambda: delete_user(changed), _("Deleted %(name)s.") % {"name": changed.username}):
        security("user deleted", by=request.user.get_username(), user=changed.username)
    return redirect("users")


@require_POST
@for_administrators
def job_stop(request: HttpRequest, run: str) -> HttpResponse:
    """Stops the job of anybody: the machine is everybody's. What is in it stays private."""
    stopped = get_object_or_404(Run, pk=run)
    if attempt(request, lambda: orders.stop(stopped)):
        security("job stopped", by=request.user.get_username(), owner=stopped.owner.username)
    return redirect("users")


def delete_user(user: User) -> None:
    """Removes an account, its runs, data sets and pictures.

    Raises:
      UserError: a run of his is active.
    """
    if Run.objects.owned_by(user).active().exists():
        raise UserError(_("A run of %(name)s is active; stop it first.") % {"name": user.username})
    User.objects.filter(pk=user.pk).update(is_active=False)  # first: nothing new comes while the old goes
    _end_sessions(user)
    # Those that were made of others first.
    for run in Run.objects.owned_by(user).order_by("-created"):
        orders.delete(run)
    for data_set in user.data_sets.all():
        data_sets.delete(data_set)
    for picture in user.pictures.all():
        remove_picture(picture)
    with transaction.atomic():
        user.delete()


def _context() -> dict[str, Any]:
    with_factor = set(Authenticator.objects.filter(type=Authenticator.Type.TOTP).values_list("user", flat=True))
    return {
        "people": User.objects.annotate(run_count=Count("runs")).order_by("username"),
        "with_factor": with_factor,
        "invitations": OneTimeLink.objects.filter(
            purpose=OneTimeLink.Purpose.INVITATION, expires__gt=timezone.now()
        ).select_related("made_by"),
        "jobs": Run.objects.active().select_related("owner").order_by("queued"),
    }


def _other(request: HttpRequest, user: int) -> User:
    """A user who is not the administrator himself: none can shut himself out."""
    return get_object_or_404(User.objects.exclude(pk=request.user.pk), pk=user)


def _end_sessions(user: User) -> None:
    for session in UserSession.objects.filter(user=user):
        session.end()
