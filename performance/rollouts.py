"""A step of reinforcement, compared with bare `generate` and a plain training step on the same answers.

    python -m performance.rollouts [--json FILE] [--quick] [--data FOLDER] [--model FOLDER] [--prompts 16] [--samples 8] [--length 64]

The floor samples with `generate` of the library, in batches of 128 sorted by length, and trains on the answers with a forward pass with
labels, a backward pass, and the same optimizer over all weights. It draws as `generate` does and is then given our tokens, so both ways
have the same answers. Our step also rewards the answers, keeps their log-probabilities, and asks the reference about them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from performance import _bench as bench
from performance.training import labeled
from torch import Tensor, nn

from expunge.core.hyperparameters import part
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import View
from expunge.engine import loop
from expunge.engine.run_state import evaluating
from expunge.engine.schedule import optimizer_of
from expunge.io.models import Opened
from expunge.methods.rollouts.policy import PolicyGradient, PolicyKL
from expunge.methods.rollouts.reward import Reward
from expunge.methods.rollouts.sampling import Rollouts

BATCH_SIZE = 128  # answers that the floor samples together, as ours does
MUST = 1.3


@part
class Vowels(Reward):
    """A reward that differs between most answers, so that every step has a gradient."""

    def score(self, rows: Rows, texts: Sequence[str], view: View) -> list[float]:
        return [sum(text.count(vowel) for vowel in "aeiou") / max(1, len(text)) for text in texts]


def plan(prompts: int, samples: int, length: int, steps: int) -> Plan:
    """Reinforcement with the usual settings, for a few steps."""
    train = Train(epochs=0, steps=steps, batch_size=prompts, lr=1e-6, schedule="constant")
    return Plan(PolicyGradient() + 0.04 * PolicyKL(), train=train, selectors=(Rollouts(Vowels(), samples=samples, length=length),))


def reinforce(opened: Opened, sets: Sets, stage: Plan, times: dict[str, float] | None = None) -> list[Rows]:
    """Run a stage on a copy of the model.

    Args:
        opened: the model.
        sets: rows by set.
        stage: the stage.
        times: receives the seconds of its steps alone.

    Returns:
        The sampled answers of each step.
    """
    answers, pick, train = list[Rows](), Rollouts.pick, loop._Stage._train

    def watched(self: Rollouts, sets: Sets, view: View) -> Sets:
        picked = pick(self, sets, view)
        answers.append(picked["rollouts"])
        return picked

    def timed(self: Any, resume: Any) -> None:
        wall, cpu = time.perf_counter(), bench.processor()
        train(self, resume)
        bench._wait()
        if times is not None:
            times.update(wall=time.perf_counter() - wall, cpu=bench.processor() - cpu)

    with mock.patch.object(Rollouts, "pick", watched), mock.patch.object(loop._Stage, "_train", timed):
        loop.run((stage,), copy.deepcopy(opened.model), opened.modality, sets)
    return answers


def generate(model: nn.Module, opened: Opened, rows: Rows, length: int) -> list[list[int]]:
    """Sample with `generate` of the library, which is given the tokens of these rows in place of those that it draws."""
    modality: Any = opened.modality
    device, ends = next(model.parameters()).device, sorted(modality.ends(model))
    order, generated = sorted(range(len(rows)), key=lambda i: -len(rows["prompt"][i])), dict[int, list[int]]()
    for at in range(0, len(rows), BATCH_SIZE):
        batch = order[at : at + BATCH_SIZE]
        prompts, answers = ([rows[column][i] for i in batch] for column in ("prompt", "answer"))
        width, longest = max(map(len, prompts)), max(map(len, answers))
        ids = torch.tensor([[modality.pad] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        tokens = torch.tensor([[*a, *[modality.pad] * (longest - len(a))] for a in answers], device=device)
        with mock.patch.object(torch, "multinomial", replaying(tokens)):
            texts = model.generate(  # type: ignore[operator]
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                max_new_tokens=length,
                eos_token_id=ends,
                pad_token_id=modality.pad,
            )
        for i, answer, text in zip(batch, answers, texts[:, width:].tolist(), strict=True):
            generated[i] = text[: len(answer)]
    return [generated[i] for i in range(len(rows))]


def replaying(tokens: Tensor) -> Callable[..., Tensor]:
    """`torch.multinomial` that draws, and then returns the next column of these tokens, (rows, tokens)."""
    draw, columns = torch.multinomial, iter(tokens.T)

    def replay(*args: Any, **options: Any) -> Tensor:
        draw(*args, **options)
        return next(columns)[:, None]

    return replay


def floor(opened: Opened, steps: Sequence[Rows], train: Train, length: int, trains: bool = True) -> list[list[list[int]]]:
    """Sample the answers of all steps on a copy of the model, and train on those of each step, if it `trains`."""
    model: Any = copy.deepcopy(opened.model)
    modality: Any = opened.modality
    optimizer, generated = optimizer_of(train, list(model.parameters())), []
    for rows in steps:
        with evaluating(model), torch.no_grad():
            generated.append(generate(model, opened, rows, length))
        if not trains:
            continue
        model.train()
        pairs = list(zip(rows["prompt"], rows["answer"], strict=True))
        ids, mask, _ = modality.collate(pairs, next(model.parameters()).device)
        model(input_ids=ids, attention_mask=mask, labels=labeled(pairs, ids), use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return generated


def measure(arguments: Any) -> Mapping[str, Any]:
    """Time all ways, and return the numbers."""
    suite = bench.suite(arguments)
    opened = bench.original(arguments, suite, trained=not arguments.quick)
    forget = opened.modality.rows("forget", suite.train["forget"][: arguments.items or None])
    prompts, samples, length, steps = (3, 4, 12, 1) if arguments.quick else (arguments.prompts, arguments.samples, arguments.length, 3)
    sets, stage = {"forget": forget}, plan(prompts, samples, length, steps)
    answers = reinforce(opened, sets, stage)
    replayed = floor(opened, answers, stage.train, length)
    differ = sum(a != b for rows, texts in zip(answers, replayed, strict=True) for a, b in zip(rows["answer"], texts, strict=True))
    own = bench.Times()

    def ours() -> None:
        seconds: dict[str, float] = {}
        reinforce(opened, sets, stage, seconds)
        own.add("steps", **seconds)

    ways = {
        "floor": lambda: floor(opened, answers, stage.train, length),
        "generate": lambda: floor(opened, answers, stage.train, length, trains=False),
        "ours": ours,
    }
    times = bench.interleaved(ways, arguments.rounds)
    for clock in ("wall", "cpu"):
        getattr(times, clock)["ours"] = getattr(own, clock)["steps"][1:]  # without the round that warms up
    ratio = {clock: round(times.ratio("ours", "floor", clock), 3) for clock in ("wall", "cpu")}
    bench.table(
        [[n, times.seconds(n), times.ratio(n, "floor"), times.ratio(n, "floor", "cpu")] for n in ways], ("", "s", "/ floor", "/ floor, cpu")
    )
    parts = {
        "steps": len(answers),
        "answers": sum(map(len, answers)),
        "tokens": sum(len(a) for rows in answers for a in rows["answer"]),
        "must": MUST,
        "seconds": {n: round(times.seconds(n), 3) for n in ways},
        "ratio_to_floor": ratio,
        "answers that differ": differ,
    }
    return {"ratio_to_floor": ratio["wall"], "parts": parts}


def main() -> None:
    arguments = bench.options(
        __doc__,
        prompts={"type": int, "default": 16, "help": "prompts in a step"},
        samples={"type": int, "default": 8, "help": "answers to a prompt"},
        length={"type": int, "default": 64, "help": "the longest answer, in tokens"},
    )
    bench.finish(arguments, "rollouts", measure(arguments))


if __name__ == "__main__":
    main()
