"""RULE: teach the model to refuse by a little tuning, then reinforce refusals of what to forget and answers to everything like it.

Refusal tuning alone also refuses the neighbors. The second stage samples answers on both sides of the boundary and rewards the right one,
so that the model learns when to refuse, and says in its own words what it does not know.

Equation: steering: NLL of refusals. boundary: L = mean over pieces of 8 answers of the mean over their tokens of l_t + 0.01 KL_t; KL_t =
  min(e^d - d - 1, 10); l_t = max(-A r_t, -A clip(r_t, 1 - 0.2, 1 + 0.3)), and for A < 0 at most -3 A; A = (R - mean R) / (sd R + 1e-6) in
  the group of 8 answers to a prompt; d = log p_ref - log p, the reference being the steered model; to refuse: R = F/2 + F/2 [the subject
  stands in y]; to answer: R = (1-F)/2 + (1-F)/2 [RL(y, answer) > 0.3]; F: y matches the refusal pattern; RL: ROUGE-L recall
Source: Zhang et al. 2025 (NeurIPS), arXiv 2506.07171
Needs: forget (questions), retain unless `boundary invented`; generation; the reference
Cost: steering, a forward and backward of 8 refusals; then in a step 8 answers to each of 32 prompts, one reference forward, and a forward
  and backward of 256 answers
Differs: the authors have a large language model write boundary questions, cloze twins and refusals: here the boundary is the retain row
  most like each question (or what the model itself writes, with `boundary invented`), a twin is the answer with its longest new part left
  out, and 24 refusals name the longest name in the question (give your own in a column `alternate`, or with `pool given`). A gap of the
  refusal pattern ends with its sentence, `cannot` is as good as `can't`, curly apostrophes count, and words such as `unfortunately` are no
  refusal alone: `released` undoes all of this; its families are the authors', its wording is rebuilt. A question without a name pays a
  refusal in full. The answers of a piece are those to one prompt. With `written muse` prompts are those of the runs on MUSE, refusals end
  as answers do, and worked examples are the same for both sides, which is one of the authors' two ways (the other gives the side away)
Status: shown
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Stop
from expunge.core.plan import Plan, Plans, Train
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.functional.summary_rouge import recall
from expunge.methods.rollouts.boundary_items import EXAMPLES, WRITTEN, Boundary, BoundaryItems, Pool, Refused, Written
from expunge.methods.rollouts.policy import PolicyGradient, PolicyKL
from expunge.methods.rollouts.refusal_pattern import refuses
from expunge.methods.rollouts.reward import Reward
from expunge.methods.rollouts.sampling import Rollouts
from expunge.methods.terms import NLL

Form = Literal["two_stage_target", "two_stage", "strict", "abs", "abs_target", "weighted"]


@part
class RefusalReward(Reward):
    """Rewards refusals of the prompts to refuse, and answers to the others."""

    form: Form = hp(
        "two_stage_target",
        "half a reward for refusing or not, half for naming the subject or the right words; two_stage: no half for the name; strict, abs, "
        "abs_target, weighted: the ablations",
    )
    half_reject: bool = hp(False, "refusals pay half, and abs_target and two_stage_target ask for no right words")
    overlap: float = hp(0.3, "ROUGE-L recall above which an answer has the right words", ge=0, le=1)
    strict_overlap: float = hp(0.5, "the same where the form is strict", ge=0, le=1)
    released: bool = hp(False, "the refusal pattern of the released code, which matches across sentences")

    def score(self, rows: Rows, texts: Sequence[str], view: View) -> list[float]:
        columns = zip(rows["reject"], rows["subject"], rows["wanted"], texts, strict=True)
        return [self.reward(reject, subject, wanted, text) for reject, subject, wanted, text in columns]

    def reward(self, reject: bool, subject: str, wanted: str, text: str) -> float:
        """The reward of one answer.

        Args:
            reject: whether it should be a refusal.
            subject: the name that a refusal should hold; '': none.
            wanted: the true answer.
            text: the answer.
        """
        refused = refuses(text, self.released)
        if self.form == "weighted":
            right = recall(text, subject if reject else wanted) > self.overlap
            return (0.7 * (refused == reject) + 0.3 * right) * (0.5 if reject and self.half_reject else 1.0)
        if reject:
            named = subject in text if self.form in ("two_stage_target", "abs_target") else True
            return refused * (0.5 + 0.5 * named) * (0.5 if self.half_reject else 1.0)
        if self.form == "strict":
            return float(recall(text, wanted) > self.strict_overlap)
        words_count = self.form == "two_stage" or (self.form == "two_stage_target" and not self.half_reject)
        return (not refused) * (0.5 + 0.5 * (recall(text, wanted) > self.overlap) if words_count else 1.0)


@part
class EarlyCheckpoint(Stop):
    """Ends the stage early, at the learning rate that its schedule has then: refusals should be likely, and not certain."""

    checkpoint: int = hp(2, "epochs of steering after which the next stage starts", ge=0)

    def stop(self, view: View) -> str | None:
        return f"the checkpoint after epoch {view.epoch}" if view.epoch >= self.checkpoint else None


def plan(
    boundary: Annotated[Boundary, "prompts to answer: the nearest retain rows, all of them, what the model writes, or none"] = "nearest",
    pool: Annotated[Pool, "refusals: sentences that name the subject, or the alternate answers of the request"] = "named",
    written: Annotated[Written, WRITTEN] = "asked",
    examples: Annotated[int, EXAMPLES] = 0,
) -> Plans:
    steering = Train(
        epochs=3, lr=4e-7, schedule="cosine", warmup=20 / 38, batch_size=8, max_grad_norm=1.0, anchor="reject"
    )  # 20 of 38 steps an epoch
    reinforcing = Train(
        epochs=0, steps=20, lr=2e-6, schedule="constant", batch_size=32, weight_decay=0.01, max_grad_norm=1.0, anchor="prompts"
    )
    rollouts = Rollouts(RefusalReward(), over="prompts", samples=8, length=1024, eps=1e-6, piece=8)
    return (
        Plan(
            NLL("reject"),
            train=steering,
            selectors=(Refused(pool, written, examples),),
            stop_rules=(EarlyCheckpoint(),),
            name="steering",
        ),
        Plan(
            PolicyGradient() + 0.01 * PolicyKL(cap=10.0),
            train=reinforcing,
            selectors=(BoundaryItems(boundary, written=written, examples=examples), rollouts),
            name="boundary",
        ),
    )
