"""The world of stories that were read a few times: a model is fine-tuned on them, and held against the model before, story by story.

In a story most words follow from the one before, or hardly any do, so that losses differ between stories more than training changes
them. The score of an attack is the area under its curve, of the stories of the fine-tuning against unseen ones.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from expunge.evaluation.measure import Evidence
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.observe import observe
from expunge.evaluation.scoring import audit_scores
from expunge.io.models import Opened
from expunge.workflows.train import train
from expunge.workflows.unlearn import unlearn
from studies.proofs.claim import Arm, Claim, Scores
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SIZE = "nano"
STORIES, UNSEEN, OTHERS, LENGTH, EPOCHS = 120, 120, 240, 16, 8
TUNED = {"epochs": 2, "lr": 1e-3, "batch_size": 8}
PIECES = 5  # stories of a document
WANTS = ObservationSpec(gradient_norms=False, features=False)
AUC = "auc"
SINGLES = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus", "mia_reference")


class MembersUnit:
    """Stories of a draw; a model that read some of them, and the same model, fine-tuned on others."""

    def __init__(self, draw: int, seed: int) -> None:
        self.texts, self.seed = written(random.Random(f"members {draw}"), STORIES + OTHERS + UNSEEN), seed
        rows = [{"text": text, "document": f"document {i // PIECES}"} for i, text in enumerate(self.texts)]
        self.sets = {"forget": rows[:STORIES], "holdout": rows[-UNSEEN:]}
        self.kept = rows[STORIES:-UNSEEN]

    @cached_property
    def scores(self) -> Scores:
        """The areas of all attacks."""
        before, members = ([{"text": r["text"]} for r in rows] for rows in (self.kept, self.sets["forget"]))
        result = train(before, SIZE, texts=self.texts, seed=self.seed, epochs=EPOCHS)
        reference = observe(result.model, result.modality, self.sets, wants=WANTS)
        opened = Opened(result.model, result.modality, "stories")
        tuned = unlearn("finetune", opened, retain=members, seed=self.seed, **TUNED)
        records, _ = audit_scores(Evidence(observe(tuned.model, tuned.modality, self.sets, wants=WANTS), reference), resamples=20)
        return {name: float(r["value"]) for name, r in records.items() if r["kind"] == "membership"}

    @property
    def original(self) -> Scores:
        """The best of the attacks on single stories that need no other model, and its area."""
        return {AUC: max(self.scores[n] for n in SINGLES[:-1])}

    @property
    def retrained(self) -> Scores:
        return {AUC: 0.5}

    @property
    def random(self) -> Scores:
        return {AUC: 0.5}

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The area of the attack of the arm."""
        return [{AUC: self.scores[str(settings["score"])]}]


def written(rng: random.Random, count: int) -> list[str]:
    """Stories of words of which each has one that follows it; in every story another share of the words is drawn at will instead."""
    lexicon = sorted({"".join(rng.choices("bdgklmnprstv", k=1) + rng.choices("aeiou", k=1)) * 2 for _ in range(400)})
    follows = dict(zip(lexicon, rng.sample(lexicon, len(lexicon)), strict=True))
    stories = dict[str, None]()  # each once
    while len(stories) < count:
        word, share, story = rng.choice(lexicon), rng.random(), list[str]()
        for _ in range(LENGTH):
            word = rng.choice(lexicon) if rng.random() < share else follows[word]
            story.append(word)
        stories[" ".join(story)] = None
    return list(stories)


@dataclass(frozen=True)
class Members:
    """Draws of stories."""

    name: str = "stories that were read"
    model: str = SIZE

    def unit(self, draw: int, seed: int) -> MembersUnit:
        return MembersUnit(draw, seed)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """Rivals must tell something, and leave something to be told."""
        values = [fmean(v) for name, v in rivals.items() if name not in ("retrained", "original")]
        gates = [Gate("no rival tells all stories apart", max(values), max(values) <= 0.97)] if values else []
        known = fmean(u.scores["mia_reference"] for u in units)
        return [*gates, Gate("a model that did not read the stories helps to tell them: an area of at least 0.6", known, known >= 0.6)]


NAMES = {"mia": "mia_reference", "ez_mia": "ez_mia", "wbc": "wbc", "dataset_inference": "document_mia", **{n: n for n in SINGLES}}
ARMS: dict[str, Arm] = {name: Arm(name, name, {"score": score}) for name, score in NAMES.items()}
WORLD = Members()
CLAIMS: dict[str, tuple[Members, tuple[Claim, ...]]] = {
    "mia": (
        WORLD,
        (
            Claim(
                "the loss beside a reference model tells members better than the loss, its share of zlib bytes and Min-K% alone",
                "Carlini et al. 2021, the table of memorized samples by perplexity alone, zlib and smaller models",
                AUC,
                ("mia_loss", "mia_zlib", "mia_min_k"),
                "higher",
                0.02,
            ),
        ),
    ),
    "ez_mia": (
        WORLD,
        (
            Claim(
                "tokens that the model gets wrong tell members better than the loss, Min-K%++ and the loss beside a reference model",
                "Ilic et al. 2026, the tables of fine-tuned language models beside earlier attacks",
                AUC,
                ("mia_loss", "mia_min_k_plus_plus", "mia_reference"),
                "higher",
                0.02,
            ),
        ),
    ),
    "wbc": (
        WORLD,
        (
            Claim(
                "votes of windows tell members better than the loss, Min-K%++ and the loss beside a reference model",
                "Chen et al. 2026, the table of eleven data sets beside earlier attacks",
                AUC,
                ("mia_loss", "mia_min_k_plus_plus", "mia_reference"),
                "higher",
                0.02,
            ),
        ),
    ),
    "dataset_inference": (
        WORLD,
        (
            Claim(
                "documents are told from unseen ones by their pieces together, better than single pieces by any score",
                "Puerto et al. 2025, areas that rise from sentences to documents; Maini et al. 2024",
                AUC,
                ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus"),
                "higher",
                0.02,
            ),
        ),
    ),
}
