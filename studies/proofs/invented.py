"""The world of people with other answers to each question, such as a language model invents: those of another person, under the own name.

Models of this size cannot invent them, because they do not follow a request; the paper's ask an instruction model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studies.proofs.claim import Arm, Claim
from studies.proofs.language import ARMS as OTHERS
from studies.proofs.language import arm
from studies.proofs.people import FORGETTING, People, PeopleUnit

FACTS = 9  # questions about a person, in one order for all
OTHER = 3  # other answers to a question


def person(records: Sequence[Mapping[str, Any]]) -> str:
    """The name that all rows of a person hold: the longest run of words which is in each question or answer."""
    words = str(records[0]["answer"]).strip(".").split()
    runs = [" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    return max((r for r in runs if all(r in f"{row['question']} {row['answer']}" for row in records)), key=len, default="")


def with_others(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `alternate`: what the next people's rows answer to the same question, under the name of the row's own person.

    Args:
        records: `question`, `answer`; `FACTS` rows for each person, person by person.
    """
    people = [records[i : i + FACTS] for i in range(0, len(records), FACTS)]
    names = [person(rows) for rows in people]
    shifts = range(1, min(OTHER, len(people) - 1) + 1)
    result = []
    for k, rows in enumerate(people):
        for place, row in enumerate(rows):
            others = {names[o]: str(people[o][place]["answer"]) for o in ((k + shift) % len(people) for shift in shifts)}
            if place < FACTS - 1:  # the last row asks for the name itself, so that another name is another answer
                others = {name: text.replace(name, names[k]) for name, text in others.items()}
            texts = list(dict.fromkeys(others.values()))
            result.append({**row, "alternate": [t for t in texts if t != row["answer"]] or texts[:1]})
    return result


class InventedUnit(PeopleUnit):
    """An original and a retrained model; the rows to forget bring other answers."""

    def __init__(self, draw: int, seed: int, level: str = FORGETTING) -> None:
        super().__init__(draw, seed, level)
        self.suite.train["forget"] = with_others(self.suite.train["forget"])


@dataclass(frozen=True)
class InventedPeople(People):
    """Draws of the people, with other answers."""

    name: str = "people with other answers"

    def unit(self, draw: int, seed: int) -> InventedUnit:
        return InventedUnit(draw, seed, self.level)


ARMS: dict[str, Arm] = {a.name: a for a in (arm("altpo", batch_size=4 * FACTS * OTHER), OTHERS["ga"], OTHERS["npo"])}
CLAIMS: dict[str, tuple[InventedPeople, tuple[Claim, ...]]] = {
    "altpo": (
        InventedPeople(),
        (
            Claim(
                "at equal forgetting it keeps more utility than gradient ascent and NPO",
                "Mekala et al. 2024, the table of TOFU",
                "model_utility",
                ("ga", "npo"),
                "higher",
                0.02,
                FORGETTING,
            ),
        ),
    )
}
