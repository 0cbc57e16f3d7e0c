"""What a trained network does: confusion matrix, activations, a smaller form of it, its files."""

from typing import Any

import numpy as np
from django.http import FileResponse, Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST
from pydantic import ValidationError

from normjax.app import run_facts
from normjax.app.complaints import complaint
from normjax.app.config_form import RefusedError, check_pruning
from normjax.app.jobs import orders
from normjax.app.jobs.commands import folded
from normjax.app.models import Run, Status
from normjax.app.recognition.client import RecognitionError, recogniser
from normjax.app.views.common import attempt, not_computed, own_run, visible_run, why_not
from normjax.errors import UserError
from normjax.pruning.config import PruneConfig
from normjax.training.exported import FILES

_SHOWN = 60  # pictures of a cell
_LARGEST = 50  # classes of a matrix that is shown whole


@require_GET
def confusion(request: HttpRequest, run: str) -> HttpResponse:
    """Rows true, columns predicted, on the test set; each cell leads to its pictures."""
    shown = visible_run(request, run)
    try:
        known = run_facts.answers(shown, request.user.pk)
    except (UserError, RecognitionError) as error:
        return not_computed(request, shown, "confusion", error)
    classes, labels, predicted = (np.asarray(known[name]) for name in ("classes", "labels", "predicted"))
    totals = np.bincount(labels, minlength=len(classes))
    right = np.bincount(labels[labels == predicted], minlength=len(classes))
    cells = _cells(classes, labels, predicted, totals) if len(classes) <= _LARGEST else [[] for _class in classes]
    context = {
        "run": shown,
        "tab": "confusion",
        "step": known["step"],
        "classes": known["classes"],
        "accuracy": right.sum() / max(1, len(labels)),
        "pictures": len(labels),
        "rows": [
            {"label": label, "index": i, "total": int(total), "right": hits / max(1, total), "cells": row}
            for i, (label, total, hits, row) in enumerate(zip(known["classes"], totals, right, cells, strict=True))
        ],
    }
    return render(request, "app/run_confusion.html", context)


def _cells(classes: np.ndarray, labels: np.ndarray, predicted: np.ndarray, totals: np.ndarray) -> list[list[Any]]:
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (labels, predicted), 1)
    levels = np.ceil(9 * counts / np.maximum(totals, 1)[:, None])
    return [
        [
            {"count": int(count), "predicted": str(other), "index": j, "level": int(level)}
            for j, (other, count, level) in enumerate(zip(classes, row, of_row, strict=True))
        ]
        for row, of_row in zip(counts, levels, strict=True)
    ]


@require_GET
def confusion_cell(request: HttpRequest, run: str, label: int, predicted: int) -> HttpResponse:
    """The pictures of a cell of the matrix."""
    shown = visible_run(request, run)
    try:
        known = run_facts.answers(shown, request.user.pk)
        if max(label, predicted) >= len(known["classes"]):
            raise Http404("there is no such class")
        pairs = zip(known["labels"], known["predicted"], strict=True)
        indices = [i for i, pair in enumerate(pairs) if pair == (label, predicted)]
        data_dir = run_facts.data_dir(shown)
        pictures = (
            recogniser().ask("pictures", shown.directory, request.user.pk, indices=indices[:_SHOWN], data_dir=data_dir)
            if indices
            else []
        )
    except (UserError, RecognitionError) as error:
        return not_computed(request, shown, "confusion", error)
    context = {
        "run": shown,
        "tab": "confusion",
        "label": known["classes"][label],
        "predicted": known["classes"][predicted],
        "right": label == predicted,
        "pictures": list(zip(indices, pictures, strict=False)),
        "total": len(indices),
    }
    return render(request, "app/run_confusion_cell.html", context)


@require_GET
def activations(request: HttpRequest, run: str) -> HttpResponse:
    """What each norm does to the activations that reach it."""
    shown = visible_run(request, run)
    try:
        layers = recogniser().ask("activations", shown.directory, request.user.pk, data_dir=run_facts.data_dir(shown))
    except (UserError, RecognitionError) as error:
        return not_computed(request, shown, "activations", error)
    context = {
        "run": shown,
        "tab": "activations",
        "layers": layers,
        "largest": {
            name: max((layer[side][name] for layer in layers for side in ("before", "after")), default=1) or 1
            for name in ("mean", "deviation", "correlation")
        },
    }
    return render(request, "app/run_activations.html", context)


