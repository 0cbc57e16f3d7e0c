"""Numbers as people read them."""

import math
from typing import Any

from django import template
from django.utils.translation import gettext as _

register = template.Library()
_NOTHING = "–"


@register.filter
def percent(share: float | None) -> str:
    """0.9876 as 98.76 %."""
    return _NOTHING if share is None else f"{100 * share:.2f} %"


@register.filter
def decimals(value: float | None) -> str:
    """Four significant digits."""
    return _NOTHING if value is None else f"{value:.4g}"


@register.filter
def thousands(value: float | None) -> str:
    """12345 as 12,345."""
    return _NOTHING if value is None else f"{value:,.0f}"


@register.filter
def duration(seconds: float | None) -> str:
    """90 as 1 min 30 s."""
    if seconds is None:
        return _NOTHING
    seconds = round(seconds)
    if seconds < 60:
        return _("%(s)d s") % {"s": seconds}
    if seconds < 3600:
        return _("%(m)d min %(s)d s") % {"m": seconds // 60, "s": seconds % 60}
    return _("%(h)d h %(m)d min") % {"h": seconds // 3600, "m": seconds % 3600 // 60}


@register.filter
def size(count: float | None) -> str:
    """Bytes in the unit that fits."""
    if count is None:
        return _NOTHING
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


@register.filter
def share_of(value: float, largest: float) -> int:
    """The part of a bar, of 100."""
    share = value / largest
    return round(100 * share) if math.isfinite(share) else 0


@register.filter
def at(table: dict, key: Any) -> Any:
    """An entry of a dictionary."""
    return table[key]
