"""ESD: train the model to predict, under the prompt to forget, what leads away from the concept.

The model before is its own teacher: what its prediction for the concept adds to that for the empty prompt is taken off. No picture is
needed, since the model samples the noisy latents by itself.

Equation: L = MSE(e(x_t,c), e0(x_t,"") - eta (e0(x_t,c) - e0(x_t,""))); x_t from a sampling with guidance 3 that stops at a step drawn
  among 50, t drawn between that step and the next; e the prediction, e0 that of the model before. current: target e0(c') - eta (e0(c) -
  e0("")), c' the prompt that c is erased from, by default c, so that its eta is that of the paper plus 1; x_t is then sampled by the model
  before, and t is its own time; no weight of a normalization trains
Source: Gandikota et al. 2023 (ICCV), Erasing concepts from diffusion models, arXiv 2303.07345; code: rohitgandikota/erasing
Needs: forget (prompts alone); the reference
Cost: a step samples 25 steps with guidance on average, and takes a forward pass of the reference for two prompts, and a forward and
  backward of one
Differs: latents and time are of the same grid cell, where the original code stops the sampling two cells cleaner than the time; rows of a
  batch share the step at which sampling stops; the pipeline's own scheduler samples, which is DDIM for the original code. The equation is
  linear with weights that add up to 1, so it is the same for models that predict velocities or pictures
Status: shown
"""

from typing import Annotated, Any, Literal

from torch import Tensor

from expunge.core.capabilities import Denoises
from expunge.core.hyperparameters import hp, part
from expunge.core.needs import Need
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.methods.denoising import (
    BUT_CROSS_ATTENTION,
    CAPTION_READERS,
    CROSS_ATTENTION,
    DENOISER,
    SELF_ATTENTION,
    PartialSamples,
    captioned,
    frozen,
    squared_error,
)
from expunge.methods.terms import SetTerm

Layers = Literal["x", "u", "strict", "self", "full"]


@part
class NegativeGuidance(SetTerm):
    """Squared distance to the prediction that leads away from the concept."""

    over: str = "partial"
    eta: float = hp(1.0, "strength of the guidance away from the concept; original: -1 changes nothing, current: 0")
    neutral: str = hp("", "prompt that the concept is seen from; '': the empty prompt")
    convention: Literal["original", "current"] = "original"
    requires = frozenset({Denoises})
    needs = frozenset({Need.REFERENCE})
    role = "forget"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        empty, concept = captioned(step, rows, [self.neutral]), captioned(step, rows, rows["concept"])
        if self.convention == "original":
            base, with_concept = frozen(step, empty, concept)
            target = base - self.eta * (with_concept - base)
        else:
            without, with_concept, base = frozen(step, empty, concept, rows)
            target = base - self.eta * (with_concept - without)
        output: Any = step.now(rows)
        return step.mean(squared_error(output.prediction, target), rows)


def plan(
    layers: Annotated[
        Layers,
        "what trains: x: cross-attention, for styles; u: all but it, for objects; strict: keys and values of x; self: self-attention; full",
    ] = "x",
    convention: Annotated[
        Literal["original", "current"], "that of the paper, or that of the authors' present code, where eta is larger by 1"
    ] = "original",
) -> Plan:
    patterns = {"x": CROSS_ATTENTION, "u": BUT_CROSS_ATTENTION, "strict": CAPTION_READERS, "self": SELF_ATTENTION, "full": DENOISER}
    train = Train(epochs=0, steps=1000, lr=1e-5, batch_size=1, optimizer="adam", schedule="constant")
    if convention == "original":
        return Plan(NegativeGuidance(), train=train, selectors=(PartialSamples(),), trainable=patterns[layers])
    train = Train(epochs=0, steps=200, lr=5e-5, batch_size=1, optimizer="adam", schedule="constant")
    weights = rf"{DENOISER}(?!.*attn2\.)" if layers == "u" else patterns[layers]
    return Plan(
        NegativeGuidance(eta=2.0, convention="current"),
        train=train,
        selectors=(PartialSamples(times="grid", sampled_by="reference"),),
        trainable=rf"^(?!.*norm)(?=.*{weights})",
    )
