"""What is thrown away in time: old pictures, dead links, sessions that are over."""

import shutil
from contextlib import suppress
from datetime import timedelta

from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore
from django.utils import timezone

from normjax.app.models import OneTimeLink, Picture

PICTURE_LIFE = timedelta(days=7)
_LEFT_OVER = timedelta(hours=1)  # a request that still works with its pictures is over by then


def tidy_up() -> None:
    """Removes what nobody needs any more."""
    for picture in Picture.objects.filter(created__lt=timezone.now() - PICTURE_LIFE):
        remove_picture(picture)
    _remove_left_over()
    OneTimeLink.objects.filter(expires__lt=timezone.now()).delete()
    SessionStore.clear_expired()


def _remove_left_over() -> None:
    """Files and folders of nobody, which a killed server leaves behind."""
    before = (timezone.now() - _LEFT_OVER).timestamp()
    owned = {picture.file for picture in Picture.objects.all()}
    for entry in set(settings.HOME.pictures.iterdir()) - owned:
        with suppress(FileNotFoundError):  # the request that it is of has just ended
            if entry.stat().st_mtime > before:
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def remove_picture(picture: Picture) -> None:
    """The file first: a row without a file is shown and can be removed again, a file without a row is lost."""
    picture.file.unlink(missing_ok=True)
    picture.delete()
