"""Runs, by the API."""

from typing import Annotated, Any, Literal

import numpy as np
from django.conf import settings
from django.db import transaction
from django.http import FileResponse, Http404, HttpRequest
from django.shortcuts import get_object_or_404
from django.urls import reverse
from ninja import Path, Query, Router, Status

from normjax.app import models, run_facts
from normjax.app.api.schemas import (
    PROBLEMS,
    ChangedRun,
    Confusion,
    Layer,
    Log,
    Metrics,
    ModelFile,
    NewRun,
    Run,
    Runs,
)
from normjax.app.choices import FOLDER, chosen
from normjax.app.config_form import RefusedError, check_pruning, validated
from normjax.app.jobs import orders
from normjax.app.jobs.commands import result
from normjax.app.recognition.client import recogniser
from normjax.app.views.results import exported
from normjax.errors import UserError
from normjax.pruning.config import PruneConfig
from normjax.training.exported import FILES
from normjax.training.metrics import read_metrics

router = Router(tags=["runs"])
Id = Annotated[str, Path(max_length=20)]


@router.get("", response={200: Runs, **PROBLEMS})
def list_runs(
    request: HttpRequest,
    which: Literal["mine", "visible"] = "mine",
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    offset: Annotated[int, Query(ge=0, le=10**6)] = 0,
) -> Any:
    """The newest first."""
    runs = models.Run.objects.visible_to(request.user).select_related("owner")
    if which == "mine":
        runs = runs.filter(owner=request.user)
    return {"count": runs.count(), "runs": [_told(run) for run in runs[offset : offset + limit]]}


@router.post("", response={201: Run, **PROBLEMS})
def submit(request: HttpRequest, order: NewRun) -> Any:
    """Queues a training."""
    user: Any = request.user
    wanted = FOLDER + order.data_set if order.data_set is not None else order.config.data.name
    try:
        name, data_set = chosen(user, wanted)
    except UserError as error:
        raise RefusedError({"data.name": str(error)}) from error
    if name != order.config.data.name:
        raise RefusedError({"data.name": "Use folder with a data set of your own."})
    config = validated(order.config.model_dump(), data_set)
    return Status(201, _told(orders.submit_training(user, config, name=order.name, data_set=data_set)))


@router.get("/{run}", response={200: Run, **PROBLEMS})
def read(request: HttpRequest, run: Id) -> Any:
    """One run."""
    return _told(_visible(request, run))


@router.patch("/{run}", response={200: Run, **PROBLEMS})
def change(request: HttpRequest, run: Id, changes: ChangedRun) -> Any:
    """Renames, archives or shares a run."""
    own = _own(request, run)
    with transaction.atomic():  # all of it or nothing
        orders.share(own, with_all=changes.shared_with_all, names=changes.shared_with)
        if changes.name is not None:
            orders.rename(own, changes.name)
        if changes.archived is not None:
            models.Run.objects.filter(pk=own.pk).update(archived=changes.archived)
    return _told(_own(request, run))


@router.delete("/{run}", response={204: None, **PROBLEMS})
def delete(request: HttpRequest, run: Id) -> Any:
    """Removes a run that is not active."""
    orders.delete(_own(request, run))
    return Status(204, None)


@router.post("/{run}/stop", response={202: Run, **PROBLEMS})
def stop(request: HttpRequest, run: Id) -> Any:
    """Saves and ends a training after its step."""
    orders.stop(_own(request, run))
    return Status(202, _told(_own(request, run)))


@router.post("/{run}/resume", response={202: Run, **PROBLEMS})
def resume(request: HttpRequest, run: Id) -> Any:
    """Goes on with a run that ended early."""
    orders.resume(_own(request, run))
    return Status(202, _told(_own(request, run)))


@router.post("/{run}/prune", response={201: Run, **PROBLEMS})
def prune(request: HttpRequest, run: Id, options: PruneConfig) -> Any:
    """Queues the search for a smaller network."""
    check_pruning(options)
    user: Any = request.user
    return Status(201, _told(orders.submit_pruning(user, _own(request, run), options)))


