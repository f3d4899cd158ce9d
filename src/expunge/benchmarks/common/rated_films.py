"""Ratings of films from a folder of MovieLens, in the files of ml-1m (.dat) or of ml-latest-small (.csv)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from expunge.core.errors import UserError
from expunge.functional.brief import brief

JOBS = (  # of ml-1m, by number
    "other",
    "academic or educator",
    "artist",
    "clerical or administrative worker",
    "college or graduate student",
    "customer service worker",
    "doctor or health care worker",
    "executive or manager",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired person",
    "sales or marketing worker",
    "scientist",
    "self-employed person",
    "technician or engineer",
    "tradesman or craftsman",
    "unemployed person",
    "writer",
)
AGES = {"1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49", "50": "50-55", "56": "56 or older"}


class Rating(NamedTuple):
    """A rating of a film by a user."""

    time: int
    user: int
    film: int
    stars: float


class Rater(NamedTuple):
    """What is known of a user, in words."""

    gender: str  # male, female
    job: str
    age: str


@brief("ratings")
@dataclass(frozen=True)
class Films:
    """Ratings in order of time, user and film, titles by film, and people by user (empty where the files have none)."""

    ratings: list[Rating] = field(repr=False)
    titles: Mapping[int, str] = field(repr=False)
    people: Mapping[int, Rater] = field(repr=False)


def read(folder: Path) -> Films:
    """Read a folder.

    Raises:
        UserError: for a folder without the files, and for a damaged one, by file and line.
    """
    ending = next((e for e in (".dat", ".csv") if (folder / f"ratings{e}").is_file()), "")
    if not ending:
        raise UserError(f"{folder} has neither ratings.dat (of ml-1m) nor ratings.csv (of ml-latest-small)")
    ratings = []
    for place, (user, film, stars, time) in _lines(folder / f"ratings{ending}", 4):
        try:
            ratings.append(Rating(int(float(time)), int(user), int(film), float(stars)))
        except ValueError:
            raise UserError(f"{place}: user, film, rating and time are numbers, and here one is not") from None
    titles = {int(film): title for _, (film, title, *_) in _lines(folder / f"movies{ending}", 3)}
    if without := {r.film for r in ratings} - titles.keys():
        raise UserError(f"{folder / f'movies{ending}'} lacks {len(without)} films that are rated, among them {min(without)}")
    people = {}
    if (folder / f"users{ending}").is_file():
        for place, (user, gender, age, job, *_) in _lines(folder / f"users{ending}", 5):
            if gender not in ("M", "F") or age not in AGES or not (job.isdecimal() and int(job) < len(JOBS)):
                raise UserError(f"{place}: a user has a gender (M, F), an age ({', '.join(AGES)}) and a job (0 to {len(JOBS) - 1})")
            people[int(user)] = Rater({"M": "male", "F": "female"}[gender], JOBS[int(job)], AGES[age])
        if missing := {r.user for r in ratings} - people.keys():
            raise UserError(f"{folder / f'users{ending}'} lacks {len(missing)} users who rated, among them {min(missing)}")
    return Films(sorted(ratings), titles, people)


def _lines(file: Path, cells: int) -> list[tuple[str, list[str]]]:
    """The lines of a file, each with its place, without a header. Raises: UserError."""
    dat = file.suffix == ".dat"
    try:
        text = file.read_text(encoding="latin-1" if dat else "utf-8-sig")
        rows = [line.split("::") for line in text.splitlines()] if dat else list(csv.reader(text.splitlines(), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    first = int(bool(rows) and not rows[0][0].isdecimal())
    for number, row in enumerate(rows, 1):
        if len(row) != cells:
            raise UserError(f"{file}, line {number}: {len(row)} cells, and there are {cells}")
    return [(f"{file}, line {number}", row) for number, row in enumerate(rows[first:], first + 1)]
