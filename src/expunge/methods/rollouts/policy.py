"""The loss on sampled answers: a clipped policy gradient, and a penalty for leaving the reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import ModelOutput
from expunge.core.needs import Need
from expunge.core.rows import Packed, Rows
from expunge.core.view import Step
from expunge.functional.policy_gradient import clipped_loss, low_variance_kl
from expunge.methods.terms import SetTerm


@part
class PolicyGradient(SetTerm):
    """The clipped loss of PPO on sampled answers, with their advantages and the log-probabilities under which they were sampled.

    In the step that sampled the answers all ratios are 1, so that this is REINFORCE and nothing is clipped.
    """

    over: str = "rollouts"
    clip_low: float = hp(0.2, "how far the probability of a token may fall, as a share, before it gives no gradient", ge=0, le=1)
    clip_high: float = hp(0.3, "how far it may rise, likewise", ge=0)
    dual_clip: float = hp(3.0, "at a negative advantage the loss is at most this many advantages; 0: no limit", ge=0)
    requires = frozenset({Categorical})
    role = "forget"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        logp = policy_logp(step.now(rows), rows)
        sampled = logp.values.new_tensor([x for values in rows["sampled_logp"] for x in values])
        advantage = per_row(rows["advantage"], logp)[logp.row]
        losses = clipped_loss(logp.values - sampled, advantage, self.clip_low, self.clip_high, self.dual_clip)
        return weighted_mean(step, rows, logp.map(lambda _: losses))


@part
class PolicyKL(SetTerm):
    """KL(model || reference) on sampled answers, by the estimate of low variance."""

    over: str = "rollouts"
    cap: float = hp(0.0, "largest KL of a token, in nats, beyond which it has no gradient; 0: none", ge=0)
    requires = frozenset({Categorical})
    needs = frozenset({Need.REFERENCE})
    role = "kl"

    def loss(self, step: Step) -> Tensor:
        rows = step.rows(self.over)
        logp, reference = policy_logp(step.now(rows), rows), policy_logp(step.reference(rows), rows)
        return weighted_mean(step, rows, logp.map(lambda current: low_variance_kl(reference.values, current, self.cap)))


def policy_logp(output: ModelOutput, rows: Rows) -> Packed:
    """Log-probabilities of the tokens of sampled answers, at the temperature at which they were sampled, (tokens,)."""
    heat = rows["heat"][0]
    if heat == 1:
        return output.target_logp
    scaled = output.logits.map(lambda logits: (logits if logits.dtype == torch.float64 else logits.float()) / heat)
    return scaled.map(lambda logits: logits.log_softmax(-1).gather(-1, output.labels[:, None])[:, 0])


def per_row(numbers: Sequence[float], like: Packed) -> Tensor:
    """Numbers of the rows, (rows,), on the device and in the precision of packed values."""
    return like.values.detach().new_tensor(list(numbers))


def weighted_mean(step: Step, rows: Rows, losses: Packed) -> Tensor:
    """The mean over tokens, or over answers, that the weights of the answers stand for (see `piece_weights`)."""
    return step.mean(losses.sum() * per_row(rows["share"], losses), rows)
