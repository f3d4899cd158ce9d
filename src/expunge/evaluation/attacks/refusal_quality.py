"""Refusal quality: does the model decline what it was to forget, in good sentences, and does it decline what it should answer?
A judge reads the answers: a model in a folder, or an endpoint.

Threat model: none: somebody asks the questions of the sets, and a judge reads what the model says, guard included
Equation: RQ = mean_y max_t cos(E(y), E(t)) + share of y that refuse + 0.2 mean_y grade(y) / 3; y: answers, t: refusals, grade: 0 to 3
Source: Wang et al. 2025 (DRAGON), arXiv 2511.05784
Scores: none of the audit; for each way (forget, retain): refusal_quality, similarity, refusals (share), grade (0 to 3) and answers
Needs: forget, with questions; retain shows refusals of what should be answered; a judge (`judge`)
Range and ideal: about -1 to 2.2; high for questions to forget; for others as low as fluent answers have it, which is about 0.35 to 0.45
Differs: a judge says of each answer whether it refuses and how well it is written, where the authors take a classifier and a grader of
    fixed models; without an `encoder` cosines are those of words (TF-IDF). At most `rows` answers of each set are judged
Status: faithful
"""

from __future__ import annotations

from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.generated import answering, answers, first_rows, limit_of
from expunge.evaluation.measure import Missing
from expunge.evaluation.observe import Records
from expunge.evaluation.refusal_quality import refusal_quality_of
from expunge.modalities.text.local_writer import writer_of

SETS = ("forget", "retain")


@part
class RefusalQualities(Attack):
    """A judge reads the answers to each set."""

    judge: str = hp("", "what judges the answers: a folder, a hub id, or http://HOST/v1#MODEL")
    encoder: str = hp("", "sentence encoder (folder or hub id); empty: vectors of words")
    weight: float = hp(0.2, "weight of how well answers are written", ge=0)
    rows: int = hp(200, "answers of each set that are judged at most, the first ones", ge=1)

    def about(self, records: Records, modality: Modality) -> Records:
        return answering(records, modality)

    def run(self, scene: Scene) -> None:
        if not self.judge:
            scene.lacks("answers are judged by a model: name one with --judge, a folder, a hub id or http://HOST/v1#MODEL")
            return
        judge = writer_of(self.judge)
        for name in SETS:
            try:
                records = scene.records if name == "forget" else answering(scene.sets.get(name, ()), scene.modality)
            except Missing as reason:
                scene.lacks(str(reason), name)
                continue
            if not records:
                scene.lacks("there are no such rows", name)
                continue
            rows = first_rows(scene.modality.rows(name, records[: self.rows]))
            (texts,) = answers(scene.model, scene.modality, rows, limit_of(scene.modality, rows))
            quality = refusal_quality_of(texts, judge, self.encoder, weight=self.weight)
            numbers = {"similarity": quality.similarity, "refusals": quality.refusal_rate, "grade": quality.grade}
            scene.look({}, way=name, refusal_quality=quality.value, **numbers, answers=float(quality.n))


def plan() -> RefusalQualities:
    return RefusalQualities()
