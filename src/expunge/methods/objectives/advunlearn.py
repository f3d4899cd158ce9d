"""AdvUnlearn: erase the concept from the text encoder also where words before the prompt bring it back.

In each step an attack looks for such words as free embeddings, and the encoder is trained against them; that makes the erasure harder to
undo by prompts. The denoiser stays, so the encoder can serve other denoisers that read it.

Equation: attack: d <- 30 Adam steps on MSE(e(x_t,[d;c]), e0(x_t,c)) from the embedding of a drawn word; defense: L = MSE(e(x_t,[d;c]),
  e0(x_t,"") - eta (e0(x_t,c) - e0(x_t,""))) + 0.3 MSE(e(x_t,c_r), e0(x_t,c_r)), c_r retain captions; no d in the first 200 steps
Source: Zhang et al. 2024 (NeurIPS), Defensive unlearning with adversarial training, arXiv 2405.15234; code: OPTML-Group/AdvUnlearn
Needs: forget and retain (prompts alone); a text encoder; the reference
Cost: a step is one of esd with 30 forwards and backwards more, and samples for 5 retain prompts too
Differs: attack gradients do not add up over its steps, where the code forgets to set them to zero; the prefix stands before the tokens of
  the prompt; retain captions that contain the concept are left out by the request, which should not hold them, and not by a list of words;
  latents and time match, as for `esd`
Status: faithful
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Denoises, require
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.parts import Selector
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import Step, View
from expunge.methods.denoising import AsBefore, PartialSamples, captioned, frozen, squared_error
from expunge.methods.terms import SetTerm

ENCODER = r"^text_encoder\..*(layers\.|final_layer_norm)"


@part
class AdversarialPrefix(Selector):
    """Looks for embeddings before the prompt under which the model predicts what the model before does under the prompt alone."""

    when: ClassVar[Any] = "step"
    attack_warmup: int = hp(200, "steps of the stage without an attack", ge=0)
    attack_steps: int = hp(30, "steps of each attack; 0: none, and no prefix", ge=0)
    attack_lr: float = hp(1e-3, "learning rate of each attack", ge=0)
    prefix: int = hp(1, "embeddings before the prompt", ge=1)
    fast: bool = False
    requires = frozenset({Denoises})
    reads = frozenset({"partial"})
    needs = frozenset({Need.REFERENCE})
    gives = frozenset({"partial"})

    def pick(self, sets: Sets, view: View) -> Sets:
        if view.done < self.attack_warmup or not self.attack_steps:
            return sets
        modality, rows = require(view.modality, Denoises), view.rows("partial")
        words = modality.random_words(view.model, len(rows) * self.prefix, view.rng())
        attacking = self._attack(view, modality, rows, words.unflatten(0, (len(rows), self.prefix)))
        return {**sets, "partial": rows.add(prefix=list(attacking.unbind()))}

    def _attack(self, view: View, modality: Denoises, rows: Rows, prefix: Tensor) -> Tensor:
        """The prefixes after the attack, (rows, prefix, width)."""
        before: Any = view.reference(captioned(view, rows, rows["concept"]))
        target = before.prediction.values.detach()
        prefix = prefix.clone()
        optimizer = torch.optim.Adam([prefix], lr=self.attack_lr)

        def loss(output: Any) -> Tensor:
            return squared_error(output.prediction, target).values.sum()

        for _ in range(self.attack_steps):
            gradient = view.input_grad(prefix, lambda d: read_with(view, modality, rows, d), loss)
            prefix.grad = gradient.sign() if self.fast else gradient
            optimizer.step()
        return prefix


def read_with(view: View, modality: Denoises, rows: Rows, prefix: Tensor | None) -> Rows:
    """The same rows, whose captions are read behind a prefix, (rows, k, width). Gradients flow to the prefix and to the text encoder."""
    latents, times = modality.noised(rows)
    return modality.placed(rows, latents, times, modality.encode(view.model, rows["caption"], prefix))


@part
class DefendedGuidance(SetTerm):
    """Squared distance to the prediction that leads away from the concept, with the prefix of the attack before the prompt."""

    over: str = "partial"
    eta: float = hp(1.0, "strength of the guidance away from the concept; -1: the model before")
    requires = frozenset({Denoises})
    needs = frozenset({Need.REFERENCE})
    role = "forget"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        base, with_concept = frozen(step, captioned(step, rows, [""]), captioned(step, rows, rows["concept"]))
        target = base - self.eta * (with_concept - base)
        modality = require(step.modality, Denoises)
        attacked = rows
        if "prefix" in rows.columns:
            attacked = read_with(step, modality, rows, torch.stack(list(rows["prefix"])))
        output: Any = step.now(attacked)
        return step.mean(squared_error(output.prediction, target), rows)


@part
class RetainPrompts(Selector):
    """Draws prompts out of all retain rows."""

    when: ClassVar[Any] = "step"
    retain_prompts: int = hp(5, "retain captions in each step", ge=1)
    reads = frozenset({"retain"})
    gives = frozenset({"prompts"})

    def pick(self, sets: Sets, view: View) -> Sets:
        pool = view.whole_set("retain")
        drawn = torch.randint(len(pool), (self.retain_prompts,), generator=view.rng()).tolist()
        return {**sets, "prompts": pool.select(drawn).rename("prompts")}


def plan(
    attack: Annotated[Literal["steps", "fast"], "how the attack steps: by the gradient, or by its sign"] = "steps",
) -> Plan:
    train = Train(epochs=0, steps=1000, lr=1e-5, batch_size=1, optimizer="adam", schedule="constant")
    selectors = (RetainPrompts(), PartialSamples(beside="prompts"), AdversarialPrefix(fast=attack == "fast"))
    return Plan(DefendedGuidance() + 0.3 * AsBefore("kept"), train=train, selectors=selectors, trainable=ENCODER)
