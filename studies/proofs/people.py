"""The language world: a small model that knows invented people, a tenth of whom are forgotten.

Methods are compared where each has forgotten as far as the retrained model, by the probability of the forgotten answers; methods that teach
another answer, which leave the probability of the old one behind its first words as it was, by what the models say. Every batch holds all
rows to forget, so that one epoch is one step and the curve of forgetting is fine.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import nn

from expunge.benchmarks.suite import Suite
from expunge.core.errors import UserError
from expunge.core.hyperparameters import override, part
from expunge.core.parts import Objective, Stop
from expunge.core.view import View
from expunge.engine import loop
from expunge.engine.weights import put
from expunge.evaluation.attacks import relearn
from expunge.evaluation.audited_models import examine
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.io.models import Opened
from expunge.workflows import build_plan
from expunge.workflows.sweep import Sweep
from expunge.workflows.train import texts_of, train
from expunge.workflows.unlearn import unlearn
from studies.proofs.claim import Arm, Claim, Scores, spent
from studies.proofs.curve import Curve
from studies.proofs.effect import Gate

SIZE = "nano"  # knows the answers as a larger one does, in a third of the time; effects show at either size
FORGETTING, RELEARNED, SAID = "forget_probability", "relearned_probability", "forget_rouge"
RETAINED, NEIGHBOURS = "retain_probability", "neighbour_probability"
WANTS = ObservationSpec(moments=False, gradient_norms=False, features=False)
RELEARNING = {"steps": 40, "batch_size": 9, "lr": 3e-4}  # with a quarter of the rows


class PeopleUnit:
    """One original and one retrained model on one draw of the people.

    Args:
        draw, seed: of the people, and of the models.
        level: the score by which a model has forgotten.
    """

    def __init__(self, draw: int, seed: int, level: str = FORGETTING) -> None:
        self.level = level
        self.suite = self.drawn(draw)
        texts = texts_of([*self.suite.train["full"], *(r for n in ("real_authors", "world_facts") for r in self.suite.sets.get(n, ()))])
        options: dict[str, Any] = {"texts": texts, "prompt_format": self.suite.prompt_format, "seed": seed}
        results = [train(self.suite.train[rows], SIZE, **options) for rows in ("full", "retain")]
        self.models = [Opened(result.model, result.modality, str(result.folder)) for result in results]
        self.retraining = spent(results[1].receipt)
        self.modality = self.models[0].modality
        self.sets = {name: self.modality.rows(name, self.suite.train[name]) for name in ("forget", "retain")}
        self.original_logp = self._retain_logp(self.models[0].model)

    def drawn(self, draw: int) -> Suite:
        """The people of a draw."""
        return Sweep("people", (), model=SIZE, draw=draw).load_suite()

    @cached_property
    def original(self) -> Scores:
        return self.measure(self.models[0].model)

    @cached_property
    def retrained(self) -> Scores:
        return self.measure(self.models[1].model, frozenset({RELEARNED}))

    @cached_property
    def random(self) -> Scores:
        model = copy.deepcopy(self.models[0].model)
        put(model, self.modality.fresh(model, 0))
        return self.measure(model)

    def measure(self, model: nn.Module, scores: frozenset[str] = frozenset()) -> dict[str, float]:
        """Scores of a model; `retain_kl` in nats from the original, `relearned_probability` of rows that a relearning attacker lacks."""
        audited = examine(model, self.modality, self.suite.sets, name="model", wants=WANTS)
        shown = {
            n: float(audited.scores[n]["value"])
            for n in ("model_utility", FORGETTING, "forget_rouge", "retain_rouge", RETAINED, "extraction_strength")
        }
        observed = {n: o.kinds["answer"].mean_logp() for n, o in audited.observation.sets.items()}
        shown["retain_loss"] = float(-observed["retain"].mean())
        if NEIGHBOURS in scores:
            shown[NEIGHBOURS] = float(np.exp(observed["neighbours"]).mean())
        if "retain_kl" in scores:
            now = self._retain_logp(model)
            shown["retain_kl"] = float(
                torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in zip(self.original_logp, now, strict=True)]).mean()
            )
        if RELEARNED in scores:
            shown[RELEARNED] = self._relearned(model)
        return shown

    def run(self, arm: Arm, settings: Mapping[str, Any], scores: frozenset[str]) -> Curve:
        """The scores just before and after the model has forgotten as far as the retrained one; else those at the end."""
        model, points = copy.deepcopy(self.models[0].model), list[Scores]()
        remembers, measure = self.remembers, self.measure
        before = copy.deepcopy(model)

        @part
        class Crossing(Stop):
            """Stop once the model has forgotten as far as the retrained one."""

            reads = frozenset({"forget"})

            def stop(self, view: View) -> str | None:
                if remembers(view):
                    before.load_state_dict(model.state_dict())
                    return None
                points.append(measure(before, scores))
                return "as far as the retrained model"

        plans = build_plan.plan(arm.method, dict(settings))
        last = replace(plans[-1], updates=()) if arm.bare else plans[-1]
        if isinstance(last.action, Objective):
            plans = (*plans[:-1], replace(last, stop_rules=(*last.stop_rules, Crossing())))
        rows = self.suite.train
        try:
            result = unlearn(
                plans,
                Opened(model, self.modality, "original"),
                rows["forget"],
                rows["retain"],
                holdout=self.suite.sets.get("holdout"),
                alternate_answers=self.suite.alternate_answers,
                allow_overlap=True,
            )
        except UserError as error:
            if "the weights did not change" not in str(error):  # which a run refuses to call unlearning, and settings may do
                raise
            return [self.original]
        cost = spent(result.receipt) / self.retraining
        return [{**point, "cost": cost} for point in (*points, measure(model, scores))]

    def remembers(self, view: View) -> bool:
        """Whether the model has not yet forgotten as far as the retrained one."""
        if self.level == FORGETTING:
            return float(view.now(view.forget).target_logp.mean().exp().mean()) > self.retrained[FORGETTING]
        spoken = {"forget": self.suite.sets["forget"]}
        scores = examine(view.model, self.modality, spoken, name="model", wants=WANTS).scores
        return float(scores[self.level]["value"]) > self.retrained[self.level]

    @torch.no_grad()
    def _retain_logp(self, model: nn.Module) -> list[torch.Tensor]:
        """Log-probabilities of all tokens at the positions of the retain answers, by batch: (positions, vocabulary)."""
        rows = self.sets["retain"]
        batches = [rows.select(range(i, min(i + 32, len(rows)))) for i in range(0, len(rows), 32)]
        training, _ = model.training, model.eval()
        outputs = [self.modality.forward(model, [batch])[0].log_probs.values for batch in batches]
        model.train(training)
        return outputs

    def _relearned(self, model: nn.Module) -> float:
        """Probability of the forgotten answers that the attacker does not have, after training on a quarter of the rows."""
        attacked, forget = copy.deepcopy(model), self.sets["forget"]
        held = list(range(0, len(forget), 4))
        others = [i for i in range(len(forget)) if i not in held]
        loop.run((override(relearn.plan(), RELEARNING).how,), attacked, self.modality, {"forget": forget.select(held)})
        with torch.no_grad():
            (output,) = self.modality.forward(attacked.eval(), [forget.select(others)])
        return float(output.target_logp.mean().exp().mean())


@dataclass(frozen=True)
class People:
    """Draws of the people.

    Args:
        level: the score by which models have forgotten; by default the probability of the answers, else what they say.
    """

    name: str = "people"
    model: str = SIZE
    level: str = FORGETTING

    def unit(self, draw: int, seed: int) -> PeopleUnit:
        return PeopleUnit(draw, seed, self.level)

    def gates(self, claim: Claim, units: Sequence[Any], rivals: Mapping[str, Sequence[float]]) -> list[Gate]:
        """The original must know what is to be forgotten, the retrained model must not, and both must be useful, unlike random weights."""
        known, unknown = (fmean(getattr(u, n)[FORGETTING] for u in units) for n in ("original", "retrained"))
        useful, lost = (fmean(getattr(u, n)["model_utility"] for u in units) for n in ("retrained", "random"))
        gates = [
            Gate("the original knows what is to be forgotten", known, known >= 0.9),
            Gate("the retrained model does not", unknown, unknown <= 0.5),
            Gate("the retrained model is useful", useful, useful >= 0.5),
            Gate("random weights are not", lost, lost <= 0.2),
        ]
        if claim.score == "model_utility":
            best, worst = (pick(fmean(values) for values in rivals.values()) for pick in (max, min))
            gates.append(Gate("no rival keeps all of the original's utility, nor none", best, best <= 0.98 * useful and worst >= 0.02))
        return gates
