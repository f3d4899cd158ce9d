"""Errors: the user can fix the input, a part broke its declaration, or the user interrupted the run."""


class UserError(ValueError):
    """An error that the user can fix. The message is a clear sentence, shown without a traceback."""


class UndeclaredNeed(AttributeError):
    """A part used something that it did not declare in `reads`, `requires`, `needs` or `hook_points`."""


class Interrupted(KeyboardInterrupt):
    """The user interrupted the run. The run folder holds a checkpoint from which `--resume` continues."""
