"""Random labels: train the forget rows on randomly drawn answers, and the retain rows on their own.

New answers overwrite the old ones, so the loss stays bounded. A classifier draws from its classes. A language model draws from the
request's alternate answers, or from refusals.

Equation: L = NLL(x, y~) on forget rows + NLL(x, y) on retain rows; y~ uniform over the alternate answers (`wrong`: over those other than
  y); turns: a pass over each set, new y~ in each; mixed: batches from both sets, new y~ in each epoch; amnesiac: mixed, wrong, drawn once
Source: turns, mixed: the base of SalUn, Fan et al. 2024, arXiv 2310.12508; amnesiac: Graves et al. 2021, arXiv 2010.10981, with the
  settings of Foster et al. 2023, arXiv 2308.07707
Needs: forget, retain, alternate answers (all classes, or refusals, where the request brings none)
Cost: one forward and backward of the rows of a pass
Differs: `epochs` counts passes, so turns takes two for each epoch of the authors; amnesiac is the relabeling form alone, not the one that
  subtracts recorded updates
Status: not shown
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


def draw_answers(own: Sequence[str], pool: Sequence[str], wrong: bool, generator: torch.Generator) -> list[str]:
    """Draw one answer per row, uniformly from a pool.

    Args:
        own: The row's own answer, one per row.
        pool: Answers to draw from.
        wrong: Draw only answers that differ from the row's own.
        generator: Source of randomness.

    Raises:
        UserError: when `wrong` leaves a row without any answer to draw.
    """
    choices = {answer: [a for a in pool if a != answer] if wrong else pool for answer in set(own)}
    if not all(choices.values()):
        raise UserError("there is no substitute for a label but itself: give more alternate answers, or leave `wrong` out")
    uniform = torch.rand(len(own), generator=generator, dtype=torch.float64).tolist()
    return [choices[answer][int(u * len(choices[answer]))] for answer, u in zip(own, uniform, strict=True)]


@part
class Relabel(Selector):
    """Gives forget rows other answers, drawn from the alternate answers.

    It runs before each epoch, not at the start, so that other parts begin with the true answers.
    """

    when = "epoch"
    over: Literal["forget", "mix"] = "forget"
    redraw: Literal["epoch", "once"] = hp("epoch", "draw new answers in each epoch, or draw once")
    wrong: bool = hp(False, "draw only answers that are not the row's own")
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
        forget, rest = (rows.select(i for i, flag in enumerate(flags) if flag == is_forget) for is_forget in (True, False))
        generator = view.rng() if self.redraw == "epoch" else torch.Generator().manual_seed(int(view.state["seed"]))
        answers = draw_answers(forget["answer_text"], pool["answer_text"], self.wrong, generator)
        return {**sets, self.over: view.modality.relabel(forget, answers, self.over).concat(rest)}


def plan(
    form: Annotated[
        Form, "turns: alternate passes over forget and retain rows; mixed: one set of both; amnesiac: wrong labels, drawn once"
    ] = "turns",
) -> Plan:
    sgd = Train(epochs=20, lr=0.013, batch_size=256, optimizer="sgd", momentum=0.9, weight_decay=5e-4, schedule="constant", anchor="retain")
    if form == "turns":
        return Plan(NLL("forget") + NLL("retain"), train=sgd, selectors=(Relabel(), Turns()))
    if form == "mixed":
        return Plan(NLL("mix"), train=replace(sgd, epochs=10, anchor="mix"), selectors=(Mix(), Relabel("mix")))
    train = Train(epochs=3, lr=1e-4, batch_size=128, optimizer="adam", schedule="constant", anchor="mix")
    return Plan(NLL("mix"), train=train, selectors=(Mix(), Relabel("mix", "once", wrong=True)))
