"""Recognition: pictures come in, several networks answer side by side."""

import csv
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db.models import Case, When
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from normjax.app.housekeeping import remove_picture
from normjax.app.models import Picture, Run
from normjax.app.pictures import keep_picture
from normjax.app.recognition.client import RecognitionError, recogniser
from normjax.app.views.common import visible_run, why_not
from normjax.errors import UserError

_MAX_RUNS = 8  # side by side
_OFFERED = 200
_TOP = 5


@require_http_methods(["GET", "POST"])
def recognise(request: HttpRequest) -> HttpResponse:
    """Choose networks and pictures, see the answers. Pictures are kept first, so that the page can be loaded again."""
    if request.method == "POST":
        return _send(request)
    wanted = request.GET.getlist("run")[:_MAX_RUNS]
    pictures = _pictures(request)
    chosen = _chosen(request, wanted)
    runs = list({run.pk: run for run in (*chosen, *_networks(request))}.values())
    answers, problems = _answers(pictures, chosen, request.user.pk)
    context = {
        "runs": runs,
        "chosen": chosen,
        # Where networks were asked for by name, no other one answers in their place.
        "chosen_ids": {run.pk for run in chosen} if wanted else {run.pk for run in runs[:1]},
        "rows": [{"picture": picture, "answers": row} for picture, row in zip(pictures, answers, strict=True)],
        "problems": problems,
        "earlier": Picture.objects.filter(owner=request.user)[:24],
        "csv": reverse("recognise_csv") + "?" + request.GET.urlencode(),
        "limits": settings,
    }
    return render(request, "app/recognise.html", context)


@require_GET
def recognise_csv(request: HttpRequest) -> HttpResponse:
    """The answers for all pictures as a table for other programs."""
    pictures = _pictures(request)
    chosen = _chosen(request, request.GET.getlist("run")[:_MAX_RUNS])
    answers, problems = _answers(pictures, chosen, request.user.pk)
    if problems:
        return HttpResponse("\n".join(problems), status=409, content_type="text/plain")
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="answers.csv"'
    table = csv.writer(response)
    table.writerow(["picture", "network", "place", "class", "probability"])
    for picture, row in zip(pictures, answers, strict=True):
        for answer in row:
            for place, guess in enumerate(answer["predictions"], 1):
                cells = [picture.name, answer["run"].name, place, guess["class"], f"{guess['probability']:.6f}"]
                table.writerow([_no_formula(cell) for cell in cells])
    return response


@require_GET
def saliency(request: HttpRequest, picture: str, run: str) -> HttpResponse:
    """What a network looked at."""
    shown = get_object_or_404(Picture, pk=picture, owner=request.user)
    network = visible_run(request, run)
    try:
        looked = recogniser().ask("saliency", network.directory, request.user.pk, file=str(shown.file))
    except (UserError, RecognitionError) as error:
        context: dict[str, Any] = {"picture": shown, "run": network, "why": why_not(error)}
        return render(request, "app/saliency.html", context, status=200 if isinstance(error, UserError) else 503)
    return render(request, "app/saliency.html", {"picture": shown, "run": network, "looked": looked})


@require_GET
def picture(request: HttpRequest, picture: str) -> HttpResponse:
    """A picture of the user's own."""
    shown = get_object_or_404(Picture, pk=picture, owner=request.user)
    try:
        return FileResponse(shown.file.open("rb"), content_type="image/png")
    except FileNotFoundError as error:
        raise Http404("the file is gone") from error


@require_POST
def picture_delete(request: HttpRequest, picture: str) -> HttpResponse:
    remove_picture(get_object_or_404(Picture, pk=picture, owner=request.user))
    messages.success(request, _("Picture removed."))
    return redirect("recognise")


def _networks(request: HttpRequest) -> list[Run]:
    """Those that are offered: the user's own before what others share."""
    runs = Run.objects.visible_to(request.user).exclude(kind=Run.Kind.FOLD).filter(archived=False)
    own_first = runs.select_related("owner").order_by(Case(When(owner=request.user, then=0), default=1), "-created")
    return [run for run in own_first[:_OFFERED] if run.has_network]


def _chosen(request: HttpRequest, wanted: list[str]) -> list[Run]:
    """Those that were asked for, archived ones as well."""
    runs = Run.objects.visible_to(request.user).exclude(kind=Run.Kind.FOLD).select_related("owner")
    found = {run.pk: run for run in runs.filter(pk__in=wanted) if run.has_network}
    return [found[pk] for pk in dict.fromkeys(wanted) if pk in found]


def _pictures(request: HttpRequest) -> list[Picture]:
    wanted = request.GET.getlist("picture")[: settings.MAX_PICTURES_AT_ONCE]
    found = {picture.pk: picture for picture in Picture.objects.filter(owner=request.user, pk__in=wanted)}
    return [found[pk] for pk in dict.fromkeys(wanted) if pk in found]


def _send(request: HttpRequest) -> HttpResponse:
    chosen = [run.pk for run in _chosen(request, request.POST.getlist("run")[:_MAX_RUNS])]
    files = request.FILES.getlist("pictures")
    kept = []
    for file in files[: settings.MAX_PICTURES_AT_ONCE]:
        try:
            kept.append(keep_picture(request.user, file))
        except UserError as error:
            messages.error(request, f"{(file.name or '')[-60:]}: {error}")
    if not files:
        messages.error(request, _("Choose a picture first."))
    if not chosen:
        messages.error(request, _("Choose a network first."))
    query = urlencode([*(("picture", picture.pk) for picture in kept), *(("run", pk) for pk in chosen)])
    return redirect(f"{reverse('recognise')}?{query}")


def _answers(pictures: list[Picture], runs: list[Run], user: int) -> tuple[list[list[dict[str, Any]]], list[str]]:
    """For each picture what each network says, and why some of them say nothing."""
    rows: list[list[dict[str, Any]]] = [[] for _picture in pictures]
    problems = []
    for run in runs if pictures else []:
        files = [str(picture.file) for picture in pictures]
        try:
            told = recogniser().ask("predict", run.directory, user, files=files, top=_TOP)
        except (UserError, RecognitionError) as error:
            problems.append(f"{run.name}: {why_not(error)}")
            continue
        for row, predictions in zip(rows, told, strict=True):
            row.append({"run": run, "predictions": predictions})
    return rows, problems


def _no_formula(cell: Any) -> Any:
    """Spreadsheets compute cells that begin so; a name must not."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
