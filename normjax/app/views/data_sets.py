"""Data sets of the user's own."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from normjax.app import data_sets
from normjax.app.choices import tfds_data_sets
from normjax.app.models import DataSet
from normjax.app.views.common import attempt
from normjax.errors import UserError


@require_http_methods(["GET", "POST"])
def data_set_list(request: HttpRequest) -> HttpResponse:
    """All data sets; a new one by a name."""
    error = name = ""
    if request.method == "POST":
        name = request.POST.get("name", "")
        try:
            return redirect("data_set", data_sets.create(request.user, name).pk)
        except UserError as refused:
            error = str(refused)
    context = {
        "own": DataSet.objects.filter(owner=request.user),
        "present": ["digits", *tfds_data_sets(settings.DATA_DIR)],
        "error": error,
        "name": name,
    }
    return render(request, "app/data_set_list.html", context, status=422 if error else 200)


@require_GET
def data_set(request: HttpRequest, data_set: str) -> HttpResponse:
    """One data set: its classes, and where pictures are put in."""
    shown = _own(request, data_set)
    context = {"data_set": shown, "classes": data_sets.classes(shown), "limits": settings}
    return render(request, "app/data_set.html", context)


@require_POST
def data_set_pictures(request: HttpRequest, data_set: str) -> HttpResponse:
    """Takes one picture of a class; the page sends them one by one."""
    own = _own(request, data_set)
    file = request.FILES.get("picture")
    if file is None:
        return JsonResponse({"field": "picture", "error": _("Choose a picture first.")}, status=422)
    try:
        data_sets.add_picture(own, request.POST.get("label", ""), file)
    except UserError as refused:
        return JsonResponse({"field": "picture", "error": str(refused)}, status=422)
    return JsonResponse({"kept": True}, status=201)


@require_POST
def data_set_delete(request: HttpRequest, data_set: str) -> HttpResponse:
    own = _own(request, data_set)
    gone = attempt(request, lambda: data_sets.delete(own), _("Deleted %(name)s.") % {"name": own.name})
    return redirect("data_sets") if gone else redirect("data_set", data_set)


def _own(request: HttpRequest, data_set: str) -> DataSet:
    return get_object_or_404(DataSet, pk=data_set, owner=request.user)
