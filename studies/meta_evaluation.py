"""Which audit to trust: every score and attack on language models of known state, `python -m studies.meta_evaluation`.

After the meta-evaluation of OpenUnlearning (arXiv 2506.12618), reconstructed from its description. All models start from a few bases,
which know other people. Some are trained on the rows to forget, word for word, in other words, or among other people: they know them. The
others are trained on the retained rows, on wrong answers about the same people, or on other people: they do not. Originals are unlearned
by several methods, and these models are then trained on rows to forget that no audit reads, rounded to 4 bits, and asked in other words.

A score is *faithful* if it tells models that know from models that do not: the area under the ROC curve, over both pools. It is *robust* if
what it says of an unlearned model survives: relearning raises it no more than for a model that never knew the rows,
R = min(rise of the retained / rise of the unlearned, 1), and rounding or rewording the question brings nothing up,
Q = min(before / after, 1); models that lost a fifth of their utility are left out. Where a score has neither risen, both are 1.

Every model is audited through `expunge.audit` beside one original and one retrained model of a base of their own. Records are kept by
content, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

import expunge
from expunge.benchmarks import people
from expunge.core.modality import Modality
from expunge.core.plan import Plan, Train
from expunge.engine import loop, receipt
from expunge.evaluation.attacks.quantize import quantized
from expunge.evaluation.audited_models import filtered
from expunge.io.models import Opened, cache_home
from expunge.methods.terms import NLL
from expunge.workflows.audit import audit
from expunge.workflows.audit_result import Audit
from expunge.workflows.train import texts_of, train
from expunge.workflows.unlearn import unlearn
from studies import meta_scores

OUT = Path(__file__).parents[1] / "results" / "meta"
SIZE = "nano"
BASES = 3  # beside the one that the original and the retrained model of every audit come from
ATTACKED = ("npo", "simnpo", "idk")  # methods whose models from the first base are attacked too
HELD = 4  # one forgotten row in so many is the relearning attacker's, and no audit reads it
TRAINING = {"epochs": 30, "batch_size": 32}
LEARNING = Train(epochs=12, lr=3e-3, batch_size=32, anchor="retain", max_grad_norm=1.0, warmup=1)
RELEARNING = Train(epochs=0, steps=20, lr=1e-3, batch_size=9, anchor="retain", schedule="constant")
UNRELATED = Train(epochs=10, lr=3e-4, batch_size=9, anchor="retain", schedule="constant")
STEPS = {"epochs": 20, "batch_size": 32, "schedule": "constant"}
METHODS: dict[str, dict[str, Any]] = {
    "graddiff": {"lr": 2e-4, **STEPS},
    "npo": {"lr": 1e-3, **STEPS},
    "simnpo": {"lr": 1e-3, **STEPS},
    "undial": {"lr": 5e-4, **STEPS},
    "idk": {"lr": 1e-3, **STEPS},
    "rmu": {"lr": 1e-2, "layer": 1, "coefficient": 20.0, **STEPS},
}
ATTACKS: dict[str, dict[str, Any]] = {
    "activation_probe": {},
    "backdoor": {"random": 16},
    "chameleon": {},
    "extraction": {"beams": 0},
    "finetune_benign": {"lr": 3e-4, "steps": 20, "every": 20},
    "jailbreak": {},
    "logit_lens": {},
    "multi_turn": {},
    "paraphrase": {},
    "proximal_surrogate": {},
    "prune": {},
    "quantize": {},
    "reformat": {},
    "relearn": {"lr": 3e-4, "steps": 20, "every": 20},
}
Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Known:
    """A model of known history.

    Args:
        history: what was done after the base, step by step, such as ("trained", "npo", "relearned").
        knows: whether it knows the rows to forget; None: that is what an audit of it should find.
        attacked: whether it is also attacked.
        rephrased: whether it is also asked in other words.
    """

    base: int
    history: tuple[str, ...]
    knows: bool | None
    attacked: bool = False
    rephrased: bool = False

    @property
    def name(self) -> str:
        return f"base {self.base}: {', '.join(self.history)}"


class Pool:
    """All models that start from bases, made when they are asked for."""

    def __init__(self) -> None:
        suite = people.load(split="forget10", seed=0, people=24, forget=4, holdout=8, retain_audit=27)
        self.prompt_format, self.alternate_answers = suite.prompt_format, suite.alternate_answers
        self.train = suite.train
        self.texts = texts_of([*suite.train["full"], *suite.sets["holdout"], *suite.sets["real_authors"], *suite.sets["world_facts"]])
        unseen, forget = list(suite.sets["holdout"]), list(suite.sets["forget"])
        self.other, holdout = unseen[: len(unseen) // 2], unseen[len(unseen) // 2 :]
        self.held, read = forget[::HELD], [r for i, r in enumerate(forget) if i % HELD]
        self.rows = {"forget": read, "retain": list(suite.sets["retain"]), "holdout": holdout[: len(read)]}
        self.forget = forget

    @cached_property
    def reference(self) -> dict[str, str]:
        """Observations of the original and the retrained model that every audit compares with."""
        folders = {}
        for name, history in (("original", ("trained",)), ("retrained", ("retained",))):
            opened = self.opened(BASES, history)
            folders[name] = cache_home() / "meta" / f"{name}-{sources()}"
            audit(opened, **self.rows, limit=0).observed.save(folders[name])  # type: ignore[arg-type]
        return {name: str(folder) for name, folder in folders.items()}

    def base(self, seed: int) -> Opened:
        """A model that knows the people to retain."""
        result = train(self.train["retain"], SIZE, texts=self.texts, prompt_format=self.prompt_format, seed=seed, **TRAINING)
        return Opened(result.model, result.modality, str(result.folder))

    def extra(self, step: str) -> Records:
        """The rows that a step of training adds to those to retain."""
        other_words = [{"question": r["paraphrased_question"], "answer": r["paraphrased_answer"]} for r in self.forget]
        wrong = [{"question": r["question"], "answer": r["perturbed_answer"][0]} for r in self.forget]
        rows = {
            "trained": self.forget,
            "trained in other words": other_words,
            "trained among others": [*self.forget, *self.other],
            "retained": [],
            "taught wrong answers": wrong,
            "taught other people": self.other,
        }[step]
        return [{"question": r["question"], "answer": r["answer"]} for r in rows]

    @cache  # noqa: B019 - one pool a run
    def opened(self, base: int, history: tuple[str, ...]) -> Opened:
        """The model of a history."""
        if not history:
            return self.base(base)
        before, step = self.opened(base, history[:-1]), history[-1]
        if step == "behind a filter":
            return Opened(before.model, filtered(before, before.modality.rows("forget", self.forget)), step)
        model = copy.deepcopy(before.model)
        if step in METHODS:
            start = Opened(model, before.modality, step)
            options = {"alternate_answers": self.alternate_answers, "seed": base, **METHODS[step]}
            model = unlearn(step, start, self.forget, self.train["retain"], **options).model
        elif step == "relearned":
            model = fitted(model, before.modality, self.held, RELEARNING, base)
        elif step == "trained further on others":
            model = fitted(model, before.modality, self.other, UNRELATED, base)
        elif step == "in 4 bits":
            model = quantized(model, 4, 64)
        else:
            model = fitted(model, before.modality, [*self.train["retain"], *self.extra(step)], LEARNING, base)
        return Opened(model.eval(), before.modality, step)


def fitted(model: nn.Module, modality: Modality, rows: Records, how: Train, seed: int) -> nn.Module:
    """The model after plain training on rows."""
    plan = Plan(NLL("retain"), train=how)
    return loop.run((plan,), model, modality, {"retain": modality.rows("retain", rows)}, seed=seed).model


def models() -> Iterator[Known]:
    """All models, in the order in which they can be made."""
    for base in range(BASES):
        for step in ("trained", "trained in other words", "trained among others"):
            yield Known(base, (step,), True, True, step == "trained")
        for step in ("retained", "taught wrong answers", "taught other people"):
            yield Known(base, (step,), False, True, step == "retained")
        yield Known(base, ("trained", "trained further on others"), True)
        yield Known(base, ("retained", "trained further on others"), False)
        yield Known(base, ("trained", "in 4 bits"), True)
        yield Known(base, ("retained", "in 4 bits"), False)
        yield Known(base, ("trained", "behind a filter"), True)
        yield Known(base, ("retained", "relearned"), None, base == 0)
        for method in METHODS:
            attacked = base == 0 and method in ATTACKED
            yield Known(base, ("trained", method), None, attacked, True)
            yield Known(base, ("trained", method, "relearned"), None, attacked)
            yield Known(base, ("trained", method, "in 4 bits"), None, attacked)


def record(pool: Pool, known: Known, attacks: bool) -> dict[str, Any]:
    """The scores of one model, or what attacks bring out of it, from disk where the same code said it."""
    content = [known.base, known.history, known.rephrased, attacks, sources()]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
    path = cache_home() / "meta" / f"{key}.json"
    if not path.exists():
        opened = pool.opened(known.base, known.history)
        receipt.write(path, attacked(pool, opened, known.base) if attacks else looked_at(pool, opened, known.rephrased))
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def looked_at(pool: Pool, opened: Opened, rephrased: bool) -> dict[str, Any]:
    """The verdict and the scores of the default audit; rephrased: also the scores of answers to other questions, beside no other model."""
    audited = audit(opened, **pool.rows, limit=0, **pool.reference)  # type: ignore[arg-type]
    about = {"verdict": audited.verdict.state, "scores": values(audited)}
    if rephrased:
        reworded = [{**r, "question": r["paraphrased_question"]} for r in pool.rows["forget"]]
        about["reworded"] = values(audit(opened, **{**pool.rows, "forget": reworded}, limit=0))  # type: ignore[arg-type]
    return about


def values(audited: Audit) -> dict[str, float]:
    """The values of all scores."""
    return {n: round(float(r["value"]), 6) for n, r in audited.scores.items()}


def attacked(pool: Pool, opened: Opened, base: int) -> dict[str, Any]:
    """The worst case of each attack, by the score that judges it."""
    every: dict[str, dict[str, Any]] = {**ATTACKS, "merge": {"family": pool.opened(base, ()).source}}
    settings = {f"{n}:{k}": v for n, options in every.items() for k, v in options.items()}
    audited = audit(opened, **pool.rows, limit=0, attack=tuple(every), attack_hyperparameters=settings)  # type: ignore[arg-type]
    outcomes = next(m for m in audited.models if m.name == "audited model").attacks
    worst = {name: [float(t.scores[o.lead]["value"]) for t in o.tries if o.lead in t.scores] for name, o in outcomes.items() if o.lead}
    return {"attacks": {name: round(max(cases), 5) for name, cases in worst.items() if cases}}


@cache
def sources() -> str:
    """A hash of the code of the package and of this study: records of other code are not reused."""
    files = [*Path(expunge.__file__).parent.rglob("*.py"), Path(__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> None:
    """Audit all models, and write what the audits say, and how far they can be trusted."""
    parser = argparse.ArgumentParser(prog="python -m studies.meta_evaluation", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--scores", action="store_true", help="score the audits of an earlier run again")
    options = parser.parse_args(arguments)
    path = options.out / "models.json"
    if not options.scores:
        receipt.write(path, audited())
    run = json.loads(path.read_text(encoding="utf-8"))
    kept = {name: run[name] for name in ("command", "model", "rows", "versions", "machine")}
    receipt.write(options.out / "scores.json", {**kept, **meta_scores.scored(run["models"])})


def audited() -> dict[str, Any]:
    """The audits of all models, with what they were made by."""
    torch.set_num_threads(1)
    pool, every = Pool(), list(models())
    records = [{"base": m.base, "history": list(m.history), "knows": m.knows, "attacks": {}} for m in every]
    passes = [(k, m, attacks) for attacks in (False, True) for k, m in enumerate(every) if m.attacked or not attacks]
    for done, (k, known, attacks) in enumerate(passes, 1):
        started = time.monotonic()
        records[k] |= record(pool, known, attacks)
        what = "attacked" if attacks else records[k]["verdict"]
        print(f"{done}/{len(passes)} {known.name}: {what} ({time.monotonic() - started:.1f} s)", flush=True)
    return {
        "command": "python -m studies.meta_evaluation",
        "model": SIZE,
        "rows": {name: len(rows) for name, rows in pool.rows.items()},
        "models": records,
        "versions": receipt.versions(),
        "machine": receipt.machine(),
    }


if __name__ == "__main__":
    main()
