"""Alternate preference optimization (AltPO): prefer an invented answer in the style of the true answer over the true answer.

A plausible alternate answer keeps the model fluent. A refusal or nonsense would reveal that something is missing.

Equation: L = DPO(alternate over true answer | x_forget) + NLL(retain), with k alternates per question
Source: Mekala et al. 2024, arXiv 2409.13474
Needs: forget, retain; generation once at the start, unless the forget rows have a column `alternate`; the reference
Cost: k generations per question, once; then one forward and backward of forget rows, alternates and retain rows, and one reference
  forward a step
Differs: the wording of the request for an invented answer is ours; empty alternates are dropped
Status: not shown
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

REQUEST = (
    "Below is a question with its answer. Write another answer to it: the same style and length, but other facts, which sound right and "
    "are made up. Write nothing else.\nQuestion: {prompt}\nAnswer: {answer}\nOther answer:"
)


@part
class Alternates(Selector):
    """Repeat each forget row once per alternate answer: answers of the column `alternate`, or else answers that the model invents."""

    draws: int = hp(5, "alternate answers per question, where the model invents them", ge=1)
    length: int = hp(200, "longest alternate answer, in tokens", ge=1)
    heat: float = hp(1.0, "sampling temperature of the alternate answers", gt=0)
    request: str = hp(REQUEST, "request to the model; {prompt} and {answer} stand for those of the row")
    reads = frozenset({"forget"})
    requires = frozenset({Categorical, Generates, Prompted})
    gives = frozenset({"forget"})

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget
        if "alternate" in rows.columns:
            alternates = [[a] if isinstance(a, str) else list(a) for a in rows["alternate"]]
        else:
            alternates = self._invent(rows, view)
        if missing := sum(not texts for texts in alternates):
            raise UserError(f"{missing} of {len(rows)} rows to forget have no alternate answer: add one in the column 'alternate'")
        indices = [i for i, texts in enumerate(alternates) for _ in texts]
        return {**sets, "forget": rows.select(indices).add(alternate=[text for texts in alternates for text in texts])}

    def _invent(self, rows: Rows, view: View) -> list[list[str]]:
        """For each row the non-empty answers out of `draws` that the model generates."""
        requests = require(view.modality, Prompted).ask(rows, self.request)
        repeated = requests.select([i for i in range(len(rows)) for _ in range(self.draws)])
        generated = view.generate(repeated, self.length, sample=True, temperature=self.heat)
        texts = [before_next_question(t) for t in view.modality.decode(generated.ids)]
        return [[t for t in texts[i : i + self.draws] if t] for i in range(0, len(texts), self.draws)]


@part
class Alternate(Selector):
    """Make the alternate answer of each row the answer to prefer."""

    when = "step"
    reads = frozenset({"forget"})
    requires = frozenset({Categorical})
    gives = frozenset({"substitute"})

    def pick(self, sets: Sets, view: View) -> Sets:
        return {**sets, "substitute": view.modality.relabel(view.forget, view.forget["alternate"], "substitute")}


def before_next_question(text: str) -> str:
    """The answer without any questions that the model adds after it."""
    return re.split(r"Question:|Q:", text)[0].strip()


def plan() -> Plan:
    train = Train(epochs=2, lr=5e-5, batch_size=32, warmup=1, weight_decay=0.01)
    return Plan(DPO() + NLL("retain"), train=train, selectors=(Alternates(), Alternate()))
