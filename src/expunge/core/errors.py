"""The two ways in which things go wrong: the user can mend it, or a part broke its promise."""


class UserError(ValueError):
    """Something that the user can mend; the message is a clear sentence, shown without a traceback."""


class UndeclaredNeed(AttributeError):
    """A part touched something that it did not declare in `reads`, `needs` or `hook points`."""


class Interrupted(KeyboardInterrupt):
    """The user asked to stop; the run folder holds a checkpoint from which `--resume` goes on."""
