"""The app for a server: ``application``."""

import os
import warnings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "normjax.app.settings")

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application

from normjax.app.body_limit import BodyLimit, carries_login
from normjax.app.turns import Turns

# Files are read in threads, part by part, which Django calls slow; they are few and short.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators", Warning)
application = BodyLimit(
    Turns(get_asgi_application(), at_once=settings.REQUESTS_AT_ONCE, waiting=settings.REQUESTS_WAITING),
    most=settings.MAX_BODY_BYTES,
    anonymous=settings.MAX_ANONYMOUS_BODY_BYTES,
    knows=sync_to_async(carries_login),
)
