"""``normjax app``: prepares the home, tells how to become the first administrator, and serves."""

import os
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from normjax.app.home import VARIABLE, Home, default_home
from normjax.errors import UserError


def serve(
    path: Path | None = None, *, host: str = "127.0.0.1", port: int = 8000, origin: str = "", jobs: int = 1
) -> None:
    """Serves the app until the process is asked to end. Trainings go on without it.

    Args:
      path: home of the app; None is a directory of the user's own.
      host: address to listen on.
      port: to listen on.
      origin: as browsers name it, where a proxy with TLS stands before it.
      jobs: trainings at a time.

    Raises:
      UserError: the home cannot be used, or an option is out of range.
    """
    if not 1 <= port <= 65535:
        raise UserError(f"port={port}: use 1 to 65535.")
    if jobs < 1:
        raise UserError(f"jobs={jobs}: use 1 or more.")
    named = urlsplit(origin)
    if origin and (named.scheme != "https" or not named.hostname or named.path or named.query or named.fragment):
        raise UserError(f"origin={origin!r}: use https:// and the host as browsers name it, as https://lab.example.")
    if host not in ("127.0.0.1", "localhost", "::1") and not origin:
        raise UserError(
            f"host={host!r} can be reached from other machines, and passwords would cross the network in the clear; "
            "put a proxy with TLS before the app and name it by --origin https://..."
        )
    try:
        import django
        import uvicorn

        for name in ("allauth", "argon2", "csp", "ninja", "psutil", "qrcode", "whitenoise"):
            if find_spec(name) is None:
                raise ModuleNotFoundError(name=name)
    except ModuleNotFoundError as error:
        raise UserError(f"app needs the package {error.name}; install with pip install -e '.[app]'.") from error
    os.umask(0o077)  # what the app and its trainings write is its owner's alone
    home = Home((path or default_home()).resolve())
    home.make()
    os.environ.update({VARIABLE: str(home.path), "NORMJAX_APP_ORIGIN": origin, "NORMJAX_APP_JOBS": str(jobs)})
    os.environ["DJANGO_SETTINGS_MODULE"] = "normjax.app.settings"

    from django.core.management import call_command

    django.setup()
    call_command("migrate", interactive=False, verbosity=0)

    from normjax.app.asgi import application
    from normjax.app.jobs.supervisor import Supervisor
    from normjax.app.recognition.client import recogniser

    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"host={host} port={port} cannot be listened on: {error.strerror}.") from error
    address = origin or f"http://{host if ':' not in host else f'[{host}]'}:{port}"
    announce_first_administrator(address)
    supervisor = Supervisor()
    supervisor.start()
    # uvicorn ends in order, then raises the signal again, which must not keep us from doing the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        application,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        # allauth reads the address of the client behind the one proxy that --origin speaks of; nobody else may say.
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    print(f"normjax serves {address} from {home.path}; Ctrl-C ends it, trainings go on.", flush=True)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        supervisor.stop()
        recogniser().close()
        listening.close()


def announce_first_administrator(address: str) -> None:
    """Prints a link that makes an administrator, as long as there is no user at all."""
    from django.urls import reverse

    from normjax.app.models import OneTimeLink, User

    if User.objects.exists():
        return
    OneTimeLink.objects.filter(for_administrator=True).delete()  # those of earlier starts
    secret = OneTimeLink.make(OneTimeLink.Purpose.INVITATION, for_administrator=True)
    print(f"There is no user yet. Become the administrator: {address}{reverse('join', args=[secret])}", flush=True)
