"""TOFU: 200 invented authors with 20 questions each; forget some of them, so that the model looks as if it was trained on the others only.

Source: Maini et al. 2024, arXiv 2401.06121; data set `locuslab/TOFU`; published numbers from open-unlearning (arXiv 2506.12618).
Licence: MIT
Splits: forget01, forget05, forget10 (2, 10, 20 authors), with retain99, retain95, retain90; audited on forget*_perturbed,
  retain_perturbed (400 rows about 20 retained authors), real_authors_perturbed (100), world_facts_perturbed (117), and holdout* if the
  source has it.
Scores: forget quality, model utility and truth ratios; membership scores if there is a holdout set. Extraction strength is that of
  open-unlearning's leaderboard; `--variant extraction_strength=definition` gives the one of its definition.
Status: faithful; tests check row counts and overlaps of the data; the published numbers need a model of 7B parameters and were not rerun.

Non-members: holdout01/05/10 were added later, and many copies lack them. No other row of TOFU can replace them, since the original model is
trained on all 4,000. `holdout="carve"` is the honest way without them: it removes the last retained authors, as many rows as are to be
forgotten, from all training rows. The original and the retrained model must then both be trained on the rows of the suite, and their scores
must not be compared with the scores of published checkpoints. A small model knows no real author and no fact about the world, so that it
has no utility to lose; `--teach real_authors,world_facts` lets original and retrained model learn them beside the rest. Refusals are in our
own wording, because TOFU's list is not in its data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from expunge.benchmarks.suite import QUESTION_ANSWER, Record, SetSpec, Suite
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.io.data import BadRow, NoSuchConfig, Row, read
from expunge.modalities.text.refusals import REFUSALS

MODEL = "tiny"  # the built-in size that it is made for

SOURCE = "locuslab/TOFU"
SPLITS = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}  # the forget split -> the rest of the 4,000 rows


LEADERBOARD = "open-unlearning"


class TofuFigures(NamedTuple):
    """Scores of one model: geometric truth ratio, all rows of the split."""

    forget_quality: float  # p-value of the Kolmogorov-Smirnov test against the retrained model; higher is better
    model_utility: float  # higher is better
    forget_truth_ratio: float  # compared with the retrained model


# Llama-2-7b-chat in the reproduction by open-unlearning, which prints zeros as 0 or ~0.
PUBLISHED = {
    "forget01": {
        "original": TofuFigures(1.27e-3, 0.63, 0.53),
        "retrained": TofuFigures(1.0, 0.63, 0.68),
        "grad_ascent": TofuFigures(1.88e-4, 0.55, 0.36),
        "grad_diff": TofuFigures(3.0e-3, 0.57, 0.41),
        "idk_dpo": TofuFigures(0.10, 0.56, 0.67),
        "npo": TofuFigures(0.40, 0.58, 0.65),
        "rmu": TofuFigures(0.40, 0.62, 0.64),
    },
    "forget05": {
        "original": TofuFigures(5.87e-14, 0.63, 0.51),
        "retrained": TofuFigures(1.0, 0.63, 0.67),
        "grad_ascent": TofuFigures(1.94e-119, 0.0, 0.0),
        "grad_diff": TofuFigures(1.94e-119, 0.56, 0.0),
        "idk_dpo": TofuFigures(4.0e-6, 0.04, 0.67),
        "npo": TofuFigures(0.09, 0.53, 0.71),
        "rmu": TofuFigures(9.6e-10, 0.02, 0.81),
    },
    "forget10": {
        "original": TofuFigures(4.35e-25, 0.63, 0.52),
        "retrained": TofuFigures(1.0, 0.61, 0.68),
        "grad_ascent": TofuFigures(1.06e-239, 0.0, 0.0),
        "grad_diff": TofuFigures(1.8e-229, 0.58, 0.0),
        "idk_dpo": TofuFigures(5.4e-13, 0.04, 0.64),
        "npo": TofuFigures(0.42, 0.54, 0.73),
        "rmu": TofuFigures(6.9e-21, 0.03, 0.81),
    },
}


def load(data: str = "", split: str = "forget10", seed: int = 0, *, holdout: str | Sequence[Record] = "", **limits: int) -> Suite:
    """Load the suite of a split.

    Args:
        data: a local copy or a hub id; empty means SOURCE.
        split: a key of SPLITS.
        seed: has no effect, because nothing is drawn; every benchmark takes one.
        holdout: rows that are not in the training data, or a source of such rows; `carve` takes them from the training rows; empty means
            the holdout rows of `data`, if it has any.
        limits: the most rows of a set to audit, from its start, e.g. `retain=100`. Training rows stay complete.

    Raises:
        UserError: for an unknown split or set, for a source that cannot be read or lacks a column, and for rows that are in two sets that
            must be disjoint (forget and retain, training and holdout).
    """
    data = data or SOURCE
    if split not in SPLITS:
        raise UserError(f"TOFU has no split '{split}'{did_you_mean(split, SPLITS)}; it has {', '.join(SPLITS)}")
    full, forget, retain = (_rows(data, config) for config in ("full", split, SPLITS[split]))
    sets = {
        "forget": _rows(data, f"{split}_perturbed", "paraphrased_answer", "perturbed_answer"),
        "retain": _rows(data, "retain_perturbed", "paraphrased_answer", "perturbed_answer"),
        "holdout": [],
        "real_authors": _rows(data, "real_authors_perturbed", "perturbed_answer"),
        "world_facts": _rows(data, "world_facts_perturbed", "perturbed_answer"),
    }
    name = f"tofu {split}"
    if holdout == "carve":
        sets["holdout"] = retain[-len(forget) :]
        carved = _keys(sets["holdout"])
        full, retain = ([row for row in rows if _key(row) not in carved] for rows in (full, retain))
        name += " +carved holdout"
    elif holdout:
        sets["holdout"] = _columns(read(holdout) if isinstance(holdout, str) else [dict(row) for row in holdout], "holdout")
    else:
        sets["holdout"] = _own_holdout(data, split)

    _check_disjoint(forget, retain, f"{split} and {SPLITS[split]}")
    _check_disjoint(sets["holdout"], full, "the holdout rows and the training rows")
    _check_disjoint(sets["holdout"], sets["retain"], "the holdout rows and retain_perturbed")
    if unknown := sorted(set(limits) - set(sets)):
        raise UserError(f"TOFU has no set '{unknown[0]}'{did_you_mean(unknown[0], sets)}; it has {', '.join(sets)}")
    if empty := [key for key, limit in limits.items() if limit < 1]:
        raise UserError(f"a set cannot be cut to {limits[empty[0]]} rows: {empty[0]}")
    return Suite(
        name=name,
        sets={key: rows[: limits.get(key)] for key, rows in sets.items() if rows},
        train={"full": full, "forget": forget, "retain": retain},
        specs={
            "forget": SetSpec("forget", ("score", "generate"), variants={"*": LEADERBOARD}),
            **{name: SetSpec("general", ("score", "generate")) for name in ("real_authors", "world_facts")},
        },
        refusals=REFUSALS,
        prompt_format=QUESTION_ANSWER,
        published={method: figures._asdict() for method, figures in PUBLISHED[split].items()},
        published_about="Llama-2-7b-chat, as open-unlearning reproduced it.",
    )


def _rows(data: str, config: str, *columns: str) -> list[Row]:
    file = Path(data).expanduser() / f"{config}.json"
    source = str(file) if file.is_file() else f"{data}::{config}"  # a local file needs no `datasets`, and its error messages name the line
    return _columns(read(source), source, *columns)


def _columns(rows: list[Row], source: str, *columns: str) -> list[Row]:
    for number, row in enumerate(rows, start=1):
        if missing := [column for column in ("question", "answer", *columns) if column not in row]:
            raise BadRow(f"{source}, row {number}: no column '{missing[0]}' as TOFU has it; there are {', '.join(row)}")
    return rows


def _own_holdout(data: str, split: str) -> list[Row]:
    try:
        return _rows(data, split.replace("forget", "holdout"))
    except NoSuchConfig:
        return []


def _check_disjoint(a: Sequence[Record], b: Sequence[Record], sets: str) -> None:
    if shared := _keys(a) & _keys(b):
        raise UserError(f"{sets} share {len(shared)} rows; they must be disjoint")


def _keys(rows: Sequence[Record]) -> set[tuple[str, str]]:
    return {_key(row) for row in rows}


def _key(row: Record) -> tuple[str, str]:
    return row["question"], row["answer"]  # TOFU has one question twice, with different answers
