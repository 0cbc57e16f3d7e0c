"""What the library says about several settings at once, in the language of the page.

The library speaks English and knows nothing of pages: what it said is known again by its words, and said in others.
"""

import re

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

_PLACE = re.compile(r"%\((\w+)\)s")


def _pattern(words: str) -> re.Pattern[str]:
    """What finds a text with anything in its places."""
    parts = _PLACE.split(words)  # text, name, text, name, ...
    return re.compile("".join(f"(?P<{part}>.*)" if n % 2 else re.escape(part) for n, part in enumerate(parts)))


RULES = {
    words: _pattern(words)
    for words in (
        gettext_noop("sync_devices=%(devices)s has no meaning with name=%(name)s, which shares nothing"),
        gettext_noop(
            "initialize_from=%(data)s sets scales, and there are none with name=%(name)s, use_scale=%(use_scale)s"
        ),
        gettext_noop("refresh=%(refresh)s is out of range; use 1 or more, or once"),
        gettext_noop("milestones must ascend"),
        gettext_noop("micro_batches=%(parts)s does not divide batch_size=%(size)s"),
        gettext_noop("reference is for norm.name=reference_batch_norm, and norm.name=%(name)s"),
        gettext_noop(
            "weight_norm.initialize_from goes with norms that need no reference batch, and norm.name=%(name)s"
        ),
        gettext_noop(
            "model.weights=%(weights)s and weight_norm.initialize_from=%(data)s both set where the network starts; "
            "give one of them"
        ),
        gettext_noop(
            "model.kept is of a network with plain kernels, and weight_norm.name=%(name)s, proximal.penalty=%(penalty)s"
        ),
        gettext_noop("proximal needs a penalty, for example exclusive_sparsity"),
        gettext_noop(
            "proximal.strength=%(strength)s is the share of zeros with penalty=magnitude; say which, less than 1, for "
            "example 0.8"
        ),
        gettext_noop("proximal.axis has no meaning with penalty=%(penalty)s, which has no groups"),
        gettext_noop("proximal.rule is of exclusive sparsity, and penalty=%(penalty)s"),
        gettext_noop(
            "proximal.penalty=%(penalty)s makes zeros in stored kernels, of which weight_norm.name=%(name)s makes "
            "others; use weight_norm.name=none, or weight_norm.name=structural with measure=sparsity instead of "
            "proximal"
        ),
        gettext_noop(
            "proximal.penalty=%(penalty)s makes exact zeros, which averaged weights have not; leave ema_decay out"
        ),
        gettext_noop("schedule.warmup_epochs=%(warmup)s must be less than epochs=%(epochs)s"),
        gettext_noop("drift_steps is for a drift, and drift=0"),
        gettext_noop("%(field)s is for stream.name=%(wanted)s, and stream.name=%(name)s"),
        gettext_noop("weight norm %(name)s has no option %(option)s; use one of: %(known)s."),
        gettext_noop("norm %(name)s has no option %(option)s; use one of %(known)s."),
        gettext_noop("%(what)s: %(option)s=%(value)s is not True or False."),
        gettext_noop("%(what)s: %(option)s=%(value)s is not a number."),
        gettext_noop("%(what)s: %(option)s=%(value)s is not text."),
    )
}


def translated(said: str) -> str:
    """The rule in the language of the page; what is no rule of these as it was said."""
    for words, pattern in RULES.items():
        if found := pattern.fullmatch(said):
            return _(words) % found.groupdict()
    return said
