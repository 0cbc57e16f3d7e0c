"""Data sets of the user's own, by the API."""

from typing import Annotated, Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import File, Form, Path, Router, Status, UploadedFile
from ninja.errors import ValidationError

from normjax.app import data_sets, models
from normjax.app.api.schemas import PROBLEMS, DataSet, NewDataSet
from normjax.errors import UserError

router = Router(tags=["data sets"])
Id = Annotated[str, Path(max_length=20)]


@router.get("", response={200: list[DataSet], **PROBLEMS})
def list_data_sets(request: HttpRequest) -> Any:
    """All of the user's own."""
    return [_told(own) for own in models.DataSet.objects.filter(owner=request.user)]


@router.post("", response={201: DataSet, **PROBLEMS})
def create(request: HttpRequest, order: NewDataSet) -> Any:
    """An empty data set, to be filled picture by picture."""
    user: Any = request.user
    return Status(201, _told(data_sets.create(user, order.name)))


@router.get("/{data_set}", response={200: DataSet, **PROBLEMS})
def read(request: HttpRequest, data_set: Id) -> Any:
    """One data set with its classes."""
    return _told(_own(request, data_set))


@router.post("/{data_set}/pictures", response={201: DataSet, **PROBLEMS})
def add_picture(
    request: HttpRequest,
    data_set: Id,
    label: Annotated[str, Form(min_length=1, max_length=60)],
    picture: Annotated[UploadedFile, File()],
) -> Any:
    """Puts a picture into a class, which is made where it is new."""
    own = _own(request, data_set)
    try:
        data_sets.add_picture(own, label, picture)
    except UserError as error:
        raise ValidationError([{"loc": ["form", "picture"], "msg": str(error)}]) from error
    return Status(201, _told(_own(request, data_set)))


@router.delete("/{data_set}", response={204: None, **PROBLEMS})
def delete(request: HttpRequest, data_set: Id) -> Any:
    """Removes a data set with its pictures."""
    data_sets.delete(_own(request, data_set))
    return Status(204, None)


def _own(request: HttpRequest, data_set: str) -> models.DataSet:
    return get_object_or_404(models.DataSet, pk=data_set, owner=request.user)


def _told(own: models.DataSet) -> dict[str, Any]:
    fields = {name: getattr(own, name) for name in ("id", "name", "pictures", "bytes")}
    return {**fields, "classes": dict(data_sets.classes(own))}
