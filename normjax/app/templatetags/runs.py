"""What pages ask of runs."""

from typing import Any

from django import template

from normjax.app.models import Run

register = template.Library()


@register.filter
def parent_seen_by(run: Run, user: Any) -> Run | None:
    """The run that this one was made of, where the user may see that as well."""
    if run.parent_id is None:
        return None
    return Run.objects.visible_to(user).filter(pk=run.parent_id).first()
