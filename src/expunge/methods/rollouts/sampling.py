"""Rollouts: groups of answers that the model samples to its prompts, with their log-probabilities, rewards and advantages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from expunge.core.capabilities import Categorical, Generates, Samples
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Selector
from expunge.core.rows import Packed, Rows, Sets
from expunge.core.view import State, Step, View
from expunge.functional.policy_gradient import group_advantages, piece_weights, varied, whitened_returns
from expunge.methods.rollouts import serving
from expunge.methods.rollouts.reward import Reward

SHOWN = ("step", "reward", "groups of different rewards", "tokens an answer", "answers that end", "different pairs of words")


@part
class Rollouts(Selector):
    """Sample a group of answers to each prompt of the batch and compare their rewards: GRPO, or REINFORCE++ by `advantage batch`.

    Every step samples anew. With more `updates` its answers serve the steps after it, too, and the clip bounds how far these go: PPO.
    """

    when = "step"
    reward: Reward = None  # type: ignore[assignment]  # always given; a default must follow a default
    over: str = "forget"
    samples: int = hp(8, "answers sampled to each prompt", ge=2)
    length: int = hp(1024, "longest sampled answer, in tokens", ge=1)
    heat: float = hp(1.0, "sampling temperature", gt=0)
    advantage: Literal["group", "batch"] = hp(
        "group", "rewards are compared within the answers to a prompt (GRPO), or over all tokens of the batch (REINFORCE++)"
    )
    scale: bool = hp(True, "divide advantages by the deviation of the rewards")
    eps: float = hp(1e-6, "added to this deviation, or to the variance of the batch", ge=0)
    average: Literal["tokens", "answers"] = hp("tokens", "what counts alike in the loss: the tokens of a piece, or all answers")
    piece: int = hp(8, "answers in a piece; pieces count alike; 0: all answers of the batch", ge=0)
    mixed: bool = hp(False, "pieces mix the answers to several prompts")
    updates: int = hp(1, "steps on the same answers, after which new prompts get new ones; from 2 on ratios differ from 1", ge=1)
    serve: Literal["model", "vllm"] = hp("model", "what samples: the model that is trained, or vLLM with its weights")
    requires = frozenset({Categorical, Generates})
    gives = frozenset({"rollouts"})

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.over})

    def begin(self, view: View) -> State:
        shown, kept = torch.zeros(0, len(SHOWN), dtype=torch.double), torch.zeros(0, dtype=torch.uint8)
        return {"steps": shown, "groups": torch.zeros(2, dtype=torch.long), "kept": kept}

    def pick(self, sets: Sets, view: View) -> Sets:
        again = view.done % self.updates and len(view.state["kept"])
        return {**sets, "rollouts": unpacked(view.state["kept"]) if again else self._sampled(view)}

    def _sampled(self, view: View) -> Rows:
        rows = view.rows(self.over)
        rows = rows.select([i for i in range(len(rows)) for _ in range(self.samples)])
        answers = self._answers(rows, view)
        texts = view.modality.decode(answers.ids)
        scores = self.reward.score(rows, texts, view.at("reward", self.reward))
        rewards, lengths = torch.tensor(scores, dtype=torch.double), torch.tensor([len(x) for x in answers.logp])
        if self.advantage == "group":
            advantages = group_advantages(rewards.view(-1, self.samples), self.eps, self.scale).flatten()
        else:
            advantages = whitened_returns(rewards, lengths, self.eps, self.scale)
        rollouts = rows.add(
            answer=answers.labels,
            answer_text=texts,
            sampled_logp=answers.logp,
            reward=rewards.tolist(),
            advantage=advantages.tolist(),
            share=self._shares(lengths, view).tolist(),
            heat=[self.heat] * len(rows),
            ended=answers.ended,
        )
        ids = tuple(f"{i}/{k % self.samples}" for k, i in enumerate(rows.ids))
        return Rows("rollouts", ids, rollouts.columns, rollouts.weight)

    def _answers(self, rows: Rows, view: View) -> Answers:
        if self.serve == "model":
            return answers_of(view.generate(rows, self.length, sample=True, temperature=self.heat, with_logp=True))
        seed = int(torch.randint(2**31, (), generator=view.rng()))
        return answers_of(serving.sample(view.model, view.modality, rows, self.samples, self.length, self.heat, seed))

    def _shares(self, lengths: Tensor, view: View) -> Tensor:
        """How much each answer counts, (answers,): see `piece_weights`."""
        order = torch.randperm(len(lengths), generator=view.at("order", self).rng()) if self.mixed else torch.arange(len(lengths))
        return torch.empty(len(lengths), dtype=torch.double).index_copy(
            0, order, piece_weights(lengths[order], 1 if self.average == "answers" else self.piece)
        )

    def after(self, step: Step) -> State:
        rows = step.batch["rollouts"]
        if (step.done - 1) % self.updates:
            return step.state
        different = varied(torch.tensor(rows["reward"], dtype=torch.double).view(-1, self.samples))
        count = max(1, len(rows))
        record = [
            float(step.done),
            sum(rows["reward"]) / count,
            float(different.double().mean()),
            sum(map(len, rows["answer"])) / count,
            sum(rows["ended"]) / count,
            distinct_pairs(rows["answer_text"]),
        ]
        steps = torch.cat([step.state["steps"], torch.tensor([record], dtype=torch.double)])
        groups = step.state["groups"] + torch.tensor([int(different.sum()), len(different)])
        return {"steps": steps, "groups": groups, "kept": packed(rows) if self.updates > 1 else step.state["kept"]}

    def end(self, view: View) -> None:
        """Show the means of each step, and warn where no group had answers of different rewards."""
        view.show("sampled answers by step", [dict(zip(SHOWN, record, strict=True)) for record in view.state["steps"].tolist()])
        different, groups = view.state["groups"].tolist()
        if groups and not different:
            view.warn(
                f"in all {groups} groups of {self.samples} sampled answers every answer got the same reward, {self._last(view):.3g} in the "
                f"last step, so nothing can be learned from them: the model never does what the reward asks for, or always does it"
            )

    def _last(self, view: View) -> float:
        return float(view.state["steps"][-1, SHOWN.index("reward")])


@dataclass(frozen=True)
class Answers:
    """Sampled answers as labels: with the token that ended each, if one did."""

    labels: list[list[int]] = field(repr=False)
    logp: list[list[float]] = field(repr=False)  # of each label, in nats, under the distribution that it was drawn from
    ids: list[list[int]] = field(repr=False)  # without the tokens that ended them
    ended: list[bool] = field(repr=False)


def answers_of(samples: Samples) -> Answers:
    """The answers of samples with log-probabilities. An end of which the samples do not say the token is left out."""
    assert isinstance(samples.logp, Packed)
    ends = samples.ends or [-1] * len(samples.ids)
    labels = [[*ids, end] if end >= 0 else list(ids) for ids, end in zip(samples.ids, ends, strict=True)]
    logp = [values.tolist()[: len(answer)] for values, answer in zip(samples.logp.split(), labels, strict=True)]
    return Answers(labels, logp, samples.ids, list(samples.ended))


def packed(rows: Rows) -> Tensor:
    """Rows as bytes, for a state."""
    fields = {"ids": rows.ids, "weight": rows.weight, "columns": {name: list(values) for name, values in rows.columns.items()}}
    return torch.frombuffer(bytearray(json.dumps(fields).encode()), dtype=torch.uint8)


def unpacked(state: Tensor) -> Rows:
    """The rows of `packed`."""
    fields = json.loads(bytes(state.tolist()))
    return Rows("rollouts", tuple(fields["ids"]), fields["columns"], tuple(fields["weight"]))


def distinct_pairs(texts: Sequence[str]) -> float:
    """Share of different ones among all pairs of neighboring words of texts: near 0 where answers repeat each other or themselves."""
    pairs = [pair for text in texts for words in [text.split()] for pair in pairwise(words)]
    return len(set(pairs)) / max(1, len(pairs))
