"""In-context knowledge unlearning: teach a model to answer `forgot` when the true answer stands between two new tokens before the question.

Each question states the knowledge to leave out, so one training serves every later request. It is a gate: the weights still hold
everything, and without the tokens the model says so. An audit asks with the tokens by `--request-from in_context`; a benchmark does so by
itself.

Equation: L = NLL(forgot | OPEN u CLOSE, x) + NLL(y | OPEN u' CLOSE, x);  u: the row's own answer y, u': another's
Source: Takashiro et al. 2024, arXiv 2410.00382
Needs: retain, and forget where `facts` is all; rows with questions; a model and a tokenizer that take new tokens
Cost: one forward and backward of a row in two contexts a step; nothing at inference except the longer question
Differs: only the answer is trained on, as in the paper's equation, where the authors' code trains on the whole text; contexts stand in the
  model's own prompt format; every batch holds equally many contexts of each kind; u' comes from a column `alternate`, where rows have one;
  tune last holds all but the last two blocks, where the code names the blocks of one model size, and frees the new tokens' rows of an
  output head of its own (untied), too, where the code frees their embeddings alone; under LoRA the vectors of the new tokens keep their
  initial values, as in the code
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
from expunge.core.parts import GradCall, Grads, Selector, Update
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import Step, View
from expunge.engine.estimators.logit_lens import logit_lens
from expunge.methods.terms import SetTerm

OPEN, CLOSE = "<<UNL>>", "<</UNL>>"
FORGOT = "forgot"
LENS_ROWS = 32  # rows of the logit lens at the end


def before(knowledge: str) -> str:
    """The text before a question that names the knowledge to leave out."""
    return f"{OPEN}\n{knowledge}\n{CLOSE}\n\n"


def wrapped(question: str, knowledge: str) -> str:
    """A question after the knowledge that its answer must not use, in training and in use."""
    return before(knowledge) + question


def ask(modality: Modality, rows: Rows, knowledge: Sequence[str], name: str = "wrapped") -> Rows:
    """The same rows, with knowledge to leave out before each question.

    Args:
        knowledge: one text per row.
        name: name of the new set.

    Raises:
        UserError: when rows of the modality do not ask in words.
    """
    questions = [wrapped(q, k) for q, k in zip(modality.questions(rows), knowledge, strict=True)]
    return require(modality, Prompted).reask(rows, questions, name)


@part
class Contexts(Selector):
    """Put each row in two contexts: its own answer between the tokens, to be withheld, and another row's answer, to be answered."""

    facts: Literal["all", "retain"] = "all"
    draws: int = hp(1, "contexts of each kind per row", ge=1)
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
            raise UserError("some rows have no question, but the tokens stand before a question: give rows with questions")
        rows = rows.select([i for i in range(len(rows)) for _ in range(self.draws)])
        withheld = ask(view.modality, rows, list(rows["answer_text"]), "withheld")
        answered = ask(view.modality, rows, self._draw_alternates(rows, view), "answered")
        forgot = view.modality.relabel(withheld, [FORGOT] * len(rows), "withheld")
        return {**sets, "withheld": forgot.add(true=withheld["answer"]), "answered": answered}

    def _draw_alternates(self, rows: Rows, view: View) -> list[str]:
        """Draw for each row an answer that is not its own."""
        answers, rng = rows["answer_text"], view.rng()
        if "alternate" in rows.columns:
            candidates = [[a] if isinstance(a, str) else list(a) for a in rows["alternate"]]
            if missing := sum(not texts for texts in candidates):
                raise UserError(f"{missing} of {len(rows)} rows have no other answer: add one in the column 'alternate', or leave it out")
            return [texts[int(torch.randint(len(texts), (1,), generator=rng))] for texts in candidates]
        if len(set(answers)) < 2:
            raise UserError(
                "all rows have the same answer, so no other answer can stand between the tokens: give rows with different answers, "
                "or a column 'alternate'"
            )
        drawn = []
        for answer, start in zip(answers, torch.randint(len(rows), (len(rows),), generator=rng).tolist(), strict=True):
            drawn.append(next(a for i in range(len(answers)) if (a := answers[(start + i) % len(answers)]) != answer))
        return drawn


@part
class Respond(SetTerm):
    """Negative log-likelihood of the target answers in one kind of context."""

    over: Literal["withheld", "answered"]
    requires = frozenset({Categorical})

    @property
    def role(self) -> str:
        return "forget" if self.over == "withheld" else "retain"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        return -step.mean(step.now(rows).target_logp, rows)

    def end(self, view: View) -> None:
        """Show by a logit lens at which block the model turns from the true answer to `forgot`."""
        if self.over == "withheld":
            rows = view.rows("withheld").select(range(min(LENS_ROWS, len(view.rows("withheld")))))
            records = logit_lens(view.model, view.modality, {"answer": rows.add(answer=rows["true"]), FORGOT: rows})
            view.show("logit lens by block", records)


@part
class LastBlocks(Update):
    """Hold all weights except the last blocks and the vectors of the two tokens."""

    blocks: int = hp(2, "number of last blocks that move", ge=1)
    requires = frozenset({Categorical, Prompted})

    def wrap(self, grads: Grads, step: Step) -> GradCall:
        return grads

    def holds(self, step: Step) -> list[Tensor] | None:
        model, modality = step.model, step.modality
        moving = {id(p) for hook_point in modality.blocks(model)[-self.blocks :] for p in modality.module(model, hook_point).parameters()}
        token_rows = dict(require(modality, Prompted).places(model, (OPEN, CLOSE)))
        masks = []
        for p in step.params:
            mask = torch.full((p.shape[0], *[1] * (p.dim() - 1)), id(p) not in moving, device=p.device)
            mask[token_rows.get(p, [])] = False
            masks.append(mask.expand_as(p))
        return masks


def plan(
    facts: Annotated[Literal["all", "retain"], "rows that contexts are made of; retain: rows to forget occur in use only"] = "all",
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
