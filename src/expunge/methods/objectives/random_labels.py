"""Random labels: train the rows to forget on answers drawn at random, and the retain rows on their own.

What was learned is written over, not pushed down, so the loss stays bounded. A classifier's answers are its classes, a language model's
the request's alternate answers, or refusals.

Equation: L = NLL(x, y~) on forget rows + NLL(x, y) on retain rows; y~ uniform over the alternate answers (`wrong`: over those that are not y);
  turns: a pass over each set, y~ anew in each; mixed: batches from both sets, y~ anew in each epoch; amnesiac: mixed, wrong, drawn once
Source: turns, mixed: the base of SalUn, Fan et al. 2024, arXiv 2310.12508; amnesiac: Graves et al. 2021, arXiv 2010.10981, with the
  settings of Foster et al. 2023, arXiv 2308.07707
Needs: forget, retain, alternate answers (all classes, or refusals, where the request brings none)
Cost: one forward and backward of the rows of a pass
Differs: `epochs` counts passes, so turns takes two for each epoch of the authors; amnesiac is the relabelling form alone, not the one that
  subtracts recorded updates
Status: reproduced
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch

from expunge.core.capabilities import Categorical
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Selector
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.core.view import State, View
from expunge.methods.terms import NLL, Mix, Turns

Form = Literal["turns", "mixed", "amnesiac"]


def drawn(own: Sequence[str], pool: Sequence[str], wrong: bool, generator: torch.Generator) -> list[str]:
    """An answer of the pool for each of some rows, every one as likely; `wrong`: of those that are not the row's own."""
    choices = {mine: [a for a in pool if a != mine] if wrong else pool for mine in set(own)}
    if stuck := [mine for mine, others in choices.items() if not others]:
        raise UserError(f"there is no substitute but {stuck[0]!r} itself: give more, or leave wrong out")
    at = torch.rand(len(own), generator=generator, dtype=torch.float64).tolist()
    return [choices[mine][int(u * len(choices[mine]))] for mine, u in zip(own, at, strict=True)]


@part
class Relabel(Selector):
    """Give rows to forget other answers, drawn from the alternate answers. Before an epoch, so that other parts begin with the true ones."""

    when = "epoch"
    over: Literal["forget", "mix"] = "forget"
    redraw: Literal["epoch", "once"] = hp("epoch", "whether answers are drawn anew in each epoch, or once")
    wrong: bool = hp(False, "draw among the answers that are not the row's own")
    requires = frozenset({Categorical})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.over, "alternate_answers"})

    @property
    def gives(self) -> frozenset[str]:
        return frozenset({self.over})

    def begin(self, view: View) -> State:
        return {"seed": torch.randint(2**31, (1,), generator=view.rng())}

    def pick(self, sets: Sets, view: View) -> Sets:
        rows, pool = view.rows(self.over), view.rows("alternate_answers")
        flags = rows.columns.get("forgets", [True] * len(rows))
        mine, rest = (rows.select(i for i, f in enumerate(flags) if f == which) for which in (True, False))
        generator = view.rng() if self.redraw == "epoch" else torch.Generator().manual_seed(int(view.state["seed"]))
        answers = drawn(mine["answer_text"], pool["answer_text"], self.wrong, generator)
        return {**sets, self.over: view.modality.relabel(mine, answers, self.over).concat(rest)}


def plan(
    form: Annotated[
        Form, "turns: passes over forget and retain rows by turns; mixed: one set of both; amnesiac: wrong labels, drawn once"
    ] = "turns",
) -> Plan:
    sgd = Train(epochs=20, lr=0.013, batch_size=256, optimizer="sgd", momentum=0.9, weight_decay=5e-4, schedule="constant", anchor="retain")
    if form == "turns":
        return Plan(NLL("forget") + NLL("retain"), train=sgd, selectors=(Relabel(), Turns()))
    if form == "mixed":
        return Plan(NLL("mix"), train=replace(sgd, epochs=10, anchor="mix"), selectors=(Mix(), Relabel("mix")))
    train = Train(epochs=3, lr=1e-4, batch_size=128, optimizer="adam", schedule="constant", anchor="mix")
    return Plan(NLL("mix"), train=train, selectors=(Mix(), Relabel("mix", "once", wrong=True)))
