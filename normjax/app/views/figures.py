"""Size and speed before and after, as the pages of pruned and folded runs show them."""

from typing import Any

from django.utils.translation import gettext as _

from normjax.app.models import Run
from normjax.app.templatetags.figures import decimals, percent, size, thousands


def before_after(run: Run, result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, before, after; nothing for a training."""
    if run.kind == Run.Kind.PRUNE:
        before, after = result["before"], result["after"]
        return [
            (_("Neurons"), thousands(before["neurons"]), thousands(after["neurons"])),
            (_("Parameters"), thousands(before["parameters"]), thousands(after["parameters"])),
            (_("Multiplications"), thousands(before["multiply_adds"]), thousands(after["multiply_adds"])),
            *(
                (_("Milliseconds for %(n)s pictures") % {"n": n}, decimals(before["milliseconds"][n]), decimals(ms))
                for n, ms in after["milliseconds"].items()
            ),
            (_("Validation accuracy"), percent(before["validation_accuracy"]), percent(after["validation_accuracy"])),
            (_("Test accuracy"), percent(before["test_accuracy"]), percent(after["test_accuracy"])),
        ]
    if run.kind == Run.Kind.FOLD:
        norms = len(result["folded"]) + len(result["multiply_adds"])
        pictures = _("Milliseconds for %(n)s pictures") % {"n": result["images"]}
        return [
            (_("Norms"), str(norms), str(len(result["multiply_adds"]))),
            (pictures, decimals(result["ms_before"]), decimals(result["ms_after"])),
            (_("Weights"), size(result["weight_bytes_before"]), size(result["weight_bytes_after"])),
        ]
    return []
