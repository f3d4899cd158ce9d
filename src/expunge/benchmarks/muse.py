"""MUSE: six things that the owner of a text and the operator of a model expect of unlearning, on news articles and on books.

Source: Shi et al. 2024 (ICLR 2025), arXiv 2407.06460; code muse_bench, data sets `muse-bench/MUSE-News` and `muse-bench/MUSE-Books`
Licence: CC BY 4.0, by the tags of the data sets; the package includes none of them. The mini is our own.
Splits: news (889 articles to forget), books (4 books); of news also scal_1 to scal_4 (folds that grow, 889 to 3,554 articles) and sust_1 to
  sust_4 (folds that share nothing). Sets: forget, retain and holdout (100 texts each, for privacy leakage), verbmem (100 passages),
  knowmem_forget and knowmem_retain (100 questions each, after 10 worked examples).
Scores: verbatim and knowledge memorization, privacy leakage, utility; scalability and sustainability are the utility after each fold
  (`expunge.workflows.protocols.over_folds`); the checkpoint to report is chosen by `first_forgotten`
Differs: models are trained on whole documents or windows of them, where muse_bench joins all texts and cuts chunks of 2,048 tokens; the
  variant `open-unlearning` has its definitions
Status: faithful; tests check the layout of the mini, hand values of the scores, the checkpoint rule and the folds; the published tables
  need models of 7B parameters and were not rerun

Methods see retain1 alone, while the retrained model reads retain1 and retain2; the audit asks about retain2. Without data the suite is the
mini: documents about invented firms in the same tables, and rows to practice on. Published numbers are those of the paper's table.
"""

from __future__ import annotations

from typing import NamedTuple

from expunge.benchmarks.common import published
from expunge.benchmarks.common.few_shot import after_examples
from expunge.benchmarks.common.published import TablePlace, Tables, generated
from expunge.benchmarks.suite import QUESTION_ANSWER, SetSpec, Suite
from expunge.benchmarks.synthetic import muse_tables
from expunge.benchmarks.synthetic.archives import Row
from expunge.core.errors import UserError
from expunge.io.data import NoSuchConfig
from expunge.modalities.text.refusals import REFUSALS

MODEL = "micro"  # the built-in size that it is made for

HUB = {"news": "muse-bench/MUSE-News", "books": "muse-bench/MUSE-Books"}
FOLDS = tuple(f"{kind}_{k}" for kind in ("scal", "sust") for k in range(1, muse_tables.FOLDS + 1))
SPLITS = (*HUB, *FOLDS)
PASSAGE, ANSWER = 128, 32  # tokens of a continued passage, and of an answer


class MuseFigures(NamedTuple):
    """Scores of one model: from 0 to 1, privacy leakage in percent."""

    muse_verbatim: float
    muse_knowledge_forget: float
    privleak: float
    muse_knowledge_retain: float


# Of the paper: Llama-2-7B on news, ICLM-7B on books. gdr and klr: with a term on retained text, its loss or a divergence.
PUBLISHED = {
    "news": {
        "original": MuseFigures(0.584, 0.639, -99.8, 0.552),
        "retrained": MuseFigures(0.208, 0.331, 0.0, 0.550),
        "ga": MuseFigures(0.0, 0.0, 5.2, 0.0),
        "ga_gdr": MuseFigures(0.049, 0.310, 108.1, 0.273),
        "ga_klr": MuseFigures(0.274, 0.502, -96.1, 0.448),
        "npo": MuseFigures(0.0, 0.0, 24.4, 0.0),
        "npo_gdr": MuseFigures(0.012, 0.546, 105.8, 0.405),
        "npo_klr": MuseFigures(0.269, 0.490, -95.8, 0.454),
        "task_vector": MuseFigures(0.572, 0.662, -99.8, 0.558),
        "whp": MuseFigures(0.197, 0.212, 109.6, 0.283),
    },
    "books": {
        "original": MuseFigures(0.998, 0.594, -57.5, 0.669),
        "retrained": MuseFigures(0.143, 0.289, 0.0, 0.745),
        "ga": MuseFigures(0.0, 0.0, -25.0, 0.0),
        "ga_gdr": MuseFigures(0.0, 0.0, -26.5, 0.107),
        "ga_klr": MuseFigures(0.160, 0.219, -40.2, 0.372),
        "npo": MuseFigures(0.0, 0.0, -24.3, 0.0),
        "npo_gdr": MuseFigures(0.0, 0.0, -30.8, 0.228),
        "npo_klr": MuseFigures(0.170, 0.250, -43.5, 0.446),
        "task_vector": MuseFigures(0.997, 0.524, -57.5, 0.647),
        "whp": MuseFigures(0.180, 0.557, 56.5, 0.636),
    },
}
ABOUT = "The paper's table, of models with 7B parameters. Its npo has no term on retained text, and ga_gdr is our graddiff."


