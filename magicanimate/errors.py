"""The errors a user can cause and mend, and the one that says the user pressed stop."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence that names the file or value, what is wrong with it and what to do.
    The command line and the app show it as it is, without a traceback.
    """


class Cancelled(Exception):
    """The caller's ``should_stop()`` returned true; nothing half-written is left behind."""
