"""Requests: overlap and duplicates are detected, and the hash depends on the rows alone."""

from __future__ import annotations

import pytest

import worlds
from expunge.core.errors import UserError
from expunge.core.request import Request, ids_of
from expunge.core.rows import Rows


def rows(name: str, *contents: str) -> Rows:
    return Rows(name, ids_of(list(contents)), {"x": list(contents)})


def test_overlap_is_counted_and_refused_unless_allowed() -> None:
    forget, retain = rows("forget", "a", "b"), rows("retain", "b", "c", "b")
    with pytest.raises(UserError, match=r"2 of 3 rows of 'retain' also stand in 'forget'.*--allow-overlap"):
        Request(forget, retain)
    assert any("allowed" in f for f in Request(forget, retain, overlap=True).findings)


def test_rows_of_both_holdout_and_forget_are_refused() -> None:
    with pytest.raises(UserError, match=r"1 of 1 rows of 'holdout'"):
        Request(rows("forget", "a"), holdout=rows("holdout", "a"))


def test_duplicates_are_reported_and_get_distinct_ids() -> None:
    request = Request(rows("forget", "a", "a", "b"))
    assert request.findings == ("1 of 3 rows of 'forget' repeat another row of it",)
    assert len(set(request.sets["forget"].ids)) == 3


def test_empty_sets_are_refused() -> None:
    with pytest.raises(UserError, match="'forget' is empty"):
        Request(rows("forget"))


def test_the_hash_depends_on_the_sets_their_rows_and_the_order() -> None:
    assert Request(rows("forget", "a", "b")).hash == Request(rows("forget", "a", "b")).hash
    assert Request(rows("forget", "a", "b")).hash != Request(rows("forget", "b", "a")).hash
    assert Request(rows("forget", "a")).hash != Request(retain=rows("retain", "a")).hash


def test_ids_depend_on_the_content_alone(text: worlds.World) -> None:
    records = [{"question": "Who?", "answer": "Me."}]
    forget, retain = text.modality.rows("forget", records), text.modality.rows("retain", records)
    assert forget.ids == retain.ids
