"""Alternate preference optimisation (AltPO): prefer a made-up answer in the style of the true one over the true one.

A plausible other answer keeps the model fluent where a refusal or nonsense would give away that something is missing.

Equation: L = DPO(alternate over true answer | x_forget) + NLL(retain), with k alternates a question
Source: Mekala et al. 2024, arXiv 2409.13474
Needs: forget, retain; generation once at the start, unless the forget rows have a column `alternate`; the reference
Cost: k generations a question once; one forward and backward of forget rows, alternates and retain rows, and one reference forward a step
Differs: the request to make up an answer is in our words; alternates that come out empty are dropped
Status: reproduced
"""

import re

from expunge.core.capabilities import Categorical, Generates, Prompted, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Selector
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import View
from expunge.methods.objectives.dpo import DPO
from expunge.methods.terms import NLL

ASK = (
    "Below is a question with its answer. Write another answer to it: the same style and length, but other facts, which sound right and "
    "are made up. Write nothing else.\nQuestion: {prompt}\nAnswer: {answer}\nOther answer:"
)


@part
class Alternates(Selector):
    """Every forget row once for each of its alternate answers: the given ones (column `alternate`), else the model's own."""

    draws: int = hp(5, "alternate answers a question, where they are made by the model", ge=1)
    length: int = hp(200, "longest alternate answer, in tokens", ge=1)
    heat: float = hp(1.0, "temperature that alternates are drawn at", gt=0)
    request: str = hp(ASK, "what the model is asked; {prompt} and {answer} stand for the row's own")
    reads = frozenset({"forget"})
    requires = frozenset({Categorical, Generates, Prompted})
    gives = frozenset({"forget"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget
        if "alternate" in rows.columns:
            answers = [[a] if isinstance(a, str) else list(a) for a in rows["alternate"]]
        else:
            answers = self._made(rows, view)
        if bare := sum(not a for a in answers):
            raise UserError(f"{bare} of {len(rows)} rows got no alternate answer: give some in a column 'alternate' of the forget rows")
        places = [i for i, a in enumerate(answers) for _ in a]
        return {**sets, "forget": rows.select(places).add(alternate=[a for row in answers for a in row])}

    def _made(self, rows: Rows, view: View) -> list[list[str]]:
        asked = require(view.modality, Prompted).ask(rows, self.request)
        many = asked.select([i for i in range(len(rows)) for _ in range(self.draws)])
        said = [before_next(t) for t in view.modality.decode(view.generate(many, self.length, sample=True, temperature=self.heat).ids)]
        return [[t for t in said[i : i + self.draws] if t] for i in range(0, len(said), self.draws)]


@part
class Alternate(Selector):
    """The alternate answer of each row, as the answer to prefer."""

    when = "step"
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    gives = frozenset({"substitute"})

    def pick(self, sets: Sets, view: View) -> Sets:
        return {**sets, "substitute": view.modality.relabel(view.forget, view.forget["alternate"], "substitute")}


def before_next(text: str) -> str:
    """An answer without the questions that a model makes up behind it."""
    return re.split(r"Question:|Q:", text)[0].strip()


def plan() -> Plan:
    train = Train(epochs=2, lr=5e-5, batch_size=32, warmup=1, weight_decay=0.01)
    return Plan(DPO() + NLL("retain"), train=train, selectors=(Alternates(), Alternate()))
