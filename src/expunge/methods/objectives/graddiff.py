"""Gradient difference (GradDiff): gradient ascent on the rows to forget, and ordinary training on the retain rows.

The retain term preserves utility. The forget term is as unbounded as gradient ascent alone.

Equation: L = mean_forget log p(y_t | x, y_<t) + R;  R = mean_retain -log p(y_t | x, y_<t), or (kl) the mean over all positions of the
  retain rows of KL(p_ref || p)
Source: Liu et al. 2022, arXiv 2203.12817; as a TOFU baseline: Maini et al. 2024, arXiv 2401.06121
Needs: forget, retain; with kl the reference
Cost: one forward and backward of forget and retain rows a step; kl adds one forward of the retain rows by the reference
Differs: in kl positions of prompt and answer count (`include_prompt false`: of the answer alone), while the TOFU code averages over
  padding, too, and over the position after the last token
Status: shown
"""

from typing import Annotated, Literal

from expunge.core.plan import Plan, Train
from expunge.methods.terms import KL, NLL, Ascent, Whole


def plan(
    retain_term: Annotated[Literal["nll", "kl"], "loss on retain rows: likelihood, or distance from the reference"] = "nll",
    include_prompt: Annotated[bool, "whether positions of the prompt count in kl, too"] = True,
) -> Plan:
    train = Train(epochs=10, lr=1e-5, batch_size=32, warmup=1, weight_decay=0.01)
    if retain_term == "nll":
        return Plan(Ascent() + NLL("retain"), train=train)
    if include_prompt:
        return Plan(Ascent() + KL("whole"), train=train, selectors=(Whole("retain"),))
    return Plan(Ascent() + KL(), train=train)
