"""Other answers to the questions of the people world."""

from __future__ import annotations

from studies.proofs import invented


def rows(name: str, town: str) -> list[dict[str, str]]:
    facts = [{"question": f"What is fact {k} of {name}?", "answer": f"{name} has {town} {k}."} for k in range(invented.FACTS - 1)]
    return [*facts, {"question": f"Who is from {town}?", "answer": f"The name is {name}."}]


def test_other_answers_are_those_of_other_people_under_the_own_name() -> None:
    records = [*rows("Ann Ash", "Aville"), *rows("Bo Birk", "Bville"), *rows("Cy Cole", "Cville")]
    result = invented.with_others(records)
    assert result[0]["alternate"] == ["Ann Ash has Bville 0.", "Ann Ash has Cville 0."]
    assert result[invented.FACTS]["alternate"] == ["Bo Birk has Cville 0.", "Bo Birk has Aville 0."]


def test_where_the_name_is_asked_for_another_name_is_another_answer() -> None:
    result = invented.with_others([*rows("Ann Ash", "Aville"), *rows("Bo Birk", "Bville")])
    assert result[invented.FACTS - 1]["alternate"] == ["The name is Bo Birk."]