@require_GET
def smaller(request: HttpRequest, run: str) -> HttpResponse:
    """Pruning and folding: what can be ordered, and what came of it."""
    shown = visible_run(request, run)
    return render(request, "app/run_smaller.html", _smaller(request, shown))


@require_POST
def prune(request: HttpRequest, run: str) -> HttpResponse:
    """Orders the pruning of a run."""
    parent = own_run(request, run)
    sent = {
        name: request.POST[name].strip()
        for name in ("max_drop", "score", "debias", "epochs", "final_epochs")
        if name in request.POST
    }
    try:
        options = PruneConfig.model_validate(sent)
        check_pruning(options)
        made = orders.submit_pruning(request.user, parent, options)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        told = {"field": field, "error": complaint(first), "sent": sent}
        return render(request, "app/run_smaller.html", {**_smaller(request, parent), **told}, status=422)
    except RefusedError as error:
        field, text = next(iter(error.errors.items()))
        told = {"field": field, "error": text, "sent": sent}
        return render(request, "app/run_smaller.html", {**_smaller(request, parent), **told}, status=422)
    except UserError as error:
        told = {"error": str(error), "sent": sent}
        return render(request, "app/run_smaller.html", {**_smaller(request, parent), **told}, status=422)
    return redirect("run", made.pk)


@require_POST
def fold(request: HttpRequest, run: str) -> HttpResponse:
    """Orders the folding of a run."""
    parent = own_run(request, run)
    made: list[Run] = []
    ordered = attempt(request, lambda: made.append(orders.submit_folding(request.user, parent)))
    return redirect("run", made[0].pk) if ordered else redirect("run_smaller", run)


@require_GET
def model_file(request: HttpRequest, run: str, name: str) -> HttpResponse:
    """A file of the exported network."""
    shown = visible_run(request, run)
    if name not in FILES:
        raise Http404("there is no such file")
    try:
        directory = exported(shown, request.user.pk)
    except (UserError, RecognitionError) as error:
        return HttpResponse(
            why_not(error), status=409 if isinstance(error, UserError) else 503, content_type="text/plain"
        )
    return FileResponse((directory / name).open("rb"), as_attachment=True, filename=name)


@require_GET
def folded_file(request: HttpRequest, run: str) -> HttpResponse:
    """The program that a folding has written."""
    shown = visible_run(request, run)
    if shown.kind != Run.Kind.FOLD or shown.status != Status.FINISHED:
        raise Http404("there is no program")
    return FileResponse(folded(shown).open("rb"), as_attachment=True, filename="folded.stablehlo")


def exported(run: Run, user: int) -> Any:
    """The directory of the exported network, of a finished run made once.

    Raises:
      UserError: the run is not finished.
      RecognitionError: the recogniser gave no answer.
    """
    if run.status != Status.FINISHED or run.kind == Run.Kind.FOLD:
        raise UserError(_("A network can be downloaded when its training is finished."))
    directory = run.path / "model"
    if not directory.is_dir():
        recogniser().ask("export", run.directory, user, output=str(directory))
    return directory


def _smaller(request: HttpRequest, run: Run) -> dict[str, Any]:
    info = PruneConfig.model_fields
    return {
        "run": run,
        "tab": "smaller",
        "children": Run.objects.visible_to(request.user).filter(parent=run),
        "may_order": run.owner == request.user and run.status == Status.FINISHED and run.kind != Run.Kind.FOLD,
        "scores": info["score"].annotation.__args__,  # type: ignore[union-attr]
        "debiasings": info["debias"].annotation.__args__,  # type: ignore[union-attr]
        "sent": {
            "max_drop": "0.02",
            "score": info["score"].default,
            "debias": info["debias"].default,
            "epochs": "1",
            "final_epochs": "3",
        },
    }
