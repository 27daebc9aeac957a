"""The two ways a command fails, and the exit status each has."""


class DistillError(Exception):
    """A failure that is reported as one line, without a traceback."""

    exit_code = 3


class UserError(DistillError):
    """A mistake in the recipe, the data or the command line: nothing was written.

    Args:
        what: What is wrong, with the value got and, for options, the values allowed.
        where: Dotted key, path or argument that it was found at.
        hint: What to do next.
    """

    exit_code = 2

    def __init__(self, what: str, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(", ".join(part for part in (what, where, hint) if part))


class RunStopped(DistillError):
    """A run that cannot finish as it is (non-finite loss, no space left) and may be resumed."""

    exit_code = 3
