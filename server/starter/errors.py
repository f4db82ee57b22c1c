"""What keeps a project from being written."""


class StarterError(Exception):
    """The command or the table does not do; the message says what would."""
