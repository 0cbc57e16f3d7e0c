"""Recognition, by the API."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from django.conf import settings
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import File, Form, Router, UploadedFile
from ninja.errors import ValidationError
from pydantic import Field

from normjax.app import models
from normjax.app.api.schemas import PROBLEMS, Answer
from normjax.app.pictures import clean_picture, shown_name, write_whole
from normjax.app.recognition.client import recogniser
from normjax.errors import UserError

router = Router(tags=["recognition"])


@router.post("", response={200: list[Answer], **PROBLEMS}, by_alias=True)
def recognise(
    request: HttpRequest,
    pictures: Annotated[list[UploadedFile], File(max_length=settings.MAX_PICTURES_AT_ONCE, min_length=1)],
    runs: Annotated[list[Annotated[str, Field(max_length=20)]], Form(max_length=8, min_length=1)],
    top: Annotated[int, Form(ge=1, le=1000)] = 5,
) -> Any:
    """What each network says to each picture. The pictures are not kept."""
    user: Any = request.user
    networks = [get_object_or_404(models.Run.objects.visible_to(user), pk=run) for run in runs]
    with TemporaryDirectory(dir=settings.HOME.pictures) as folder:
        files = [Path(folder) / f"{number}.png" for number in range(len(pictures))]
        for number, (file, sent) in enumerate(zip(files, pictures, strict=True)):
            try:
                write_whole(file, clean_picture(sent))
            except UserError as error:
                raise ValidationError([{"loc": ["file", "pictures", number], "msg": str(error)}]) from error
        words = {"files": [str(file) for file in files], "top": top}
        told = [recogniser().ask("predict", run.directory, user.pk, **words) for run in networks]
    return [
        {"picture": shown_name(file.name), "run": run.pk, "predictions": rows[number]}
        for number, file in enumerate(pictures)
        for run, rows in zip(networks, told, strict=True)
    ]
