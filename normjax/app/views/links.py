"""The pages behind one-time links: become a user, or choose a new password."""

from typing import Any

from allauth.core import ratelimit
from django import forms
from django.contrib import messages
from django.contrib.auth import password_validation
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from normjax.app.logs import security
from normjax.app.models import OneTimeLink, User


class PasswordForm(forms.Form):
    """A new password, twice."""

    password1 = forms.CharField(
        label=gettext_lazy("Password"),
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text=gettext_lazy("At least 10 characters. Long and easy to remember is better than short and strange."),
    )
    password2 = forms.CharField(
        label=gettext_lazy("Password again"),
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.user = user

    def clean_password2(self) -> str:
        if self.cleaned_data.get("password1") != self.cleaned_data["password2"]:
            raise forms.ValidationError(_("The two passwords differ."))
        return self.cleaned_data["password2"]

    def clean_password1(self) -> str:
        password_validation.validate_password(self.cleaned_data["password1"], self.user)
        return self.cleaned_data["password1"]


class JoinForm(PasswordForm):
    """A name for the new user as well."""

    username = forms.CharField(
        label=gettext_lazy("User name"),
        max_length=40,
        validators=[UnicodeUsernameValidator()],
        widget=forms.TextInput(attrs={"autocomplete": "username", "autofocus": True}),
    )
    field_order = ("username", "password1", "password2")

    def clean_username(self) -> str:
        name = User.normalize_username(self.cleaned_data["username"])
        # Without regard to case: Ada and ada would be taken for each other. The database knows that of ASCII alone.
        if name.casefold() in map(str.casefold, User.objects.values_list("username", flat=True)):
            raise forms.ValidationError(_("This name is taken."))
        self.user.username = name
        return name


@login_not_required
@sensitive_post_parameters()
@require_http_methods(["GET", "POST"])
def join(request: HttpRequest, secret: str) -> HttpResponse:
    """Makes a user of the holder of an invitation."""
    return _by_link(request, secret, OneTimeLink.Purpose.INVITATION)


@login_not_required
@sensitive_post_parameters()
@require_http_methods(["GET", "POST"])
def new_password(request: HttpRequest, secret: str) -> HttpResponse:
    """Lets the holder of a link choose a new password; sessions that are open end."""
    return _by_link(request, secret, OneTimeLink.Purpose.RESET)


def _by_link(request: HttpRequest, secret: str, purpose: Any) -> HttpResponse:
    if limited := ratelimit.consume_or_429(request, action="signup"):
        return limited
    link = OneTimeLink.find(secret)
    if link is None or link.purpose != purpose:
        text = _("This link was used already, or is too old. Ask an administrator for another.")
        return render(request, "app/error.html", {"title": _("Link not valid"), "text": text}, status=404)
    user = link.user or User(is_staff=link.for_administrator)
    form_class = PasswordForm if link.user else JoinForm
    form = form_class(request.POST if request.method == "POST" else None, user=user)
    if form.is_bound:
        with transaction.atomic():  # of two with one name or one link, the second one sees the first
            done = form.is_valid() and _use(link, user, form.cleaned_data["password1"])
        if done:
            security("password set by link" if link.user else "user joined", user=user.username, role=user.is_staff)
            messages.success(request, _("Done. Now log in with your new password."))
            return redirect("account_login")
        if form.is_valid():
            return redirect(request.path)  # which says that the link was used
    context = {"form": form, "link": link, "joins": link.user is None}
    return render(request, "app/join.html", context, status=422 if form.is_bound else 200)


def _use(link: OneTimeLink, user: User, password: str) -> bool:
    """Whether the link was still there to be used."""
    if not OneTimeLink.objects.filter(pk=link.pk).delete()[0]:
        return False
    user.set_password(password)
    if link.user is None:
        user.save(force_insert=True)
    else:
        # No more than that: an administrator may have changed the role or disabled the account meanwhile.
        user.save(update_fields=["password"])
        user.end_secrets()
    return True
