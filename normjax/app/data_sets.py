"""Data sets of labelled pictures that users send, picture by picture."""

import re
import shutil
import unicodedata
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils.translation import gettext as _

from normjax.app.models import DataSet, User, new_id
from normjax.app.pictures import clean_picture, write_whole
from normjax.errors import UserError

# A class is a folder: letters of any script, digits, and few signs, none of which means anything to a file system.
_CLASS = re.compile(r"\w[\w ()+-]{0,59}")
_SPLITS = {"train", "test"}  # folders of these names are splits, not classes


def create(user: User, name: str) -> DataSet:
    """An empty data set.

    Raises:
      UserError: the name is empty or too long, or the user has too many.
    """
    name = name.strip()
    if not 1 <= len(name) <= 60 or not name.isprintable():
        raise UserError(_("A name has 1 to 60 characters."))
    if user.data_sets.count() >= settings.MAX_DATA_SETS:
        raise UserError(_("You have %(most)d data sets; delete one first.") % {"most": settings.MAX_DATA_SETS})
    made = DataSet(owner=user, name=name)
    made.path.mkdir(parents=True)
    made.save(force_insert=True)
    return made


def add_picture(data_set: DataSet, label: str, file: Any) -> None:
    """Takes a picture of a class.

    Raises:
      UserError: the picture or the name of the class is not accepted, or the data set is full.
    """
    label = class_name(label)
    encoded = clean_picture(file)
    if data_set.runs.active().exists():
        raise UserError(_("A run is using this data set; wait until it has ended."))
    room = DataSet.objects.filter(
        pk=data_set.pk,
        pictures__lt=settings.MAX_DATA_SET_PICTURES,
        bytes__lte=settings.MAX_DATA_SET_BYTES - len(encoded),
    )
    with transaction.atomic():
        # Counted before it is written: of two that come at once, the second one sees the first.
        if not room.update(pictures=F("pictures") + 1, bytes=F("bytes") + len(encoded)):
            raise UserError(
                _("The data set is full: %(most)d pictures, or %(gib)d GiB.")
                % {"most": settings.MAX_DATA_SET_PICTURES, "gib": settings.MAX_DATA_SET_BYTES // 2**30}
            )
        folder = data_set.path / label
        if not folder.exists() and sum(1 for _class in data_set.path.iterdir()) >= settings.MAX_CLASSES:
            raise UserError(_("A data set has %(most)d classes at most.") % {"most": settings.MAX_CLASSES})
        folder.mkdir(exist_ok=True)
        write_whole(folder / f"{new_id()}.png", encoded)


def class_name(label: str) -> str:
    """The name of a class, checked.

    Raises:
      UserError: it is none.
    """
    label = unicodedata.normalize("NFC", label).strip()
    if not _CLASS.fullmatch(label) or label.lower() in _SPLITS:
        raise UserError(
            _("%(name)s is no name of a class: use 1 to 60 letters, digits, spaces, _ ( ) + -; not train or test.")
            % {"name": repr(label[:60])}
        )
    return label


def classes(data_set: DataSet) -> list[tuple[str, int]]:
    """The classes with the numbers of their pictures."""
    folders = sorted(path for path in data_set.path.iterdir() if path.is_dir())
    return [(folder.name, sum(1 for file in folder.iterdir() if file.suffix == ".png")) for folder in folders]


def delete(data_set: DataSet) -> None:
    """Removes a data set with its pictures; networks trained on it stay.

    Raises:
      UserError: a run is using it.
    """
    with transaction.atomic():
        if data_set.runs.active().exists():
            raise UserError(_("A run is using this data set; wait until it has ended."))
        path = data_set.path
        data_set.delete()
    shutil.rmtree(path)  # behind the row, as with runs
