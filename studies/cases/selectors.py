"""The case of selectors: the same method on the same request, with and without a selector before it.

- low_influence: a selector leaves out the half of the rows that matters least to a classifier of digits. The result is compared with the
  whole request and with a random half; numbers are means over seeds.
- guard_attribution: the retain rows of the fictitious people get weights. The loss of the retain rows is compared at the point where the
  probability of the rows to forget has halved; numbers are medians over models.
- coreset: two rows stand for one topic about all people, or for all rows about some people; numbers are means over models.
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
from expunge.engine.hooks import Hooks
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
SPLITS = ("class", "random")  # names of the case `digits`
RANDOM = {"lr": 1e-3, "epochs": 5}  # weaker than the preset, which is for a class: a tenth of all digits needs less
WEIGHED = {"lr": 1e-3, "batch_size": 36, "epochs": 30, "schedule": "constant", "warmup": 0}  # every batch contains all rows to forget
BASES = ("ga", "graddiff")
TOPIC = "pet"  # a topic with a question about each of the 40 people
FRACTION = 0.06  # of the 40 rows of the topic, or of the 36 about four people: two
FEW: dict[str, dict[str, Any]] = {  # ways to forget them with npo; the claims are about the first
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
    """Distance of the forget accuracy from the accuracy after the whole request, on random digits."""
    return abs(n[name]["forget_accuracy"] - n["whole, random"]["forget_accuracy"])


@part
class Unlikely(Stop):
    """Stop once the rows to forget are improbable enough."""

    probability: float = hp(0.5, "mean probability, of the mean label of a row, at which enough is forgotten")
    reads = frozenset({"forget"})

    def stop(self, view: RunView) -> str | None:
        return "forgotten" if likely(losses(view.model, view.modality, view.forget)) <= self.probability else None


@torch.no_grad()
def losses(model: nn.Module, modality: Modality, rows: Rows, batch_size: int = 64) -> Tensor:
    """The mean loss of the labels of each row, (rows,), in nats."""
    with evaluating(model):
        pieces = [rows.select(range(i, min(i + batch_size, len(rows)))) for i in range(0, len(rows), batch_size)]
        return torch.cat([-modality.forward(model, [piece])[0].target_logp.mean() for piece in pieces])


def likely(loss: Tensor) -> float:
    """Mean probability of rows with these losses."""
    return float((-loss).exp().mean())


@torch.no_grad()
def accuracy(model: nn.Module, modality: Modality, rows: Rows) -> float:
    """Share of the labels that are the most probable class of the model."""
    with evaluating(model):
        output = modality.forward(model, [rows])[0]
    return float((output.logits.values.argmax(-1) == output.labels).float().mean())


class Case:
    """Digits or people, depending on the selector."""

    suite: Any
    model: str

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def measure(self, name: str) -> tuple[Numbers, dict[str, Any]]:
        """Return scores with and without the selector, and the hyperparameters of the method."""
        return {"low_influence": self._pruned, "guard_attribution": self._weighed, "coreset": self._shrunk}[name]()

    def _pruned(self) -> tuple[Numbers, dict[str, Any]]:
        numbers: dict[str, Mapping[str, float]] = {}
        hyperparameters = {"class": presets.hyperparameters("digits", digits.CASE.model, "graddiff"), "random": RANDOM}
        for kind in SPLITS:
            case = digits.Case(self.progress, kind)
            self.suite, self.model = case.suite, case.model
            numbers.update({f"{n}, {kind}": scores for n, scores in self._halves(case, hyperparameters[kind]).items()})
        return numbers, {"drop": DROP, **hyperparameters}

    def _halves(self, case: digits.Case, hyperparameters: Mapping[str, Any]) -> Numbers:
        """Scores of the retrained model, and of the original after the whole request and after halves of it."""
        modality, train_rows = case.original.modality, case.suite.train
        forget, retain = (modality.rows(n, train_rows[n]) for n in ("forget", "retain"))
        forgotten = set(modality.answer_texts(forget)) - set(modality.answer_texts(retain))
        unseen = modality.rows("holdout", case.suite.sets["holdout"])
        others = unseen.select([i for i, y in enumerate(modality.answer_texts(unseen)) if y not in forgotten])
        view = RunView(loop.new_state(copy.deepcopy(case.original.model), modality, Accelerator()), {"forget": forget})
        kept = set(LowInfluence(drop=DROP).pick(view.sets, view)["forget"].ids)
        left_out = forget.select([i for i, name in enumerate(forget.ids) if name not in kept])

        def scores(model: nn.Module) -> dict[str, float]:
            members, nonmembers = losses(model, modality, left_out), losses(model, modality, others)
            auc = (members[:, None] < nonmembers).float().mean() + 0.5 * (members[:, None] == nonmembers).float().mean()
            sets = {"forget": forget, "left_out": left_out, "retain": retain, "test": others}
            return {f"{n}_accuracy": accuracy(model, modality, rows) for n, rows in sets.items()} | {"left_out_auc": float(auc)}

        variants: dict[str, dict[str, Any]] = {
            "whole": {},
            "low_influence": {"select": ("low_influence",), "drop": DROP},
            "by chance": {"select": ("low_influence",), "drop": DROP, "score": "random"},
        }
        numbers = {"retrained": scores(case.retrained.model)}
        for name, options in variants.items():
            runs = []
            for seed in range(SEEDS):
                self.progress(seed, SEEDS, f"{name}: forgetting")
                opened = Opened(copy.deepcopy(case.original.model), modality, "original")
                settings = {**hyperparameters, **options, "seed": seed, "allow_overlap": True}
                result = unlearn("graddiff", opened, train_rows["forget"], train_rows["retain"], **settings)
                cost = result.receipt["cost"]
                runs.append({**scores(result.model), "cost": float(cost["tokens"] + 2 * cost["backward_tokens"])})
            numbers[name] = pooled(runs)
        whole = numbers["whole"]["cost"]
        return {n: {**s, "cost": s["cost"] / whole} if "cost" in s else s for n, s in numbers.items()}

    def _people(self, seed: int = 0) -> Result:
        """A model that knows the people."""
        self.suite, self.model = people.CASE.load_suite(), people.CASE.model
        rows = self.suite.train["full"]
        texts = texts_of([*rows, *self.suite.sets["real_authors"], *self.suite.sets["world_facts"]])
        return train(rows, self.model, texts=texts, prompt_format=self.suite.prompt_format, seed=seed)

    def _shrunk(self) -> tuple[Numbers, dict[str, Any]]:
        """Scores after whole requests and after two rows of each; means over models, each with its own draw of the rows."""
        runs = [self._shrunk_in(self._people(seed), seed) for seed in range(SEEDS)]
        settings = {base: presets.hyperparameters("people", self.model, base) for base in ("npo", "rmu")}
        return pooled_numbers(runs), {"fraction": FRACTION, **settings}

    def _shrunk_in(self, original: Result, draw: int) -> Numbers:
        """Scores of one model after whole requests and after two rows of each."""
        full, of_people = self.suite.train["full"], self.suite.train["forget"]
        about_people = len(full) - sum(len(self.suite.sets[n]) for n in ("real_authors", "world_facts"))  # the rest is about the world
        topic = full[list(TOPICS).index(TOPIC) : about_people : len(TOPICS) + 1]
        numbers: dict[str, Mapping[str, float]] = {}
        for base, kind, forget, ways in (
            ("npo", "topic", topic, FEW),
            ("rmu", "topic", topic, {"coreset": {}}),
            ("npo", "people", of_people, {"coreset": {}}),
        ):
            scores = self._shares(original, base, forget, {n: {"draw": draw, **way} for n, way in ways.items()})
            numbers.update({f"{name}, {base}, {kind}": s for name, s in scores.items()})
        return numbers

    def _shares(self, original: Result, base: str, forget_rows: list[Any], ways: Mapping[str, Mapping[str, Any]]) -> Numbers:
        """Probabilities after a whole request and after some of its rows.

        `carried` is the fall of the probability on rows left out, as a share of the fall after the whole request.
        """
        retain_rows = [r for r in self.suite.train["full"] if r not in forget_rows]
        forget, retain = original.modality.rows("forget", forget_rows), original.modality.rows("retain", retain_rows)
        hyperparameters = presets.hyperparameters("people", self.model, base)

        def after(**options: Any) -> nn.Module:
            self.progress(0, 1, f"{base}: forgetting")
            opened = Opened(copy.deepcopy(original.model), original.modality, "original")
            return unlearn(base, opened, forget_rows, retain_rows, allow_overlap=True, **{**hyperparameters, **options}).model

        def probabilities(model: nn.Module) -> tuple[Tensor, float]:
            """Probabilities of the rows to forget, and the mean probability of the retain rows."""
            return (-losses(model, original.modality, forget)).exp(), likely(losses(model, original.modality, retain))

        start, (whole, whole_retain) = probabilities(original.model)[0], probabilities(after())
        numbers: dict[str, dict[str, float]] = {"whole": {"forget_probability": float(whole.mean()), "retain_probability": whole_retain}}
        view = RunView(loop.new_state(copy.deepcopy(original.model), original.modality, Accelerator()), {"forget": forget})
        for name, way in ways.items():
            settings = {"fraction": FRACTION, **way}
            (part,) = build_plan.plan(base, settings, select=("coreset",))[0].selectors
            chosen = set(part.pick(view.sets, view.at("select0", part))["forget"].ids)
            left_out = torch.tensor([row not in chosen for row in forget.ids])
            few, few_retain = probabilities(after(select=("coreset",), **settings))
            carried = float((start - few)[left_out].mean() / (start - whole)[left_out].mean())
            numbers[name] = {"forget_probability": float(few.mean()), "retain_probability": few_retain, "carried": carried}
        return numbers

    def _weighed(self) -> tuple[Numbers, dict[str, Any]]:
        """Medians over models that know the people, because models need different numbers of steps, such as eight or twenty."""
        runs = [self._weighed_in(self._people(seed)) for seed in range(SEEDS)]
        return pooled_numbers(runs, median), WEIGHED

    def _weighed_in(self, original: Result) -> Numbers:
        """Rise of the retain losses of one model, with and without weights, where the probability of the rows to forget has halved."""
        rows = self.suite.train
        forget, retain = (original.modality.rows(n, rows[n]) for n in ("forget", "retain"))
        swapped = {"forget": retain.rename("forget"), "retain": forget.rename("retain")}  # to align each retain row with the others
        view = RunView(loop.new_state(copy.deepcopy(original.model), original.modality, Accelerator()), swapped)
        aligned = Attribution().alignments(view).argsort(descending=True)[: len(retain) // 4]
        start = [losses(original.model, original.modality, r) for r in (forget, retain)]
        numbers = {}
        for name, select in [(b + (f" + {s}" if s else ""), (b, s)) for b in BASES for s in ("", "guard_attribution")]:
            self.progress(0, 1, f"{name}: forgetting")
            curve = [(1.0, start[1])]

            def record(view: RunView, curve: list[tuple[float, Tensor]] = curve) -> Mapping[str, float]:
                left = likely(losses(view.model, view.modality, forget)) / likely(start[0])
                if left < 0.7:  # only points near a half matter
                    curve.append((left, losses(view.model, view.modality, retain)))
                return {}

            plans = build_plan.plan(select[0], WEIGHED, select=tuple(filter(None, select[1:])))
            plans = tuple(replace(p, stop_rules=(Unlikely(0.5 * likely(start[0])),)) for p in plans)
            opened = Opened(copy.deepcopy(original.model), original.modality, "original")
            result = unlearn(plans, opened, rows["forget"], rows["retain"], allow_overlap=True, hooks=Hooks(watch=record))
            left, halved = _halved(curve)
            rise = halved - start[1]
            rises = {"retain_loss_rise": rise.mean(), "retain_loss_rise_aligned": rise[aligned].mean()}
            scores = {n: float(v) for n, v in rises.items()}
            numbers[name] = {"left": left, **scores, "cost_in_steps": float(result.receipt["cost"]["steps"])}
        return numbers


def _halved(curve: list[tuple[float, Tensor]]) -> tuple[float, Tensor]:
    """The point of a curve at 0.5, interpolated between its last two points; its end if the curve does not cross 0.5."""
    (before, old), (after, new) = curve[-2:] if len(curve) > 1 else (curve[0], curve[0])
    if after > 0.5 or before <= after:
        return after, new
    return 0.5, old + (new - old) * ((before - 0.5) / (before - after))
