"""The data sets that a user may train on. A browser names one of them, never a path."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from django.conf import settings
from django.utils.translation import gettext as _

from normjax.app.models import DataSet, User
from normjax.data.options import DataConfig
from normjax.errors import UserError

FOLDER = "folder:"  # before the id of a data set that the user sent
_DIGITS = 1797  # pictures of the data set that comes with normjax


class Choice(NamedTuple):
    """A data set to choose: what a form sends, and what its user reads."""

    value: str
    label: str


def tfds_data_sets(directory: Path | None) -> list[str]:
    """Data sets of TFDS that are there to be read, with images and labels."""
    if directory is None or not directory.is_dir():
        return []
    found = set()
    for depth in ("*/*", "*/*/*"):
        for info in directory.glob(f"{depth}/dataset_info.json"):
            features = info.with_name("features.json")
            if features.is_file() and _has_image_and_label(features):
                found.add("/".join(info.parent.relative_to(directory).parts[:-1]))
    return sorted(found)


def choices(user: User) -> list[Choice]:
    """All that a user may train on."""
    return [
        Choice("digits", _("Handwritten digits, 8 × 8 (comes with normjax)")),
        *(Choice(name, name) for name in tfds_data_sets(settings.DATA_DIR)),
        *(Choice(FOLDER + own.id, own.name) for own in DataSet.objects.filter(owner=user, pictures__gt=0)),
    ]


def chosen(user: User, value: str) -> tuple[str, DataSet | None]:
    """The name for a config and the data set of the user's own, where it is one.

    Raises:
      UserError: it is none of the choices.
    """
    if value not in {choice.value for choice in choices(user)}:
        raise UserError(_("There is no such data set; choose one of the list."))
    if value.startswith(FOLDER):
        return "folder", DataSet.objects.get(owner=user, pk=value.removeprefix(FOLDER))
    return value, None


def most_examples(data: DataConfig, data_set: DataSet | None) -> int:
    """How many pictures an epoch has at most; 0 where only the training will see."""
    if data_set is not None:
        return data_set.pictures
    if data.name == "digits":
        return _DIGITS
    versions = settings.DATA_DIR.glob(f"{data.name}/*/dataset_info.json") if settings.DATA_DIR else ()
    splits = re.findall(r"\w+", data.train_split)  # of train[:10%]+test: train, 10, test
    return max((sum(sizes.get(split, 0) for split in splits) for sizes in map(_split_sizes, versions)), default=0)


def _split_sizes(file: Path) -> dict[str, int]:
    try:
        splits: Any = json.loads(file.read_text())["splits"]
        sizes = {split["name"]: sum(map(int, split["shardLengths"])) for split in splits}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {**sizes, "all": sum(sizes.values())}


def _has_image_and_label(file: Path) -> bool:
    try:
        features: Any = json.loads(file.read_text())["featuresDict"]["features"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # of another kind, which is not offered
    return {"image", "label"} <= set(features)
