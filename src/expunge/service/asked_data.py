"""A file of rows in which requests are made for one person at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from expunge.functional.brief import brief
from expunge.io.requested import ColumnMap


@brief("name", "column")
@dataclass(frozen=True)
class AskedData:
    """A file of rows out of which those of one person may be asked for.

    Args:
        path: of the file.
        column: that names the person, such as customer_id. No other is compared: who may pick rows by what they hold could read them so.
        map: columns by the names that the modality reads.
    """

    path: str
    column: str
    map: ColumnMap = ()

    @property
    def name(self) -> str:
        return Path(self.path).name
