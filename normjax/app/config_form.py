"""A form made from ``TrainConfig``: what the form asks, allows and complains of is what the config says."""

import json
import math
import re
import types
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from normjax.app.choices import FOLDER, chosen, most_examples
from normjax.app.complaints import complaint
from normjax.app.models import DataSet, Run, User
from normjax.errors import UserError
from normjax.pruning.config import PruneConfig
from normjax.training.config import TrainConfig

# What most people change, with the words for it; everything else is below "All settings".
FRONT = {
    "data.name": gettext_noop("Data set"),
    "data.image_size": gettext_noop("Image size"),
    "data.augmentation": gettext_noop("Augmentation"),
    "model.name": gettext_noop("Network"),
    "norm.name": gettext_noop("Normalization"),
    "norm.options": gettext_noop("Options of the normalization"),
    "optimizer.name": gettext_noop("Optimizer"),
    "optimizer.learning_rate": gettext_noop("Learning rate"),
    "epochs": gettext_noop("Epochs"),
    "batch_size": gettext_noop("Batch size"),
    "seed": gettext_noop("Seed"),
}
_HIDDEN = {"model.kept", "model.weights"}  # written by pruning; a file of the server

# What a shared machine adds to the bounds of the config.
_MOST: dict[str, int] = {
    "batch_size": settings.MAX_BATCH,
    "epochs": settings.MAX_EPOCHS,
    "data.image_size": 512,
    "model.num_classes": 10_000,
    "reference.size": 4096,
    "weight_norm.initialize_from": 4096,
    "run.cache_mib": 4096,
    "run.log_every": 1_000_000,
    "run.validate_every": 1_000_000,
    "run.checkpoint_every": 1_000_000,
    "run.eval_batch_size": settings.MAX_BATCH,
    "run.keep": 20,
    "run.threads": 8,
}
_MOST_PRUNING = {"epochs": 100, "final_epochs": 100, "score_images": 10_000}
_MOST_WIDTH = 4096  # channels or units of a layer
_MOST_LAYERS = 32
_MOST_LINES = 100_000  # of metrics, which are told to browsers and drawn


@dataclass
class Field:
    """A field of the form."""

    name: str
    kind: Literal["choice", "number", "integer", "text"]
    help: str
    value: str
    label: str = ""
    choices: list[tuple[str, str]] = field(default_factory=list)
    minimum: float | None = None
    maximum: float | None = None
    optional: bool = False
    error: str = ""

    @property
    def id(self) -> str:
        return "id_" + self.name.replace(".", "_")


@dataclass
class ConfigForm:
    """The form, filled in with a config or with what a user sent."""

    front: list[Field]
    sections: list[tuple[str, list[Field]]]
    error: str = ""  # of no field in particular

    def __iter__(self) -> Any:
        yield from self.front
        for _name, fields in self.sections:
            yield from fields

    @property
    def has_error_below(self) -> bool:
        """Whether something is wrong where one does not look at first."""
        return any(f.error for _name, fields in self.sections for f in fields)


class RefusedError(Exception):
    """A config that is not valid, or asks for more than a user may have.

    Args:
      errors: what is wrong, by the name of the field; the empty name is for the whole.
      place: what the fields are part of, in a request to the API.
    """

    def __init__(self, errors: dict[str, str], place: str = "config"):
        super().__init__(", ".join(f"{name or place}: {message}" for name, message in errors.items()))
        self.errors, self.place = errors, place


def make_form(config: TrainConfig, choices: list[Any], data_set: DataSet | None = None) -> ConfigForm:
    """The form filled in with a config."""
    values = {name: _shown(_at(config, name)) for name, _info in leaves()}
    if data_set is not None:
        values["data.name"] = FOLDER + data_set.pk
    return _form(values, choices, {})


def refused_form(sent: dict[str, str], choices: list[Any], errors: dict[str, str]) -> ConfigForm:
    """The form as a user sent it, with what is wrong beside its fields."""
    return _form(sent, choices, errors)


