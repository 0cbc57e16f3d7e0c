"""What is thrown away in time: old pictures, dead links, sessions that are over."""

from datetime import timedelta

from django.contrib.sessions.backends.db import SessionStore
from django.utils import timezone

from normjax.app.models import OneTimeLink, Picture

PICTURE_LIFE = timedelta(days=7)


def tidy_up() -> None:
    """Removes what nobody needs any more."""
    for picture in Picture.objects.filter(created__lt=timezone.now() - PICTURE_LIFE):
        remove_picture(picture)
    OneTimeLink.objects.filter(expires__lt=timezone.now()).delete()
    SessionStore.clear_expired()


def remove_picture(picture: Picture) -> None:
    """The file first: a row without a file is shown and can be removed again, a file without a row is lost."""
    picture.file.unlink(missing_ok=True)
    picture.delete()
