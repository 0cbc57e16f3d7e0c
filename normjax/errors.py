"""The one kind of error whose message is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can mend: a bad option, missing data, a busy run directory.

    The command line prints the message alone, as one line, and exits with 2; names, values and what
    is allowed stand in it.
    """