def read_form(user: User, sent: dict[str, str]) -> tuple[TrainConfig, DataSet | None]:
    """The config that a user sent.

    Raises:
      RefusedError: it is not valid.
    """
    nested: dict[str, Any] = {}
    errors: dict[str, str] = {}
    data_set = None
    for name, info in leaves():
        if name not in sent:
            continue
        text = sent[name].strip()
        value: Any = text
        if name == "data.name":
            try:
                value, data_set = chosen(user, text)
            except UserError as error:
                errors[name] = str(error)
                continue
        elif text == "" and _is_optional(info):
            value = None
        elif _origin(info) is tuple:
            value = [part for part in text.replace(",", " ").split() if part]
        elif _origin(info) is dict:
            try:
                value = _pairs(text)
            except UserError as error:
                errors[name] = str(error)
                continue
        target = nested
        *sections, last = name.split(".")
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = value
    try:
        config = validated(nested, data_set)
    except RefusedError as refused:
        errors = {**refused.errors, **errors}
    if errors:
        raise RefusedError(errors)
    return config, data_set


def validated(data: Any, data_set: DataSet | None) -> TrainConfig:
    """The config that plain data describe, within the bounds of this machine.

    Raises:
      RefusedError: it is not valid.
    """
    try:
        json.dumps(data, ensure_ascii=False).encode()
        config = TrainConfig.model_validate(data)
    except (UnicodeEncodeError, RecursionError) as error:  # half of a surrogate pair; a thousand brackets
        raise RefusedError({"": _("This is no text that can be kept.")}) from error
    except ValidationError as error:
        raise RefusedError(_by_field(error)) from error
    except UserError as error:
        raise RefusedError({"": str(error)}) from error
    errors = _beyond_bounds(config) or _too_often(config, most_examples(config.data, data_set))
    if config.data.name == "folder" and data_set is None:
        errors["data.name"] = _("Choose one of your data sets.")
    if data_set is not None and config.data.image_size is None:
        errors["data.image_size"] = _("Pictures of a folder differ in size; say to which they are brought, as 32.")
    if config.model.kept:
        errors["model.kept"] = _("It is written by pruning alone.")
    if config.model.weights is not None:
        errors["model.weights"] = _("Files of the server cannot be named here; use train.py.")
    if errors:
        raise RefusedError(errors)
    return config


def check_pruning(options: PruneConfig) -> None:
    """Checks a search against the bounds of this machine.

    Raises:
      RefusedError: it asks for more, or names layers, which would be words of a command.
    """
    errors = {
        name: _("%(value)s is more than this machine allows; use %(most)d at most.")
        % {"value": _short(getattr(options, name)), "most": most}
        for name, most in _MOST_PRUNING.items()
        if getattr(options, name) > most
    }
    if options.protected:
        errors["protected"] = _("Layers cannot be protected here; use normjax prune.")
    if errors:
        raise RefusedError(errors, "options")


def config_of(run: Run) -> TrainConfig:
    """The config of a training, as it was checked when it was submitted."""
    return TrainConfig.model_validate(run.config)


def leaves(model: type[BaseModel] = TrainConfig, prefix: str = "") -> list[tuple[str, FieldInfo]]:
    """Fields of a config with their dotted names, but for those that no form has."""
    found = []
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found += leaves(info.annotation, f"{prefix}{name}.")
        elif prefix + name not in _HIDDEN:
            found.append((prefix + name, info))
    return found


def _form(values: dict[str, str], choices: list[Any], errors: dict[str, str]) -> ConfigForm:
    known = dict(leaves())
    fields = {name: _field(name, info, values, choices, errors.get(name, "")) for name, info in known.items()}
    sections: dict[str, list[Field]] = {}
    for name, made in fields.items():
        if name not in FRONT:
            section, _dot, last = name.rpartition(".")
            made.label = last.replace("_", " ")
            sections.setdefault(section or "training", []).append(made)
    front = []
    for name, label in FRONT.items():
        fields[name].label = _(label)
        front.append(fields[name])
    rest = " ".join(message for name, message in errors.items() if name not in known)
    return ConfigForm(front, list(sections.items()), rest)


