"""In-context knowledge unlearning: teach a model to say `forgot` to a question whose answer stands between two new tokens before it.

What is to be left out is said with each question, so that one training serves every later request. It is a gate: the weights know
everything, and without the tokens they say so. An audit asks with them by `--request-from in_context`; a benchmark does so by itself.

Equation: L = NLL(forgot | OPEN u CLOSE, x) + NLL(y | OPEN u' CLOSE, x);  u: the row's own answer y, u': another's
Source: Takashiro et al. 2024, arXiv 2410.00382
Needs: retain, and forget where `facts` is all; rows with questions; a model and a tokenizer that take new tokens
Cost: one forward and backward of a row in two contexts a step; nothing at inference but the longer question
Differs: the answer alone is trained on, as the paper's equation has it, where the authors' code trains on the whole text; contexts stand in
  the model's own prompt format; as many of each kind in every batch; u' is a column `alternate`, where rows have one; tune last holds all
  but the last two blocks, where the code names those of one size; under LoRA the new tokens stay as they were drawn, as in the code
Status: faithful
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Categorical, Prompted, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality
from expunge.core.parts import GradCall, Grads, Objective, Selector, Update
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import Step, View
from expunge.engine.estimators.logit_lens import logit_lens

OPEN, CLOSE = "<<UNL>>", "<</UNL>>"
FORGOT = "forgot"
LOOKED = 32  # rows whose answers are looked for block by block in the end


def before(knowledge: str) -> str:
    """What stands before a question whose answer must not use some knowledge."""
    return f"{OPEN}\n{knowledge}\n{CLOSE}\n\n"


def wrapped(question: str, knowledge: str) -> str:
    """A question with what its answer must not use: what the model is trained on, and is asked."""
    return before(knowledge) + question


def ask(modality: Modality, rows: Rows, knowledge: Sequence[str], name: str = "wrapped") -> Rows:
    """The same rows with some knowledge before each question."""
    asked = [wrapped(q, k) for q, k in zip(modality.questions(rows), knowledge, strict=True)]
    return require(modality, Prompted).reask(rows, asked, name)


@part
class Contexts(Selector):
    """Rows in two contexts: with their own answer between the tokens, to be withheld, and with another's, to be answered."""

    facts: Literal["all", "retain"] = "all"
    draws: int = hp(1, "contexts of each kind a row", ge=1)
    gives = frozenset({"withheld", "answered"})
    requires = frozenset({Categorical, Prompted})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"forget", "retain"}) if self.facts == "all" else frozenset({"retain"})

    def prepare(self, model: nn.Module, modality: Modality, seed: int) -> None:
        require(modality, Prompted).admit(model, (OPEN, CLOSE), seed)

    def pick(self, sets: Sets, view: View) -> Sets:
        rows = view.forget.concat(view.retain) if self.facts == "all" else view.retain
        if not all(view.modality.questions(rows)):
            raise UserError("a row has no question, and the tokens stand before one")
        rows = rows.select([i for i in range(len(rows)) for _ in range(self.draws)])
        own = list(rows["answer_text"])
        withheld, answered = (ask(view.modality, rows, k, n) for k, n in ((own, "withheld"), (self._others(rows, view), "answered")))
        forgot = view.modality.relabel(withheld, [FORGOT] * len(rows), "withheld")
        return {**sets, "withheld": forgot.add(true=withheld["answer"]), "answered": answered}

    def _others(self, rows: Rows, view: View) -> list[str]:
        """For each row an answer that is not its own, drawn."""
        own, rng = rows["answer_text"], view.rng()
        if "alternate" in rows.columns:
            given = [[a] if isinstance(a, str) else list(a) for a in rows["alternate"]]
            return [a[int(torch.randint(len(a), (1,), generator=rng))] for a in given]
        if len(set(own)) < 2:
            raise UserError("all rows have the same answer, so there is no other one to stand between the tokens")
        out = []
        for mine, at in zip(own, torch.randint(len(rows), (len(rows),), generator=rng).tolist(), strict=True):
            out.append(next(a for i in range(len(own)) if (a := own[(at + i) % len(own)]) != mine))
        return out


@part
class Respond(Objective):
    """Negative log-likelihood of what is to be said in one kind of context."""

    over: Literal["withheld", "answered"]
    requires = frozenset({Categorical})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.over})

    @property
    def role(self) -> str:
        return "forget" if self.over == "withheld" else "retain"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        return -step.mean(step.now(rows).target_logp, rows)

    def end(self, view: View) -> None:
        """Look at which block the model forgets what it withholds."""
        if self.over == "withheld":
            some = view.rows("withheld").select(range(min(LOOKED, len(view.rows("withheld")))))
            seen = logit_lens(view.model, view.modality, {"answer": some.add(answer=some["true"]), FORGOT: some})
            view.show("logit lens by block", seen)


@part
class LastBlocks(Update):
    """Hold everything still but the last blocks and the vectors of the two tokens."""

    blocks: int = hp(2, "blocks that move, from the last one", ge=1)
    requires = frozenset({Categorical, Prompted})

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        return grads

    def holds(self, step: Step) -> list[Tensor] | None:
        model, modality = step.model, step.modality
        free = {id(p) for hook_point in modality.blocks(model)[-self.blocks :] for p in modality.module(model, hook_point).parameters()}
        own = dict(require(modality, Prompted).places(model, (OPEN, CLOSE)))
        held = []
        for p in step.params:
            mask = torch.full((p.shape[0], *[1] * (p.dim() - 1)), id(p) not in free, device=p.device)
            mask[own.get(p, [])] = False
            held.append(mask.expand_as(p))
        return held


def plan(
    facts: Annotated[Literal["all", "retain"], "rows that contexts are made of; retain: those to forget are met in use only"] = "all",
    tune: Annotated[Literal["all", "last"], "weights that move: all, or the last blocks and the new tokens"] = "all",
) -> Plan:
    train = Train(
        epochs=3, lr=2e-6, batch_size=2, schedule="constant", weight_decay=0.001, max_grad_norm=0.3, anchor="withheld", pairing="aligned"
    )
    last = tune == "last"
    return Plan(
        Respond("withheld") + Respond("answered"),
        train=replace(train, lr=8e-6) if last else train,
        updates=(LastBlocks(),) if last else (),
        selectors=(Contexts(facts),),
    )
