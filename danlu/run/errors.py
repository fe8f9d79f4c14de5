"""The one error that is meant for the user's eyes."""

from pathlib import Path


def first_line(error: Exception) -> str:
    """What a library's error says, short enough for one line of ours."""
    return str(error).strip().split("\n")[0][:200]


class UserError(Exception):
    """A mistake the user can mend. The command line prints it as one line and exits with status 1.

    `what` went wrong, `where` (a file, a table, a key), and how to `mend` it.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, mend: str | None = None) -> None:
        self.what, self.where, self.mend = what, where, mend
        head = f"{where}: {what}" if where is not None else what
        super().__init__(f"{head}. {mend}" if mend else head)
