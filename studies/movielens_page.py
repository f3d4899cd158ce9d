"""The tables of `docs/recommenders.md` on MovieLens-small, generated from `results/movielens/`. This module measures nothing."""

from __future__ import annotations

from pathlib import Path

from studies.seed_pages import counted, records_of, renewed, score_table

RESULTS = "results/movielens"
PAGE = "recommenders.md"
COLUMNS = {  # score -> head
    "forget_recall": "forgotten, recall",
    "retain_recall": "kept, recall",
    "test_recall": "unseen, recall",
    "test_ndcg": "unseen, NDCG",
    "recommendation_gap": "distance",
    "cost": "cost",
}


def pages(root: Path) -> dict[str, str]:
    """The page with its tables renewed; nothing where it has no place for them. root: the checkout."""
    return renewed(root, PAGE, RESULTS, section)


def section(folder: Path) -> list[str]:
    """The table and what was measured. folder: with a file for each seed."""
    records = records_of(folder)
    if not records:
        return ["Not measured yet: `python -m studies.movielens --data ML-LATEST-SMALL`."]
    about, seeds = records[0], counted(records)
    return [
        f"MovieLens-small, `{about['split']}`, {about['model']}, {seeds}: means, and the smallest and largest value. Recall "
        "and NDCG at 20; the distance is the mean of those of the three recalls from the retrained model's; the cost is the share of "
        "retraining's, in pairs that are scored, those of backward passes twice.",
        "",
        *score_table(records, COLUMNS, form=".3f"),
        "",
        f"`{about['command']}` measures this again and writes [results/movielens](../{RESULTS}/settings.json), with the settings, which "
        "were chosen on a seed of their own.",
    ]
