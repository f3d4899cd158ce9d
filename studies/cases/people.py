"""The language case: the fictitious people with the micro model and the preset hyperparameters.

The baseline is gradient ascent with as many steps at the same learning rate.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from expunge.benchmarks import presets
from expunge.evaluation.attack import chosen, intervene
from expunge.evaluation.audited_models import AuditedModel, Progress, controls, examine
from expunge.io.models import Opened, cache_home
from expunge.workflows.sweep import Sweep
from expunge.workflows.train import texts_of, train
from expunge.workflows.unlearn import Result, unlearn
from studies.cases.claims import Claim, Numbers, pooled_numbers

CASE = Sweep("people", (), model="micro")
SHOWN = ("forget_quality", "model_utility", "forget_probability", "forget_rouge", "retain_rouge", "extraction_strength", "mia_min_k")
MODELS = 3  # pairs of an original and a retrained model for relearning
EVERY = 1  # steps between two measurements of a relearning model
RECOVERED = 0.5  # extraction strength of the attacker's rows from which on they count as recovered
BUDGET = ("lr", "epochs", "batch_size")

FORGETS = Claim(
    "forget_probability falls to at most half of the original's",
    lambda n, me: n[me]["forget_probability"] <= 0.5 * n["original"]["forget_probability"],
)
SPARES = Claim(
    "utility stays above that of gradient ascent with as many steps at the same rate",
    lambda n, me: n[me]["model_utility"] > n["ga"]["model_utility"],
)
KEEPS = Claim(
    "utility stays at or above 80 % of the retrained model's", lambda n, me: n[me]["model_utility"] >= 0.8 * n["retrained"]["model_utility"]
)
BOUNDED = Claim(
    "retain perplexity stays below a tenth of that of gradient ascent with as many steps at the same rate",
    lambda n, me: n[me]["retain_loss"] <= n["ga"]["retain_loss"] - math.log(10),
)
DESTROYS = Claim("utility falls below half of the original's", lambda n, me: n[me]["model_utility"] < 0.5 * n["original"]["model_utility"])
REMEMBERS = Claim(
    "fine-tuning alone forgets little: extraction_strength stays above the retrained model's by 0.1 or more",
    lambda n, me: n[me]["extraction_strength"] >= n["retrained"]["extraction_strength"] + 0.1,
)
USELESS = Claim("utility is below a tenth of the original's", lambda n, me: n[me]["model_utility"] < 0.1 * n["original"]["model_utility"])
LIKE_RETRAINED = Claim("forget_quality is at least 0.05", lambda n, me: n[me]["forget_quality"] >= 0.05)
SILENT = Claim("the listed questions are not answered: forget_rouge is at most 0.1", lambda n, me: n[me]["forget_rouge"] <= 0.1)
INSIDE = Claim(
    "the weights behind it know everything: without the guard forget_probability is the original's",
    lambda n, me: abs(n[me]["unguarded_forget_probability"] - n["original"]["forget_probability"]) < 1e-3,
)
FASTER = Claim(
    "fine-tuning makes half of what ga and npo forgot extractable in fewer steps than it teaches it to the retrained model",
    lambda n, me: max(n[m]["steps_to_recover"] for m in ("ga", "npo")) < n["retrained"]["steps_to_recover"],
)

# Settings that the claims are about instead of the preset: a learning rate and a number of steps at which ascent diverges.
FAR = {"lr": 1e-3, "epochs": 15, "batch_size": 16}
SETTINGS: dict[str, dict[str, Any]] = dict.fromkeys(("ga", "npo", "flat", "ceu", "undial"), FAR)
AGAINST_ASCENT = (SPARES, BOUNDED)
DEFAULT = (FORGETS, SPARES, KEEPS)
CLAIMS: dict[str, tuple[Claim, ...]] = {
    **dict.fromkeys(
        ["adaptive_rmu", "altpo", "dpo", "graddiff", "idk", "idk_ap", "kl", "llmu", "me", "npo", "pdu", "rmu", "satimp", "simnpo", "wga"],
        DEFAULT,
    ),
    "ga": (FORGETS, DESTROYS),
    "ceu": (FORGETS, BOUNDED),  # forget data alone: nothing preserves the rest of the model
    "flat": (FORGETS, BOUNDED),
    "undial": (FORGETS, BOUNDED),
    "task_vector": (FORGETS, KEEPS),
    "finetune": (REMEMBERS, KEEPS),
    "random_weights": (FORGETS, USELESS),
    "retrain": (FORGETS, LIKE_RETRAINED, KEEPS),
    "input_filter": (SILENT, INSIDE, KEEPS),
    "relearn": (FASTER,),
}


class Case:
    """The people, and the original and the retrained model with their audits."""

    sweep = CASE
    model = CASE.model

    def __init__(self, progress: Progress) -> None:
        self.suite, self.progress = self.sweep.load_suite(), progress
        self.original, self.retrained = self._models()
        self.cache = cache_home() / "observations"
        self.retrained_audit = self._audit(self.retrained, "retrained", role="retrained")
        self.original_audit = self._audit(self.original, "original", role="original")

    def _models(self, seed: int = 0) -> tuple[Opened, Opened]:
        """An original and a retrained model."""
        suite = self.suite
        texts = texts_of([*suite.train["full"], *suite.sets["real_authors"], *suite.sets["world_facts"]])
        results = [train(suite.train[s], self.model, texts=texts, prompt_format=suite.prompt_format, seed=seed) for s in ("full", "retain")]
        original, retrained = (Opened(result.model, result.modality, str(result.folder)) for result in results)
        return original, retrained

    def _audit(self, opened: Opened, name: str, **options: Any) -> AuditedModel:
        retrained = getattr(self, "retrained_audit", None)
        return examine(
            opened.model,
            opened.modality,
            self.suite.sets,
            name=name,
            retrained=retrained.observation if retrained else None,
            cache=self.cache,
            progress=self.progress,
            **options,
        )

    def unlearn(self, name: str, hyperparameters: Mapping[str, Any]) -> Result:
        """The original after a method, with its receipt."""
        opened = Opened(copy.deepcopy(self.original.model), self.original.modality, self.original.source)
        rows = self.suite.train
        self.progress(0, 1, f"{name}: forgetting")
        return unlearn(
            name,
            opened,
            rows["forget"],
            rows["retain"],
            alternate_answers=self.suite.alternate_answers,
            allow_overlap=True,
            **hyperparameters,
        )

    def forget(self, name: str, hyperparameters: Mapping[str, Any]) -> Opened:
        """The original after a method."""
        result = self.unlearn(name, hyperparameters)
        return Opened(result.model, result.modality, name)

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Return scores of the two models, of the baseline and of the method; and the method's hyperparameters."""
        if name == "relearn":
            return self.relearning()
        hyperparameters = {**presets.hyperparameters(CASE.suite, CASE.model, name), **SETTINGS.get(name, {})}
        numbers = {"original": shown(self.original_audit), "retrained": shown(self.retrained_audit)}
        if name == "input_filter":
            rows = self.original.modality.rows("forget", self.suite.train["forget"])
            guarded = controls(self.original, rows, self.suite.sets, self.retrained_audit.observation, self.cache)[1]
            numbers[name] = {**shown(guarded), "unguarded_forget_probability": numbers["original"]["forget_probability"]}
            return numbers, hyperparameters
        if any(c in AGAINST_ASCENT for c in CLAIMS[name]):
            budget = {**presets.hyperparameters(CASE.suite, CASE.model, "ga"), **{k: v for k, v in hyperparameters.items() if k in BUDGET}}
            numbers["ga"] = shown(self._audit(self.forget("ga", budget), "ga"))
        numbers[name] = shown(self._audit(self.forget(name, hyperparameters), name))
        return numbers, hyperparameters

    def relearning(self) -> tuple[Numbers, dict[str, Any]]:
        """Count the steps on a quarter of the forget rows that make half of their answers extractable.

        Returns:
            Medians over originals, because one recovers the answers at once and another does not; and the attack's hyperparameters.
        """
        attacker_rows = self.suite.sets["forget"][::4]
        hyperparameters = {**presets.relearning(CASE.suite, CASE.model, 0), "k": len(attacker_rows), "every": EVERY}
        runs = []
        for seed in range(MODELS):
            self.original, self.retrained = self._models(seed)
            models = {
                "retrained": self.retrained,
                **{n: self.forget(n, presets.hyperparameters(CASE.suite, CASE.model, n)) for n in ("ga", "npo")},
            }
            runs.append({n: self._relearned(n, opened, hyperparameters, attacker_rows) for n, opened in models.items()})
        return pooled_numbers(runs, median), hyperparameters

    def _relearned(self, name: str, opened: Opened, hyperparameters: Mapping[str, Any], attacker_rows: Sequence[Any]) -> dict[str, float]:
        """Extraction strength of the attacker's rows before and after the attack, and steps until recovery."""
        self.progress(0, 1, f"{name}: relearning")
        attack = intervene(
            "relearn", chosen(("relearn",), hyperparameters)["relearn"], opened.model, opened.modality, {"forget": attacker_rows}
        )
        values = {t.at["steps"]: float(t.scores["extraction_strength"]["value"]) for t in attack.tries}
        recovered = [step for step, value in values.items() if value >= RECOVERED]
        last = max(values)
        return {"before": values[0], "after": values[last], "steps_to_recover": float(min(recovered, default=2 * last))}


def shown(audited: AuditedModel) -> dict[str, float]:
    """The scores to compare."""
    answers = audited.observation.sets["retain"].kinds["answer"]
    return {n: float(audited.scores[n]["value"]) for n in SHOWN if n in audited.scores} | {
        "retain_loss": float(-answers.mean_logp().mean())
    }
