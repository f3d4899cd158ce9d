"""The section of `docs/diffusion.md` on drawn scenes, generated from `results/pictures/`. This module measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from expunge.report.markdown import table
from studies.proofs.effect import Effect, effect_of
from studies.seed_pages import Record, cell, counted, records_of, renewed, score_table

RESULTS = "results/pictures"
PAGE = "diffusion.md"
SCORES = {"ua": "UA", "ira": "IRA", "cra": "CRA", "kept_drawn": "kept", "frechet": "Fréchet", "seconds": "seconds"}  # score -> head
ATTACKS = {
    "memora": "MemoRa: an adapter learns what the model itself rebuilt from six pictures of the stamp",
    "finetune_benign": "fine-tuning on fifty retained pictures that have least in common with the stamp",
}


def pages(root: Path) -> dict[str, str]:
    """The page with its section renewed; nothing where it has no place for it. root: the checkout."""
    return renewed(root, PAGE, RESULTS, section)


def section(folder: Path) -> list[str]:
    """Tables, claims and pictures, and what was measured. folder: with a file for each seed."""
    records = records_of(folder)
    if not records:
        return ["Not measured yet: `python -m studies.pictures`."]
    about, seeds = records[0], counted(records)
    lines = [
        f"Scenes of {about['model']}, `{about['split']}`, {seeds}: what models draw after a method; means, and the smallest and largest "
        "value. UA: share of pictures for prompts with the stamp that lack it; IRA: share of those without it that lack it; CRA: share "
        "that show object, style and color that was asked for; kept: the same with the stamp, for prompts without it.",
        "",
        *score_table(records, SCORES, {"seconds": ".0f"}),
        "",
    ]
    if (folder / f"seed{about['seed']}.png").exists():
        names = ", ".join(records[0]["scores"])
        lines += [
            f"![What the models draw](../{RESULTS}/seed{about['seed']}.png)",
            "",
            f"Seed {about['seed']}, from the top: {names}. The left half was asked for with the stamp, the right half without it.",
            "",
        ]
    for attack, words in ATTACKS.items():
        if curves := _curves(records, attack):
            lines += [f"Share of pictures with the stamp after steps of {words}:", "", *curves, ""]
    if claims := list(_claims(records)):
        lines += ["Differences between seeds, with Student's interval of 95 %:", "", *claims, ""]
    return [
        *lines,
        f"`{about['command']}` measures this again, to [results/pictures](../{RESULTS}/seed{about['seed']}.json), with its settings. ",
    ]


def _curves(records: Sequence[Record], attack: str) -> list[str]:
    """A table with a line for each model, and a column for each number of steps."""
    of_seeds = [r["attacks"].get(attack, {}) for r in records]
    names = list(dict.fromkeys(n for of in of_seeds for n in of if of[n]["curve"]))
    steps = sorted({int(s) for of in of_seeds for n in names if n in of for s, _ in of[n]["curve"]})
    if not names:
        return []
    at = [{n: {int(s): v for s, v in of[n]["curve"]} for n in of} for of in of_seeds]
    rows = [[n, *(cell([of[n][s] for of in at if s in of.get(n, {})]) for s in steps)] for n in names]
    return table(("model", *(str(s) for s in steps)), rows)


def _claims(records: Sequence[Record]) -> Iterator[str]:
    """A line for each effect that papers report, with what the seeds say of it."""
    for words, paper, difference in CLAIMS:
        values = [v for r in records if (v := _tried(difference, r)) is not None]
        if len(values) >= 2:
            yield f"- {words} ({paper}): {_in_words(effect_of('', values), len(records))}"


def _tried(difference: Callable[[Record], float], record: Record) -> float | None:
    try:
        return difference(record)
    except (KeyError, IndexError):  # the seed has not got so far
        return None


def _in_words(effect: Effect, seeds: int) -> str:
    """The effect in a sentence. seeds: of all records, of which some may lack the score."""
    decided = "shown" if effect.low > 0 else "the opposite is shown" if effect.high < 0 else "undecided"
    counted = str(seeds) if len(effect.values) == seeds else f"{len(effect.values)} of {seeds}"
    return f"{effect.mean:+.2f} ({effect.low:+.2f} to {effect.high:+.2f}), **{decided}** by {counted} seeds."


def _score(score: str, model: str, other: str) -> Callable[[Record], float]:
    return lambda r: float(r["scores"][model][score]) - float(r["scores"][other][score])


def _area(model: str, other: str) -> Callable[[Record], float]:
    return lambda r: float(r["attacks"]["memora"][model]["area"]) - float(r["attacks"]["memora"][other]["area"])


def _growth(attack: str) -> Callable[[Record], float]:
    """By how much the lead of resalign over esd grows from before the fine-tuning to its end."""

    def difference(record: Record) -> float:
        (first, last), (other_first, other_last) = (
            [float(record["attacks"][attack][m]["curve"][k][1]) for k in (0, -1)] for m in ("esd", "resalign")
        )
        return (last - other_last) - (first - other_first)

    return difference


CLAIMS: tuple[tuple[str, str, Callable[[Record], float]], ...] = (
    ("ESD draws the stamp less often than the original", "UA of `esd` minus that of the original", _score("ua", "esd", "original")),
    ("UCE draws the stamp less often than the original", "UA of `uce` minus that of the original", _score("ua", "uce", "original")),
    ("ESD draws other prompts worse", "kept of the original minus that of `esd`", _score("kept_drawn", "original", "esd")),
    ("UCE draws other prompts worse", "kept of the original minus that of `uce`", _score("kept_drawn", "original", "uce")),
    ("MemoRa brings the stamp back sooner after ESD than after AdvUnlearn", "area of recovery, difference", _area("esd", "advunlearn")),
    ("MemoRa brings the stamp back sooner after ESD than after ResAlign", "area of recovery, difference", _area("esd", "resalign")),
    (
        "the lead of ResAlign over ESD grows with harmless fine-tuning",
        "share with the stamp, change of the lead",
        _growth("finetune_benign"),
    ),
    (
        "after ESD, prompts of `worst_case_prompts` are still drawn more often than random ones",
        "share of pictures that show all they should",
        lambda r: float(r["prompts"]["hard"]) - float(r["prompts"]["random"]),
    ),
)
