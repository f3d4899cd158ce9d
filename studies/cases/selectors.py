"""The case of selectors: the same method on the same request, with a selector before it and without.

Rows that hardly matter are left out of a request to a classifier of digits, half of the request, and the outcome is held against that of
the whole request and of a half drawn by chance, means over seeds. Rows of the fictitious people are weighed, and what the retain rows lose
is compared where the rows to forget have become half as likely as they were, medians over models. And two rows of them are forgotten in the
place of one topic about all, or of all that is known of some; means over models.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from expunge.benchmarks import presets
from expunge.benchmarks.people import TOPICS
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.parts import Stop
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.loop import Hooks
from expunge.engine.run_state import evaluating
from expunge.evaluation.audited_models import Progress
from expunge.io.models import Opened
from expunge.methods.selectors.guard_attribution import Attribution
from expunge.methods.selectors.low_influence import LowInfluence
from expunge.workflows import build_plan
from expunge.workflows.train import texts_of, train
from expunge.workflows.unlearn import Result, unlearn
from studies.cases import digits, people
from studies.cases.claims import Claim, Numbers, pooled, pooled_numbers

SEEDS = 3
DROP = 0.5
SPLITS = ("class", "random")  # as the digits' case calls them
RANDOM = {"lr": 1e-3, "epochs": 5}  # of a tenth of all digits less must go than of a class, for which the recipe was chosen
WEIGHED = {"lr": 1e-3, "batch_size": 36, "epochs": 30, "schedule": "constant", "warmup": 0}  # every batch holds all rows to forget
BASES = ("ga", "graddiff")
TOPIC = "pet"  # a question that all of the 40 people are asked
FRACTION = 0.06  # of the 40 rows of the topic, or of the 36 about four people: two
FEW: dict[str, dict[str, Any]] = {  # ways to forget them, with npo; the first is what is claimed
    "coreset": {},
    "coreset, as many epochs": {"repeat": False},
    "coreset, four times as long": {"epochs": 60},
    **{f"coreset, {score}": {"score": score} for score in ("grand", "moderate", "min_k")},
}


def _near(score: str, within: float, kind: str) -> Any:
    return lambda n, me: abs(n[f"{me}, {kind}"][score] - n[f"whole, {kind}"][score]) <= within


def _less(score: str) -> Any:
    return lambda n, me: all(n[f"{b} + {me}"]["left"] <= 0.5 and n[f"{b} + {me}"][score] < n[b][score] for b in BASES)


def _few(holds: Any) -> Any:
    return lambda n, me: all(holds(n[f"{me}, {base}, topic"], n[f"whole, {base}, topic"]) for base in ("npo", "rmu"))


CLAIMS: dict[str, tuple[Claim, ...]] = {
    "coreset": (
        Claim(
            "one topic: two of its 40 rows, drawn by chance, with npo and with rmu over as many steps, leave the answers to all of them a "
            "probability within 0.03 of that which the whole set leaves",
            _few(lambda few, whole: abs(few["forget_probability"] - whole["forget_probability"]) <= 0.03),
        ),
        Claim("on the rows left out it falls by at least 0.8 of what it does with them", _few(lambda few, whole: few["carried"] >= 0.8)),
        Claim(
            "that of the answers to retain is at most 0.01 lower",
            _few(lambda few, whole: few["retain_probability"] >= whole["retain_probability"] - 0.01),
        ),
        Claim(
            "four people, whose facts have nothing in common: on the rows left out it falls by less than half of that, with npo",
            lambda n, me: n[f"{me}, npo, people"]["carried"] < 0.5,
        ),
    ),
    "low_influence": (
        Claim(
            "half of the request costs at most 0.7 of the whole, finding it included",
            lambda n, me: all(n[f"{me}, {kind}"]["cost"] <= 0.7 for kind in SPLITS),
        ),
        Claim("a class: accuracy on all its digits within 0.05 of the whole request's", _near("forget_accuracy", 0.05, "class")),
        Claim("a class: accuracy on those left out within 0.05, too", _near("left_out_accuracy", 0.05, "class")),
        Claim("a class: accuracy on unseen digits of the others within 0.02", _near("test_accuracy", 0.02, "class")),
        Claim("random digits: accuracy on all of them within 0.05 of the whole request's", _near("forget_accuracy", 0.05, "random")),
        Claim("random digits: accuracy on unseen ones within 0.02", _near("test_accuracy", 0.02, "random")),
        Claim(
            "random digits: on those left out the loss attack's AUC is within 0.05 of that on the retrained model",
            lambda n, me: abs(n[f"{me}, random"]["left_out_auc"] - n["retrained, random"]["left_out_auc"]) <= 0.05,
        ),
        Claim(
            "random digits: accuracy on all of them is nearer to the whole request's than after a half drawn by chance",
            lambda n, me: _apart(n, f"{me}, random") < _apart(n, "by chance, random"),
        ),
    ),
    "guard_attribution": (
        Claim(
            "where the rows to forget are half as likely, the loss of the aligned quarter of the retain rows has risen less than without "
            "weights, with ga and with graddiff",
            _less("retain_loss_rise_aligned"),
        ),
        Claim("so has the loss of all retain rows", _less("retain_loss_rise")),
    ),
}


def _apart(n: Numbers, name: str) -> float:
    return abs(n[name]["forget_accuracy"] - n["whole, random"]["forget_accuracy"])


@part
class Unlikely(Stop):
    """Stop once the rows to forget are unlikely enough."""

    probability: float = hp(0.5, "mean probability, of the mean label of a row, at which enough is forgotten")
    reads = frozenset({"forget"})

    def stop(self, view: RunView) -> str | None:
        return "forgotten" if likely(losses(view.model, view.modality, view.forget)) <= self.probability else None


@torch.no_grad()
def losses(model: nn.Module, modality: Modality, rows: Rows, batch_size: int = 64) -> Tensor:
    """The mean loss of the labels of each row, (rows,)."""
    with evaluating(model):
        pieces = [rows.select(range(i, min(i + batch_size, len(rows)))) for i in range(0, len(rows), batch_size)]
        return torch.cat([-modality.forward(model, [some])[0].target_logp.mean() for some in pieces])


def likely(loss: Tensor) -> float:
    return float((-loss).exp().mean())


@torch.no_grad()
def accuracy(model: nn.Module, modality: Modality, rows: Rows) -> float:
    with evaluating(model):
        answer = modality.forward(model, [rows])[0]
    return float((answer.logits.values.argmax(-1) == answer.labels).float().mean())


class Case:
    """Opened by what is claimed: digits or people."""

    suite: Any
    model: str

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Numbers with the selector and without; and the hyperparameters of the method behind it."""
        return {"low_influence": self._pruned, "guard_attribution": self._weighed, "coreset": self._shrunk}[name]()

    def _pruned(self) -> tuple[Numbers, dict[str, Any]]:
        found: dict[str, Mapping[str, float]] = {}
        hyperparameters = {"class": presets.hyperparameters("digits", digits.CASE.model, "graddiff"), "random": RANDOM}
        for kind in SPLITS:
            case = digits.Case(self.progress, kind)
            self.suite, self.model = case.suite, case.model
            found.update({f"{n}, {kind}": scores for n, scores in self._halves(case, hyperparameters[kind]).items()})
        return found, {"drop": DROP, **hyperparameters}

    def _halves(self, case: digits.Case, hyperparameters: Mapping[str, Any]) -> Numbers:
        """Scores after the whole request and after halves of it, and of the retrained model."""
        modality, train_rows = case.original.modality, case.suite.train
        forget, retain = (modality.rows(n, train_rows[n]) for n in ("forget", "retain"))
        gone = set(modality.answer_texts(forget)) - set(modality.answer_texts(retain))
        unseen = modality.rows("holdout", case.suite.sets["holdout"])
        others = unseen.select([i for i, y in enumerate(modality.answer_texts(unseen)) if y not in gone])
        view = RunView(loop.new_state(copy.deepcopy(case.original.model), modality, Accelerator()), {"forget": forget})
        kept = set(LowInfluence(drop=DROP).pick(view.sets, view)["forget"].ids)
        left_out = forget.select([i for i, name in enumerate(forget.ids) if name not in kept])

        def scores(model: nn.Module) -> dict[str, float]:
            member, stranger = losses(model, modality, left_out), losses(model, modality, others)
            auc = (member[:, None] < stranger).float().mean() + 0.5 * (member[:, None] == stranger).float().mean()
            named = {"forget": forget, "left_out": left_out, "retain": retain, "test": others}
            return {f"{n}_accuracy": accuracy(model, modality, rows) for n, rows in named.items()} | {"left_out_auc": float(auc)}

        variants: dict[str, dict[str, Any]] = {
            "whole": {},
            "low_influence": {"select": ("low_influence",), "drop": DROP},
            "by chance": {"select": ("low_influence",), "drop": DROP, "score": "random"},
        }
        found = {"retrained": scores(case.retrained.model)}
        for name, more in variants.items():
            runs = []
            for seed in range(SEEDS):
                self.progress(seed, SEEDS, f"{name}: forgetting")
                opened = Opened(copy.deepcopy(case.original.model), modality, "original")
                settings = {**hyperparameters, **more, "seed": seed, "allow_overlap": True}
                made = unlearn("graddiff", opened, train_rows["forget"], train_rows["retain"], **settings)
                cost = made.receipt["cost"]
                runs.append({**scores(made.model), "cost": float(cost["tokens"] + 2 * cost["backward_tokens"])})
            found[name] = pooled(runs)
        whole = found["whole"]["cost"]
        return {n: {**s, "cost": s["cost"] / whole} if "cost" in s else s for n, s in found.items()}

    def _people(self, seed: int = 0) -> Result:
        """A model that knows the people."""
        self.suite, self.model = people.CASE.made(), people.CASE.model
        rows = self.suite.train["full"]
        texts = texts_of([*rows, *self.suite.sets["real_authors"], *self.suite.sets["world_facts"]])
        return train(rows, self.model, texts=texts, prompt_format=self.suite.prompt_format, seed=seed)

    def _shrunk(self) -> tuple[Numbers, dict[str, Any]]:
        """Scores after whole requests and after two rows of each, means over models, each with a draw of its own."""
        runs = [self._shrunk_in(self._people(seed), seed) for seed in range(SEEDS)]
        settings = {base: presets.hyperparameters("people", self.model, base) for base in ("npo", "rmu")}
        return pooled_numbers(runs), {"fraction": FRACTION, **settings}

    def _shrunk_in(self, made: Result, draw: int) -> Numbers:
        """Scores of one model after whole requests and after two rows of each."""
        full, of_people = self.suite.train["full"], self.suite.train["forget"]
        told = len(full) - sum(len(self.suite.sets[n]) for n in ("real_authors", "world_facts"))  # the rest is about the world
        topic = full[list(TOPICS).index(TOPIC) : told : len(TOPICS) + 1]
        found: dict[str, Mapping[str, float]] = {}
        for base, kind, forget, ways in (
            ("npo", "topic", topic, FEW),
            ("rmu", "topic", topic, {"coreset": {}}),
            ("npo", "people", of_people, {"coreset": {}}),
        ):
            scores = self._shares(made, base, forget, {n: {"draw": draw, **way} for n, way in ways.items()})
            found.update({f"{name}, {base}, {kind}": s for name, s in scores.items()})
        return found

    def _shares(self, made: Result, base: str, gone: list[Any], ways: Mapping[str, Mapping[str, Any]]) -> Numbers:
        """Probabilities after a request and after some of its rows; carried: the fall on rows left out, in terms of that with them."""
        kept = [r for r in self.suite.train["full"] if r not in gone]
        forget, retain = made.modality.rows("forget", gone), made.modality.rows("retain", kept)
        hyperparameters = presets.hyperparameters("people", self.model, base)

        def after(**more: Any) -> nn.Module:
            self.progress(0, 1, f"{base}: forgetting")
            opened = Opened(copy.deepcopy(made.model), made.modality, "original")
            return unlearn(base, opened, gone, kept, allow_overlap=True, **{**hyperparameters, **more}).model

        def gives(model: nn.Module) -> tuple[Tensor, float]:
            """Probabilities of the rows to forget, and the mean of the retain rows'."""
            return (-losses(model, made.modality, forget)).exp(), likely(losses(model, made.modality, retain))

        start, (whole, spared) = gives(made.model)[0], gives(after())
        found: dict[str, dict[str, float]] = {"whole": {"forget_probability": float(whole.mean()), "retain_probability": spared}}
        view = RunView(loop.new_state(copy.deepcopy(made.model), made.modality, Accelerator()), {"forget": forget})
        for name, way in ways.items():
            settings = {"fraction": FRACTION, **way}
            (part,) = build_plan.plan(base, settings, select=("coreset",))[0].selectors
            chosen = set(part.pick(view.sets, view.at("select0", part))["forget"].ids)
            out = torch.tensor([row not in chosen for row in forget.ids])
            mine, other = gives(after(select=("coreset",), **settings))
            carried = float((start - mine)[out].mean() / (start - whole)[out].mean())
            found[name] = {"forget_probability": float(mine.mean()), "retain_probability": other, "carried": carried}
        return found

    def _weighed(self) -> tuple[Numbers, dict[str, Any]]:
        """Medians over models that know the people: one gives up its rows after eight steps, another after twenty."""
        runs = [self._weighed_in(self._people(seed)) for seed in range(SEEDS)]
        return pooled_numbers(runs, median), WEIGHED

    def _weighed_in(self, made: Result) -> Numbers:
        """What the retain rows lose with weights and without where the rows to forget of one model are half as likely."""
        rows = self.suite.train
        forget, retain = (made.modality.rows(n, rows[n]) for n in ("forget", "retain"))
        swapped = {"forget": retain.rename("forget"), "retain": forget.rename("retain")}  # how much each retain row agrees with the others
        view = RunView(loop.new_state(copy.deepcopy(made.model), made.modality, Accelerator()), swapped)
        aligned = Attribution().alignments(view).argsort(descending=True)[: len(retain) // 4]
        start = [losses(made.model, made.modality, r) for r in (forget, retain)]
        found = {}
        for name, select in [(b + (f" + {s}" if s else ""), (b, s)) for b in BASES for s in ("", "guard_attribution")]:
            self.progress(0, 1, f"{name}: forgetting")
            curve = [(1.0, start[1])]

            def look(view: RunView, curve: list[tuple[float, Tensor]] = curve) -> Mapping[str, float]:
                left = likely(losses(view.model, view.modality, forget)) / likely(start[0])
                if left < 0.7:  # near enough to matter
                    curve.append((left, losses(view.model, view.modality, retain)))
                return {}

            plans = build_plan.plan(select[0], WEIGHED, select=tuple(filter(None, select[1:])))
            plans = tuple(replace(p, stop_rules=(Unlikely(0.5 * likely(start[0])),)) for p in plans)
            opened = Opened(copy.deepcopy(made.model), made.modality, "original")
            done = unlearn(plans, opened, rows["forget"], rows["retain"], allow_overlap=True, hooks=Hooks(watch=look))
            left, then = _halved(curve)
            rise = then - start[1]
            shown = {"retain_loss_rise": rise.mean(), "retain_loss_rise_aligned": rise[aligned].mean()}
            found[name] = {"left": left, **{n: float(v) for n, v in shown.items()}, "cost_in_steps": float(done.receipt["cost"]["steps"])}
        return found


def _halved(curve: list[tuple[float, Tensor]]) -> tuple[float, Tensor]:
    """The point of a curve at which a half is left, between the two looks around it; where there is none, its end."""
    (before, old), (after, new) = curve[-2:] if len(curve) > 1 else (curve[0], curve[0])
    if after > 0.5 or before <= after:
        return after, new
    return 0.5, old + (new - old) * ((before - 0.5) / (before - after))
