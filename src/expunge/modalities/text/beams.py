"""Beam search under a restriction: the likeliest answer, of those that beams reach, that says nothing forbidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Samples
from expunge.core.rows import Packed, Rows
from expunge.modalities.text.decoding import PLAIN, mode_of, started
from expunge.modalities.text.restriction import START, Restriction, Spoken


@dataclass(frozen=True)
class Beam:
    """One answer so far."""

    tokens: tuple[int, ...] = ()
    logp: tuple[float, ...] = ()  # of each token under the model, the end included
    score: float = 0.0  # the sum of log-probabilities minus penalties
    spoken: Spoken = START
    ended: bool = False


@torch.no_grad()
def beam_search(growing: Any, limit: int, ends: frozenset[int], beams: int, restriction: Restriction, length_penalty: float = 0.0) -> Beam:
    """The best answer to one prompt.

    Args:
        growing: one row of tokens that grows (see `decoding.Growing`) and lets its rows be chosen anew.
        limit: most tokens of the answer.
        ends: tokens that end it.
        beams: how many beams are kept.
        length_penalty: exponent of the length that scores of complete answers are divided by; 0: they are not.

    Returns:
        The beam with the largest score. If every continuation of all beams is forbidden, the best beam goes on with the likeliest token
        that begins no forbidden phrase, or ends.
    """

    def rated(beam: Beam) -> float:
        return float(beam.score / max(1, len(beam.logp)) ** length_penalty)

    running, complete = [Beam()], list[Beam]()
    for _ in range(limit):
        log_probs = growing.logits().double().log_softmax(-1).cpu()
        running, parents, ended = _step(running, log_probs, ends, beams, restriction)
        complete += ended
        best = max(map(rated, complete), default=-torch.inf)
        if not running or best >= max(beam.score / limit**length_penalty for beam in running):  # no longer answer can be better
            break
        growing.keep(torch.tensor(parents, device=growing.ids.device))
        growing.append(torch.tensor([beam.tokens[-1] for beam in running], device=growing.ids.device))
    cut = [replace(beam, score=beam.score - restriction.closing(beam.spoken)) for beam in running if len(beam.tokens) >= limit]
    candidates = complete + [beam for beam in cut if beam.score > -torch.inf]
    if candidates:
        return max(candidates, key=rated)
    beam = max(running, key=lambda b: b.score, default=Beam())
    kept = len(beam.tokens) - len(beam.spoken.open)  # the last word of every beam is forbidden
    return replace(beam, tokens=beam.tokens[:kept], logp=beam.logp[:kept])


def _step(
    running: list[Beam], log_probs: Tensor, ends: frozenset[int], beams: int, restriction: Restriction
) -> tuple[list[Beam], list[int], list[Beam]]:
    """One token more: the beams that go on, the beam that each comes from, and those that end. log_probs: (beams, classes)."""
    classes = log_probs.shape[-1]
    restriction.know(beam.spoken for beam in running)
    scores = torch.stack([b.score + p - restriction.penalties(b.spoken, classes) for b, p in zip(running, log_probs, strict=True)])
    values, places = scores.flatten().topk(min((1 + len(ends)) * beams, scores.numel()))
    going, parents, ended = list[Beam](), list[int](), list[Beam]()
    for rank, (value, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
        if value == -torch.inf or len(going) == beams:
            break
        parent, token = divmod(place, classes)
        logp = (*running[parent].logp, float(log_probs[parent, token]))
        if token not in ends:
            going.append(Beam((*running[parent].tokens, token), logp, value, restriction.after(running[parent].spoken, token)))
            parents.append(parent)
        elif rank < beams:
            ended.append(replace(running[parent], logp=logp, score=value, ended=True))
    if values[0] > -torch.inf:
        return going, parents, ended
    best = max(range(len(running)), key=lambda i: running[i].score)
    beam, token_out = running[best], restriction.way_out(log_probs[best])
    if token_out is None or token_out in ends:
        end = token_out if token_out is not None else min(ends)
        return [], [], [replace(beam, logp=(*beam.logp, float(log_probs[best, end])), ended=True)]
    logp = (*beam.logp, float(log_probs[best, token_out]))
    score = beam.score + logp[-1]
    return [Beam((*beam.tokens, token_out), logp, score, restriction.after(beam.spoken, token_out))], [best], []


def restricted_answers(
    modality: Any, model: nn.Module, rows: Rows, limit: int, restrictions: Sequence[Restriction], beams: int, length_penalty: float = 0.0
) -> Samples:
    """Answers of a causal model by beam search, each under its restriction, with the model's log-probabilities of their tokens.

    Args:
        modality: of the model, without a guard.
        limit: most tokens of an answer.
        restrictions: one for each row.
        beams, length_penalty: see `beam_search`.
    """
    answers, ends = list[Beam](), modality.ends(model)
    for prompt, most, restriction in zip(rows["prompt"], modality.limits(rows, limit), restrictions, strict=True):
        mode = mode_of(model, [prompt], modality.pad)
        growing = started(model, [prompt], modality.pad, mode if mode.dropped else PLAIN)
        answers.append(beam_search(growing, most, ends, beams, restriction, length_penalty))
    row = torch.tensor([i for i, beam in enumerate(answers) for _ in beam.logp], dtype=torch.long)
    logp = Packed(torch.tensor([value for beam in answers for value in beam.logp]), row, len(rows))
    return Samples([list(beam.tokens) for beam in answers], [beam.ended for beam in answers], logp=logp)
