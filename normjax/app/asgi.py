"""The app for a server: ``application``."""

import os
import warnings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "normjax.app.settings")

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application

from normjax.app.body_limit import BodyLimit
from normjax.app.turns import Turns

django_application = get_asgi_application()  # before what needs models
from normjax.app.accounts import carries_login  # noqa: E402

# Files are read in threads, part by part, which Django calls slow; they are few and short.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators", Warning)
application = BodyLimit(
    Turns(django_application, at_once=settings.REQUESTS_AT_ONCE, waiting=settings.REQUESTS_WAITING),
    most=settings.MAX_BODY_BYTES,
    anonymous=settings.MAX_ANONYMOUS_BODY_BYTES,
    knows=sync_to_async(carries_login),
)