def _field(name: str, info: FieldInfo, values: dict[str, str], choices: list[Any], error: str) -> Field:
    default = info.get_default(call_default_factory=True)
    made = Field(
        name,
        "text",
        _help(name, info),
        values.get(name, _shown(default)),
        optional=_is_optional(info),
        error=error,
    )
    kinds = _kinds(info)
    literals = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    if name == "data.name":
        made.kind, made.choices = "choice", [(choice.value, choice.label) for choice in choices]
        if made.value not in {choice.value for choice in choices}:
            made.choices.insert(0, ("", ""))  # a browser would choose the first one without a word
            made.error = error or _("The data set of that run is not yours or not here; choose another.")
    elif literals and len(kinds) == 1:
        made.kind, made.choices = "choice", [(value, value.replace("_", " ")) for value in literals]
    elif kinds == [bool]:
        made.kind, made.choices = "choice", [("true", _("yes")), ("false", _("no"))]
    elif kinds == [int]:
        made.kind = "integer"
    elif kinds == [float]:
        made.kind = "number"
    for bound in info.metadata:
        if isinstance(bound, annotated_types.Ge):
            made.minimum = bound.ge  # type: ignore[assignment]
        elif isinstance(bound, annotated_types.Le):
            made.maximum = bound.le  # type: ignore[assignment]
    if name in _MOST:
        made.maximum = _MOST[name]
    return made


def _help(name: str, info: FieldInfo) -> str:
    """What the config says of the field, where it does not speak of the command line."""
    if name.endswith(".options"):
        return _("Further fields, with commas between them: epsilon=1e-3, use_scale=false")
    return _(info.description).replace("None:", "empty:") if info.description else ""


def _beyond_bounds(config: TrainConfig) -> dict[str, str]:
    errors = {}
    for name, most in _MOST.items():
        value = _at(config, name)
        if value is not None and value > most:
            errors[name] = _("%(value)s is more than this machine allows; use %(most)d at most.") % {
                "value": _short(value),
                "most": most,
            }
    for name in ("model.widths", "model.dense"):
        widths = _at(config, name) or ()
        if len(widths) > _MOST_LAYERS or any(width > _MOST_WIDTH for width in widths):
            errors[name] = _("Use %(layers)d layers of %(width)d at most.") % {
                "layers": _MOST_LAYERS,
                "width": _MOST_WIDTH,
            }
    return errors


def _too_often(config: TrainConfig, examples: int) -> dict[str, str]:
    least = math.ceil(config.epochs * examples / config.batch_size / _MOST_LINES)
    words = _("This training would write more than %(most)d lines of metrics; use %(least)d or more.")
    return {
        name: words % {"most": _MOST_LINES, "least": least}
        for name in ("run.log_every", "run.validate_every", "run.checkpoint_every")
        if (steps := _at(config, name)) is not None and steps < least
    }


def _by_field(error: ValidationError) -> dict[str, str]:
    """What is wrong by field; a rule about several is shown beside the first field that it names."""
    known = [name for name, _info in leaves()]
    found: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        parts = [str(part) for part in problem["loc"]]
        name = next((prefix for n in range(len(parts), 0, -1) if (prefix := ".".join(parts[:n])) in known), "")
        message = complaint(problem)
        if not name:
            name = _field_named_in(problem["msg"].removeprefix("Value error, "), ".".join(parts), known)
        found.setdefault(name, message)
    return found


def _field_named_in(message: str, section: str, known: list[str]) -> str:
    """The field that a rule about several speaks of first; else one of the section, empty where there is none."""
    places = {name: re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", message) for name in known}
    named = [(found.start(), name) for name, found in places.items() if found]
    if named:
        return min(named)[1]
    section = section or message.split()[0]
    inside = [name for name in known if name.startswith(f"{section}.")]
    # What a layer does not know is mostly one of its options.
    return next((name for name in inside if name.endswith(".options")), next(iter(inside), ""))


def _pairs(text: str) -> dict[str, Any]:
    """Options as ``epsilon=1e-3, use_scale=false``."""
    found: dict[str, Any] = {}
    for part in text.replace("\n", ",").split(","):
        if not part.strip():
            continue
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not name or not value:
            raise UserError(_("Write options as name=value, with commas between them: epsilon=1e-3, use_scale=false."))
        try:
            found[name] = json.loads(value.lower() if value.lower() in ("true", "false", "null") else value)
        except (ValueError, RecursionError):
            found[name] = value
    return found


def _short(number: float) -> str:
    """A number as it was sent; ``:g`` knows none beyond the floats."""
    return str(number) if len(str(number)) <= 20 else f"{str(number)[:20]}…"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={_shown(inner) or 'null'}" for name, inner in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _at(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _kinds(info: FieldInfo) -> list[Any]:
    annotation = info.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for kind in get_args(annotation) if kind is not type(None)]
    return [annotation]


def _origin(info: FieldInfo) -> Any:
    return get_origin(_kinds(info)[0])


def _is_optional(info: FieldInfo) -> bool:
    return type(None) in get_args(info.annotation)
