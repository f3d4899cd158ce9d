"""UNSIR: learn noise that the model least takes for the class to forget, train on it under that class's name, then repair the rest.

The method is zero-glance: it uses only the class of the forget rows, never an image.

Equation: noise: N_1..N_n normal, then rounds steps of Adam on mean_i log p(c|N_i) + penalty mean_i |N_i|^2, in training mode; impair: NLL
  of copies of the noise, labeled c, and of retain rows, shuffled together; repair: NLL of the same retain rows
Source: Tarun et al. 2023, arXiv 2111.08947; with these settings: Foster et al. 2024, arXiv 2308.07707
Needs: forget (its classes alone), retain with other classes; inputs that are images
Cost: rounds forwards and backwards of n images; one epoch over copies x n noise images a class and the retain rows; one over those alone
Differs: the gradients that learning the noise leaves in the model are cleared, while the released code adds them to the first step; each of
  several classes to forget has its own noise. As in both released codes the noise is learned in training mode, so batch norm uses its own
  statistics; with the running ones (`training false`) the noise grows larger, more is forgotten and the other classes suffer more. The
  running statistics do not move meanwhile, while in the released codes they do
Status: not shown
"""

from dataclasses import replace
from typing import Annotated

import torch

from expunge.core.capabilities import Categorical, DifferentiableInputs
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Selector
from expunge.core.plan import Plan, Plans, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import View
from expunge.methods.terms import NLL


@part
class Others(Selector):
    """Keep the first retain rows of every class that no forget row has."""

    images: int = 500
    reads = frozenset({"forget", "retain"})
    gives = frozenset({"retain"})

    def pick(self, sets: Sets, view: View) -> Sets:
        forgotten, counts, kept = set(view.forget["answer_text"]), dict[str, int](), list[int]()
        for i, name in enumerate(view.retain["answer_text"]):
            counts[name] = counts.get(name, 0) + 1
            if name not in forgotten and counts[name] <= self.images:
                kept.append(i)
        if not kept:
            raise UserError(
                "this method forgets whole classes, and there is no retain row of another class: give retain rows of other classes"
            )
        return {**sets, "retain": view.retain.select(kept)}


@part
class Noise(Selector):
    """Give noise that the model does not take for the class to forget, labeled as this class, together with the retain rows."""

    count: int = hp(32, "noise images a class", ge=1)
    copies: int = hp(80, "copies of each noise image in the epoch", ge=1)
    rounds: int = hp(25, "steps of Adam on the noise; 0: the noise stays as drawn", ge=0)
    pace: float = hp(0.1, "learning rate of the noise", ge=0)
    penalty: float = hp(0.1, "weight of the noise's squared length", ge=0)
    training: bool = hp(True, "learn the noise in training mode: batch norm by the noise's own statistics; off: by its running ones")
    reads = frozenset({"forget", "retain"})
    gives = frozenset({"impair"})
    requires = frozenset({Categorical, DifferentiableInputs})

    def pick(self, sets: Sets, view: View) -> Sets:
        if self.training and self.count == 1:
            raise UserError("batch norm has no statistics of one noise image: give --count 2 or more, or --training false")
        impair, rng = view.retain, view.rng()
        for name in sorted(set(view.forget["answer_text"])):
            impair = self._noise(name, view, rng).concat(impair)
        return {**sets, "impair": impair.rename("impair")}

    def _noise(self, name: str, view: View, rng: torch.Generator) -> Rows:
        template = view.modality.relabel(view.forget.select([0] * self.count), [name] * self.count, "impair")
        template = replace(template, ids=tuple(f"noise {name} {i}" for i in range(self.count)))
        noise = torch.randn(view.modality.inputs(template).shape, generator=rng)

        def rows(x: torch.Tensor) -> Rows:
            return view.modality.moved(template, x, normalized=True)

        adam = torch.optim.Adam([noise], lr=self.pace)
        for _ in range(self.rounds):
            seed = int(torch.randint(2**31, (), generator=rng)) if self.training else None
            gradient = view.input_grad(noise, rows, lambda output: output.target_logp.values.mean(), training=seed)
            noise.grad = gradient + 2 * self.penalty * noise / self.count
            adam.step()
        return rows(noise.detach()).select(list(range(self.count)) * self.copies)


def plan(images: Annotated[int, "maximal number of retain rows a class that it trains on"] = 500) -> Plans:
    if images < 1:
        raise UserError(f"the repair needs at least one image a class, and images is {images}: give 1 or more")
    impair = Train(epochs=1, lr=1e-4, batch_size=32, optimizer="adam", schedule="constant", anchor="impair")
    repair = replace(impair, batch_size=128, anchor="retain")
    return (
        Plan(NLL("impair"), train=impair, selectors=(Others(images), Noise()), name="impair"),
        Plan(NLL("retain"), train=repair, selectors=(Others(images),), name="repair"),
    )
