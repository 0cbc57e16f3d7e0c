"""The directory that holds all that the app remembers."""

import os
import secrets
from pathlib import Path

from normjax.errors import UserError

VARIABLE = "NORMJAX_APP_HOME"  # tells Django's settings, and the processes of the app, which directory it is


class Home:
    """Paths of the app.

    Args:
      path: the directory; it need not exist yet.
    """

    def __init__(self, path: Path):
        self.path = path
        self.database = path / "app.sqlite3"
        self.secret_key_file = path / "secret.key"
        self.supervisor_lock = path / "supervisor.lock"
        self.recognition_log = path / "recognition.log"
        self.runs = path / "runs"
        self.data_sets = path / "data_sets"
        self.pictures = path / "pictures"

    def make(self) -> None:
        """Makes what is missing, readable by its owner alone.

        Raises:
          UserError: it cannot be written to.
        """
        try:
            for folder in (self.path, self.runs, self.data_sets, self.pictures):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Two servers that start at once must agree on a key: the first one makes the file.
            try:
                descriptor = os.open(self.secret_key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                return
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(64))
        except OSError as error:
            raise UserError(f"home {self.path} cannot be written to: {error.strerror}.") from error

    def secret_key(self) -> str:
        """The key that sessions and forms are signed with.

        Raises:
          UserError: it is not there.
        """
        try:
            key = self.secret_key_file.read_text().strip()
        except OSError as error:
            raise UserError(f"{self.secret_key_file} cannot be read: {error.strerror}.") from error
        if len(key) < 50:
            raise UserError(f"{self.secret_key_file} holds {len(key)} characters; remove it, and a new key is made.")
        return key


def default_home() -> Path:
    """A directory of the user's own, where the system keeps such data."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "normjax"


def home() -> Home:
    """The home of this process, as ``NORMJAX_APP_HOME`` names it."""
    return Home(Path(os.environ.get(VARIABLE) or default_home()))