def load(data: str = "", split: str = "news", seed: int = 0, **limits: int) -> Suite:
    """Load the suite of a split.

    Args:
        data: a folder in the published layout, or a hub id of HUB; empty: the offline mini.
        split: a name of SPLITS; folds are of news.
        seed: of the mini.
        limits: the most rows of a set to audit, from its start, e.g. `verbmem=10`. Training rows stay complete.

    Raises:
        UserError: for an unknown split or set, and for a source that cannot be read or lacks a table or a column.
    """
    published.checked_split(split, SPLITS, "MUSE")
    corpus = split if split in HUB else "news"
    tables = _tables(data, corpus, seed)
    raw = {name: tables(TablePlace("raw", name), "text") for name in ("forget", "retain1", "retain2")}
    forget = fold(tables, split) if split in FOLDS else raw["forget"]
    practice = published.optional(tables, muse_tables.PRACTICE)
    kept = [*practice, *raw["retain1"], *raw["retain2"]]
    sets: dict[str, list[Row]] = {
        "forget": tables(TablePlace.of("privleak/forget"), "text"),
        "retain": _either(tables, ("privleak/retain", "privleak/retain2"), "text"),
        "holdout": tables(TablePlace.of("privleak/holdout"), "text"),
        "verbmem": [{"prompt": r["prompt"], "completion": r["gt"]} for r in tables(TablePlace("verbmem", "forget"), "prompt", "gt")],
        "knowmem_forget": _asked(tables, ("forget_qa",)),
        "knowmem_retain": _asked(tables, ("retain_qa", "retain2_qa")),
    }
    return Suite(
        name=f"muse {split}" + ("" if data else " mini"),
        sets=published.cut(sets, limits, "MUSE"),
        train={"full": [*kept, *forget], "forget": forget, "retain": kept, "kept": raw["retain1"]},
        specs={
            "forget": SetSpec("forget"),
            "retain": SetSpec("retain"),
            "verbmem": SetSpec("forget", ("score", "generate"), length=PASSAGE),
            "knowmem_forget": SetSpec("forget", ("score", "generate"), length=ANSWER),
            "knowmem_retain": SetSpec("retain", ("score", "generate"), length=ANSWER),
        },
        refusals=REFUSALS,
        prompt_format=QUESTION_ANSWER,
        metrics=("muse",),
        published={method: figures._asdict() for method, figures in PUBLISHED[corpus].items()},
        published_about=ABOUT,
    )


def folds(data: str = "", kind: str = "scal", seed: int = 0) -> list[list[Row]]:
    """The rows to forget of each request of a kind: scal (each holds the one before it) or sust (they share nothing).

    Args:
        data, seed: as for `load`.
        kind: scal or sust.

    Raises:
        UserError: for an unknown kind, and for a source that lacks a fold.
    """
    if kind not in ("scal", "sust"):
        raise UserError(f"MUSE has folds of two kinds, scal and sust, and none of the kind {kind!r}")
    tables = _tables(data, "news", seed)
    return [fold(tables, name) for name in FOLDS if name.startswith(kind)]


def fold(tables: Tables, name: str) -> list[Row]:
    """The rows to forget of a fold such as scal_2."""
    kind, k = name.split("_")
    return tables(TablePlace(kind, f"forget_{k}"), "text")


def _tables(data: str, corpus: str, seed: int) -> Tables:
    return published.published(data, "MUSE") if data else generated(muse_tables.tables(corpus, seed))


def _either(tables: Tables, places: tuple[str, ...], *columns: str) -> list[Row]:
    """The rows of the first of these tables that the copy has: the data sets renamed some."""
    for place in places[:-1]:
        try:
            return tables(TablePlace.of(place), *columns)
        except NoSuchConfig:
            continue
    return tables(TablePlace.of(places[-1]), *columns)


def _asked(tables: Tables, splits: tuple[str, ...]) -> list[Row]:
    """Questions after worked examples."""
    columns = ("question", "answer")
    examples = _either(tables, tuple(f"knowmem/{split}_icl" for split in splits), *columns)
    return after_examples(_either(tables, tuple(f"knowmem/{split}" for split in splits), *columns), examples)
