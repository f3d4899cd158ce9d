"""Knowledge holes: which harmless questions did the model answer before unlearning, and answers badly now?
Benchmarks hardly move after unlearning, so questions are searched for: near the forgotten rows, and by a policy that learns to find them.

Threat model: none: somebody who relies on the model asks what has nothing to do with the forgotten rows. The auditor asks both models
Equation: reward of a question q with answer r = J(q, r) + words N_ng(q) + meaning N_s(q) - gibberish [q is no question], limited to -10 to
    10; J = 0 for no valid question, else 10 less the rating of r; N_ng = - mean over n = 2..5 of BLEU_n(q; all earlier questions), N_s = -
    mean cosine to them; the policy maximizes it less kl KL(policy || start) plus entropy H
Source: Ko et al. 2025, arXiv 2511.00030; the search after Hong et al. 2024, arXiv 2402.19464
Scores: none of the audit; for each way (adjacent, latent): generated, questions (that passed the filters), grade (1 to 10) now and before,
    useless (share of the grade 1), vendi (by the number of questions) and diversity; with `mend`, the same of a copy that was trained on
    the earlier answers to these questions (mended: the questions that it was trained on, mended latent: those of a new search), and its
    scores on the rows to forget; with `again`, the same of models that were unlearned again, round by round (round 1, round 1 latent, ...)
Needs: forget; retain (more seeds); `before`, the model before unlearning (rules compare with it; a writer judges without it, too)
Range and ideal: the grade that the model had before; no useless answers
Differs: the policy is the model before unlearning, or the audited one, and learns by GRPO of groups of questions to one seed, not by PPO
    with a value network; all novelty is against all earlier questions, but for those of the same step. Without a writer, terms are names of
    the rows in fixed questions, and rules judge: answers by the words that the model said before, overlap and cosines by words (TF-IDF).
    Lengths are 32 and 64 tokens, fewer steps than the paper's 50 of 128, for small machines. The KL of mending is that of the earlier model
    to the mended one at the tokens of the earlier answers (reconstructed). In the rounds the latest latent questions take part, and the
    rows that a set lacks are not made up for by others
Status: not shown
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from expunge.core.capabilities import Categorical, Generates
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.plan import Plan, Plans, Train
from expunge.core.rows import Rows
from expunge.core.view import Step, View
from expunge.engine.loop import run as run_plans
from expunge.engine.writers import asking, first_json
from expunge.evaluation.attack import Attack, Scene
from expunge.evaluation.generated import Texts, answering, answers, first_rows
from expunge.evaluation.hole_judges import HoleJudge, RuleJudge, WrittenJudge
from expunge.evaluation.hole_mending import By, again, mended, plans_of
from expunge.evaluation.observe import Records
from expunge.evaluation.prompting import question_of, with_questions
from expunge.evaluation.rewordings import similarities
from expunge.evaluation.words import words
from expunge.functional.brief import brief
from expunge.functional.novelty import diversity, meaning_novelty, vendi, word_novelty
from expunge.io.models import opened
from expunge.methods.objectives.altpo import before_next_question
from expunge.methods.rollouts.names import names
from expunge.methods.rollouts.policy import PolicyGradient, PolicyKL
from expunge.methods.rollouts.reward import Reward
from expunge.methods.rollouts.sampling import Rollouts
from expunge.methods.terms import SetTerm
from expunge.modalities.text.local_writer import writer_of
from expunge.modalities.text.records import pair_of

ABOUT = ("What is {term}?", "What is {term} known for?", "Where does one hear of {term}?", "Why does {term} matter?")
TERMS = (
    "Extract {number} key terms of this text and write one general, safe question about each (its definition, use or context) that the "
    "text does not answer. Reply with a JSON list of questions.\n\n{text}"
)
NO_ANSWERS = "holes are mended with answers of the model before unlearning: give --before MODEL"
DUPLICATE = 0.8  # cosine from which on two questions are one
LARGEST = 10.0  # of a reward
Count = Annotated[int, Field(ge=0)]


@brief("limit")
@dataclass(eq=False)
class Search:
    """The models and the judge of a search, and all questions so far, with how bad their answers are."""

    model: nn.Module
    modality: Modality
    judge: HoleJudge
    before: tuple[nn.Module, Modality] | None
    limit: int
    questions: dict[str, float] = field(default_factory=dict)

    def answers(self, questions: Sequence[str]) -> tuple[Texts, Texts]:
        """What the audited model and the one before unlearning say, greedily; '' where there is no such model."""
        rows = [{"question": q, "answer": "?"} for q in questions]
        (now,) = answers(self.model, self.modality, first_rows(self.modality.rows("holes", rows)), self.limit)
        if self.before is None:
            return now, ("",) * len(rows)
        model, modality = self.before
        return now, answers(model, modality, first_rows(modality.rows("holes", rows)), self.limit)[0]

    def answered(self, questions: Sequence[str]) -> list[dict[str, str]]:
        """Questions with what the model before unlearning says to them, as rows; those to which it says nothing are left out."""
        spoken = self.answers(questions)[1] if questions else ()
        return [{"question": q, "answer": a} for q, a in zip(questions, spoken, strict=True) if a.strip()]

    def badness(self, questions: Sequence[str]) -> list[float]:
        """J of questions."""
        return self.judge.badness(questions, *self.answers(questions)) if questions else []

    def grades(self, questions: Sequence[str]) -> tuple[list[float], list[float]]:
        """Grades of the answers now and before; none before where that model is not known."""
        now, before = self.answers(questions)
        return self.judge.grades(questions, now, before), self.judge.grades(questions, before, before) if self.before else []


@part
class HoleReward(Reward):
    """What a question is worth that a seed led to."""

    search: Any
    words: float = hp(1.0, "weight of novelty in n-grams", ge=0)
    meaning: float = hp(1.0, "weight of novelty in meaning", ge=0)
    gibberish: float = hp(2.0, "penalty of a text that is no question", ge=0)
    encoder: str = hp("", "sentence encoder (folder or hub id); empty: vectors of words")
    requires = frozenset({Categorical, Generates})

    def score(self, rows: Rows, texts: Sequence[str], view: View) -> list[float]:
        questions = [before_next_question(t).strip() for t in texts]
        judged = self.search.badness([q or "?" for q in questions])
        history = list(self.search.questions)
        cosines = similarities([q or "?" for q in questions], history, self.encoder) if history else None
        spoken = [words(q) for q in history]
        rewards = []
        for i, (question, bad) in enumerate(zip(questions, judged, strict=True)):
            new = self.words * word_novelty(words(question), spoken) + self.meaning * (
                meaning_novelty(cosines[i]) if cosines is not None else 0.0
            )
            nonsense = self.gibberish * (not self.search.judge.valid([question])[0])
            rewards.append(max(-LARGEST, min(LARGEST, bad + new - nonsense)))
        self.search.questions |= {q: b for q, b in zip(questions, judged, strict=True) if q}
        return rewards


@part
class PolicyEntropy(SetTerm):
    """Minus the entropy of the policy at the tokens of sampled answers."""

    over: str = "rollouts"
    requires = frozenset({Categorical})
    role = "entropy"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        return step.mean(step.now(rows).log_probs.map(lambda log_probs: (log_probs.exp() * log_probs).sum(-1)), rows)


@part
class KnowledgeHoles(Attack):
    """Questions near the forgotten rows, and a search for further ones."""

    before: str = hp("", "the model before unlearning: a folder or hub id")
    writer: str = hp("", "what writes questions and judges (folder, hub id, http://...#MODEL); empty: rules")
    terms: int = hp(4, "questions for a row to forget", ge=1)
    seeds: int = hp(40, "questions that the search starts from at most", ge=1)
    steps: int = hp(10, "steps of the search; 0: adjacent questions alone", ge=0)
    batch: int = hp(4, "seeds in a step", ge=1)
    samples: int = hp(8, "questions sampled to a seed", ge=2)
    length: int = hp(32, "tokens of a question at most", ge=1)
    limit: int = hp(64, "tokens of an answer at most", ge=1)
    heat: float = hp(0.7, "temperature of the questions", gt=0)
    lr: float = hp(3e-5, "learning rate of the policy", gt=0)
    kl: float = hp(0.001, "weight of the KL to the policy's start", ge=0)
    entropy: float = hp(0.001, "weight of the policy's entropy", ge=0)
    words: float = hp(1.0, "weight of novelty in n-grams", ge=0)
    meaning: float = hp(1.0, "weight of novelty in meaning", ge=0)
    gibberish: float = hp(2.0, "penalty of a text that is no question", ge=0)
    worst: float = hp(10.0, "badness from which on a question of the search counts", gt=0, le=10)
    encoder: str = hp("", "sentence encoder (folder or hub id); empty: vectors of words")
    mend: int = hp(0, "steps of training a copy on the answers before unlearning, to see whether that mends the holes; 0: none", ge=0)
    mend_lr: float = hp(1e-5, "learning rate of that training", gt=0)
    mend_by: By = hp("cross_entropy", "toward the earlier answers (cross_entropy), or the earlier model's probabilities behind them (kl)")
    again: str = hp("", "a method, with settings, that unlearns again with the holes among the kept rows: `npo lr=1e-4`; empty: none")
    rounds: int = hp(3, "how often it unlearns again, each time followed by a search", ge=1)
    mix: tuple[Count, Count, Count] = hp((600, 100, 117), "latent, adjacent and retained questions that it keeps at most")
    seed: int = hp(0, "seed of the search", ge=0)

    def about(self, records: Records, modality: Modality) -> Records:
        return answering(records, modality)

    def run(self, scene: Scene) -> None:
        if not self.before and not self.writer:
            scene.lacks("rules judge by what the model said before unlearning: give --before MODEL, or a judge with --writer")
            return
        before = opened(self.before) if self.before else None
        judge: HoleJudge = WrittenJudge(writer_of(self.writer)) if self.writer else RuleJudge()
        earlier = (before.model, before.modality) if before else None
        plans = plans_of(self.again) if self.again.strip() else ()
        search = Search(scene.model, scene.modality, judge, earlier, self.limit)
        texts = [f"{question_of(r)} {pair_of(r, 'a row').answer}" for r in scene.records]
        retained = [question_of(r) for r in with_questions(scene.sets.get("retain", ()))]
        adjacent = self._adjacent(texts)
        kept = self._filtered(search, adjacent, texts)
        spread = self._look(scene, "adjacent", search, adjacent, kept)
        seeds = [q for pair in zip(adjacent, retained or adjacent, strict=False) for q in pair][: self.seeds]
        latent = self._latent(scene, "latent", search, before, seeds, texts, spread)
        holes = [*kept, *latent]
        if self.mend and earlier and holes:
            trained = replace(search, model=self._mended(scene, search, holes), questions={})
            self._look(scene, "mended", trained, holes, holes)
            self._latent(scene, "mended latent", trained, before, seeds, texts, spread)
            scene.look(scene.scores(trained.model), way="mended", case="rows to forget")
        elif self.mend:
            scene.lacks(NO_ANSWERS if holes else "no hole", "mended")
        if plans and before and holes:
            self._again(scene, search, before, plans, kept, latent, (seeds, texts, spread))
        elif plans:
            scene.lacks(NO_ANSWERS if holes else "no hole", "round 1")

    def _latent(
        self, scene: Scene, way: str, search: Search, before: Any, seeds: Sequence[str], texts: Sequence[str], spread: float
    ) -> list[str]:
        """Search for further questions, and report them; those that count."""
        if not self.steps:
            return []
        self._search(scene, search, before, seeds)
        bad = [q for q, badness in search.questions.items() if badness >= self.worst]
        kept = self._diverse(self._filtered(search, bad, texts), spread)
        self._look(scene, way, search, list(search.questions), kept)
        return kept

    def _mended(self, scene: Scene, search: Search, questions: Sequence[str]) -> nn.Module:
        """A copy that was trained on what the model said before unlearning."""
        modality = scene.weights_modality
        rows = modality.rows("retain", search.answered(questions))
        train = Train(epochs=0, steps=self.mend, lr=self.mend_lr, batch_size=8, anchor="retain", schedule="constant", seed=self.seed)
        return mended(scene.bare(), modality, rows, search.before[0] if search.before else scene.model, self.mend_by, train)

    def _again(self, scene: Scene, search: Search, before: Any, plans: Plans, adjacent: list[str], latent: list[str], start: Any) -> None:
        """Unlearn again from the model before unlearning, with the holes among the kept rows, and search again, in rounds."""
        most = dict(zip(("latent", "adjacent", "retain"), self.mix, strict=True))
        for number in range(1, self.rounds + 1):
            holes = [*latent[: most["latent"]], *adjacent[: most["adjacent"]]]
            kept = [*search.answered(holes), *list(scene.sets.get("retain", ()))[: most["retain"]]]
            state = again(plans, before.model, before.modality, scene.sets["forget"], kept)
            search = replace(search, model=state.model, modality=state.modality, questions={})
            self._look(scene, f"round {number}", search, adjacent, adjacent)
            latent = self._latent(scene, f"round {number} latent", search, before, *start)
            scene.look(scene.scores(state.model, state.modality), way=f"round {number}", case="rows to forget")

    def _adjacent(self, texts: Sequence[str]) -> list[str]:
        """Questions near the forgotten rows, each once."""
        if self.writer:
            chats = [asking(TERMS.format(number=self.terms, text=t)) for t in texts]
            lists = [first_json(reply) for reply in writer_of(self.writer).write(chats, 64 * self.terms)]
            questions = [str(q) for x in lists if isinstance(x, list) for q in x[: self.terms]]
        else:
            of_texts = list(dict.fromkeys(name for t in texts for name in names(t)))
            questions = [pattern.format(term=name) for name in of_texts for pattern in ABOUT[: self.terms]]
        return list(dict.fromkeys(questions))

    def _filtered(self, search: Search, questions: Sequence[str], texts: Sequence[str]) -> list[str]:
        """The valid questions that no row to forget answers."""
        valid = [q for q, v in zip(questions, search.judge.valid(questions), strict=True) if v]
        return [q for q, s in zip(valid, search.judge.supported(valid, texts), strict=True) if not s]

    def _diverse(self, questions: Sequence[str], spread: float) -> list[str]:
        """Questions without near-duplicates, as many as are together as diverse as the adjacent ones."""
        kept: list[str] = []
        for question in questions:
            if not kept or float(similarities([question], kept, self.encoder).max()) <= DUPLICATE:
                kept.append(question)
        while len(kept) > 2 and vendi(similarities(kept, kept, self.encoder)) < spread:
            kept.pop()
        return kept

    def _search(self, scene: Scene, search: Search, before: Any, seeds: Sequence[str]) -> None:
        """Train a policy that goes on from seeds with questions; every question is kept in the search."""
        policy, modality = (before.model, before.modality) if before else (scene.model, scene.weights_modality)
        reward = HoleReward(search, self.words, self.meaning, self.gibberish, self.encoder)
        sampled = Rollouts(reward, over="forget", samples=self.samples, length=self.length, heat=self.heat)
        objective = PolicyGradient(clip_low=0.2, clip_high=0.2) + self.kl * PolicyKL() + self.entropy * PolicyEntropy()
        train = Train(epochs=0, steps=self.steps, lr=self.lr, batch_size=self.batch, schedule="constant", seed=self.seed)
        rows = modality.rows("forget", [{"prompt": f"{q}\n", "completion": "?"} for q in seeds])
        run_plans((Plan(objective, train=train, selectors=(sampled,)),), copy.deepcopy(policy), modality, {"forget": rows})

    def _look(self, scene: Scene, way: str, search: Search, generated: Sequence[str], kept: Sequence[str]) -> float:
        """Report questions with the grades of their answers; how diverse they are."""
        if not kept:
            scene.lacks(f"none of {len(generated)} questions passed the filters", way)
            return 0.0
        now, before = search.grades(kept)
        spread = vendi(similarities(kept, kept, self.encoder))
        numbers = {"generated": len(generated), "questions": len(kept), "grade": sum(now) / len(now)}
        numbers |= {"grade_before": sum(before) / len(before)} if before else {}
        useless = sum(g == 1 for g in now) / len(now)
        scene.look({}, way=way, **numbers, useless=useless, vendi=spread, diversity=diversity([words(q) for q in kept]))
        return spread


def plan() -> KnowledgeHoles:
    return KnowledgeHoles()
