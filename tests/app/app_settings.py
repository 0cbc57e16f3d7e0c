"""The settings of the app, with a home that lasts as long as the tests."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from normjax.app.home import VARIABLE, Home

_folder = tempfile.mkdtemp(prefix="normjax-app-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
os.environ[VARIABLE] = _folder
Home(Path(_folder)).make()

from normjax.app.settings import *  # noqa: E402, F403

DATA_DIR = None
# The logs of other tests stay as they are; what the app's formatter does has a test.
LOGGING = {"version": 1, "disable_existing_loggers": False, "loggers": {"normjax.app": {"level": "INFO"}}}
