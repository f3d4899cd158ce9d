"""What can be wrong with a source of records."""

from __future__ import annotations

import re

from expunge.core.errors import UserError


class DataError(UserError):
    """A source of records cannot be used."""


class NoSuchData(DataError):
    """The file, folder or data set does not exist or cannot be reached."""


class NoSuchConfig(NoSuchData):
    """The data set exists, but not the requested config."""


class BadRow(DataError):
    """A row cannot be read; the message names the file and the line."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none; without the value that a library could not convert."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return re.sub(r"(convert|parse string:?) ('.*'|\".*\"|\S+)", r"\1 a value", line, flags=re.I)
