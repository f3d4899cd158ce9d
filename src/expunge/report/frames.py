"""Results as data frames of pandas, which is optional."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from expunge.core.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame


def frame(records: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> DataFrame:
    """A frame of plain records.

    Args:
        records: one a row; what a record lacks is missing in its row.
        columns: names of the columns, in order.

    Raises:
        UserError: where pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError:
        raise UserError("to_pandas needs the package pandas, which is not installed: pip install 'expunge[pandas]'") from None
    return pandas.DataFrame([dict(record) for record in records], columns=list(columns))


def bounds(interval: Sequence[float | None] | None) -> dict[str, float | None]:
    """The ends of an interval as columns `low` and `high`."""
    low, high = interval or (None, None)
    return {"low": low, "high": high}