@router.post("/{run}/fold", response={201: Run, **PROBLEMS})
def fold(request: HttpRequest, run: Id) -> Any:
    """Queues the folding of the norms into the layers before them."""
    user: Any = request.user
    return Status(201, _told(orders.submit_folding(user, _own(request, run))))


@router.get("/{run}/metrics", response={200: Metrics, **PROBLEMS})
def metrics(request: HttpRequest, run: Id) -> Any:
    """All lines that the training has written."""
    return {"lines": read_metrics(_visible(request, run).directory / "metrics.jsonl")}


@router.get("/{run}/log", response={200: Log, **PROBLEMS})
def log(request: HttpRequest, run: Id) -> Any:
    """What the process has printed."""
    return {"text": run_facts.log_text(_visible(request, run))}


@router.get("/{run}/confusion", response={200: Confusion, **PROBLEMS})
def confusion(request: HttpRequest, run: Id) -> Any:
    """The confusion matrix on the test set."""
    known = run_facts.answers(_visible(request, run), _user(request))
    if len(known["classes"]) > settings.MAX_CLASSES:
        raise UserError(f"The matrix of more than {settings.MAX_CLASSES} classes is not told.")
    counts = np.zeros((len(known["classes"]),) * 2, int)
    np.add.at(counts, (known["labels"], known["predicted"]), 1)
    return {"step": known["step"], "classes": known["classes"], "counts": counts.tolist()}


@router.get("/{run}/activations", response={200: list[Layer], **PROBLEMS})
def activations(request: HttpRequest, run: Id) -> Any:
    """What each norm does to the activations."""
    shown = _visible(request, run)
    return recogniser().ask("activations", shown.directory, _user(request), data_dir=run_facts.data_dir(shown))


@router.get("/{run}/model", response={200: list[ModelFile], **PROBLEMS})
def model(request: HttpRequest, run: Id) -> Any:
    """The files of the network, which ``normjax predict DIRECTORY PICTURE`` loads when they lie in one directory."""
    directory = exported(_visible(request, run), _user(request))
    return [
        {
            "name": name,
            "url": request.build_absolute_uri(reverse("api:model_file", args=[run, name])),
            "bytes": (directory / name).stat().st_size,
        }
        for name in FILES
    ]


_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.get(
    "/{run}/model/{name}",
    response=PROBLEMS,
    url_name="model_file",
    openapi_extra={"responses": {200: {"description": "the file", "content": _BYTES}}},
)
def model_file(request: HttpRequest, run: Id, name: Annotated[str, Path(max_length=40)]) -> Any:
    """A file of the network: config.json, dataset.json, model.safetensors or SHA256SUMS."""
    if name not in FILES:
        raise Http404
    file = (exported(_visible(request, run), _user(request)) / name).open("rb")
    return FileResponse(file, as_attachment=True, filename=name, content_type="application/octet-stream")


def _user(request: HttpRequest) -> int:
    user: Any = request.user
    return user.pk


def _visible(request: HttpRequest, run: str) -> models.Run:
    runs = models.Run.objects.visible_to(request.user).select_related("owner", "parent", "data_set")
    return get_object_or_404(runs, pk=run)


def _own(request: HttpRequest, run: str) -> models.Run:
    runs = models.Run.objects.owned_by(request.user).select_related("owner", "parent", "data_set")
    return get_object_or_404(runs, pk=run)


def _told(run: models.Run) -> dict[str, Any]:
    done = result(run)
    if done is not None:  # without what it says of the directories of this machine
        done = {name: value for name, value in done.items() if name not in ("run", "output", "file", "machine")}
    return {
        **{name: getattr(run, name) for name in Run.model_fields if hasattr(run, name)},
        "owner": run.owner.username,
        "parent": run.parent_id,
        "figures": run_facts.figures(run),
        "result": done,
    }
