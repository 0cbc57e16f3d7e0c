"""What is wrong, as users are told: in the language of the page, without the directories of this machine."""

import re

from django.conf import settings
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop
from pydantic_core import ErrorDetails

from normjax.app.rules import translated

_INTEGER = gettext_noop("Use a whole number.")
_NUMBER = gettext_noop("Use a number.")
_YES_OR_NO = gettext_noop("Use true or false.")
_WORDS = {
    "greater_than": gettext_noop("Use more than %(gt)s."),
    "greater_than_equal": gettext_noop("Use %(ge)s or more."),
    "less_than": gettext_noop("Use less than %(lt)s."),
    "less_than_equal": gettext_noop("Use %(le)s or less."),
    "int_parsing": _INTEGER,
    "int_parsing_size": _INTEGER,
    "int_type": _INTEGER,
    "int_from_float": _INTEGER,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "finite_number": _NUMBER,
    "bool_parsing": _YES_OR_NO,
    "bool_type": _YES_OR_NO,
    "string_type": gettext_noop("Use text."),
    "literal_error": gettext_noop("Use one of %(expected)s."),
    "missing": gettext_noop("This is needed."),
    "extra_forbidden": gettext_noop("There is no such field."),
}


def without_paths(text: str) -> str:
    """What a job or the recogniser said, without where our directories lie."""
    text = re.sub(re.escape(str(settings.HOME.path)) + r"(/\w+/[0-9a-f]{20})?", "…", text)
    return text if settings.DATA_DIR is None else text.replace(str(settings.DATA_DIR), "…")


def complaint(problem: ErrorDetails) -> str:
    """What pydantic has against one field; what is rare in English."""
    words = _WORDS.get(problem["type"])
    if words is None:
        return translated(problem["msg"].removeprefix("Value error, "))[:500]
    return _(words) % {name: _plain(value) for name, value in problem.get("ctx", {}).items()}


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" or ", ", ")
