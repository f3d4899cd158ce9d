"""Score many sequences in one teacher-forced pass. It keeps a few numbers for each label and never holds the logits of many positions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expunge.engine.adapters import base_of
from expunge.functional.brief import brief
from expunge.modalities.common.packed import exact
from expunge.modalities.text.decoding import disturbed
from expunge.modalities.text.trie import Packing, Pair, pack

BUDGET = {"cpu": 2048, "cuda": 16384}  # places in one forward pass: as many as fit a CPU cache, or fill a GPU
ROOM = {"cpu": 2**21, "cuda": 2**27}  # most logits that exist at a time
FEWEST = 64  # fewest positions that the head computes at a time, whatever the number of classes
NEAR = 1e-4  # log-probabilities (nats) may differ by this much, plus four times the difference between two plain passes
VARIANCE = 1e-6  # smallest variance of the log-probability at a position

Array = NDArray[Any]
Scored = tuple[Sequence[int], Sequence[int], Array]  # a prompt, its answer, and whether each label of the answer is the argmax


@brief("pairs", "target_logp", "how")
@dataclass(frozen=True, eq=False)
class Reading:
    """The scores of a model for each label of some sequences; `of` returns the labels of one sequence."""

    pairs: Sequence[Pair]
    packing: Packing
    target_logp: Array  # (labels,) log-probability in nats
    hit: Array  # (labels,) whether the label is the argmax
    mean: Array  # (predictions,) E[log p] under the model's own distribution in nats; nan where not requested
    std: Array  # (predictions,) standard deviation of log p
    how: str  # whether answers shared their question, and if not, the reason

    def of(self, i: int, moments: bool) -> dict[str, Array]:
        """The scores of sequence `i`, each (labels,). moments: with `mean` and `std`."""
        labels = self.packing.labels[i]
        scores = {"target_logp": self.target_logp[labels], "hit": self.hit[labels]}
        if moments:
            by = self.packing.by[labels]
            scores |= {"mean": self.mean[by], "std": self.std[by]}
        return scores

    def drafts(self, prompts: Sequence[Sequence[int]], beside: Sequence[Scored] = ()) -> list[list[int]]:
        """Predict the beginning of the greedy answer to each prompt from the labels that are the argmax.

        Args:
            beside: more scored answers of the same model.

        Returns:
            For each prompt, the labels before the first that is not the argmax, from the answer with the most such labels. A fully
            predicted answer includes its end of sequence.
        """
        best: dict[tuple[int, ...], list[int]] = {}
        read_here = ((prompt, answer, self.hit[labels]) for (prompt, answer), labels in zip(self.pairs, self.packing.labels, strict=True))
        for prompt, answer, hits in chain(read_here, beside):
            run = len(hits) if hits.all() else int(hits.argmin())
            if run > len(best.get(key := tuple(prompt), [])):
                best[key] = list(answer[:run])
        return [best.get(tuple(p), []) for p in prompts]


def read(model: nn.Module, pairs: Sequence[Pair], moments: Sequence[bool], pad: int, progress: Callable[[float], None]) -> Reading:
    """Score the labels of sequences.

    Args:
        pairs: token ids of prompts and answers.
        moments: for each pair, whether to compute mean and deviation of the log-probabilities.
        pad: token id of padding.
        progress: is called with the share of the work that is done, from 0 to 1.
    """
    alone = bool(pairs) and disturbed(model, [*pairs[0][0], *pairs[0][1]], pad)
    budget = 1 if alone else _for(model, BUDGET)
    obstacle = "padding changes what the model predicts" if alone else unshareable(model, pairs, pad)
    packing = pack(pairs, not obstacle, budget, pad)
    wanted = np.zeros(packing.predictions, bool)
    for labels, with_moments in zip(packing.labels, moments, strict=True):
        if with_moments:
            wanted[packing.by[labels]] = True
    return _pass(model, pairs, packing, not obstacle, wanted, progress, obstacle or "answers share their questions")


def _for(model: nn.Module, sizes: dict[str, int]) -> int:
    return sizes.get(next(model.parameters()).device.type, sizes["cuda"])


# Which models can share questions


def unshareable(model: nn.Module, pairs: Sequence[Pair], pad: int) -> str:
    """Give the reason why answers cannot share their question in this model; empty if they can.

    A model with an attention window, or one that counts places by itself, would be disturbed by the branches in between. The function tests
    what the configuration does not show: it scores a few questions both ways and compares.
    """
    if obstacle := strange(model):
        return obstacle
    base: Any = base_of(model)
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return "the model takes no positions"
    groups = _by_prompt(pairs)
    several = [group for group in groups if len({tuple(pairs[i][1]) for i in group}) > 1]
    if not several:
        return "no question has several answers"
    longest_group = max(groups, key=lambda g: max(len(pairs[i][0]) + len(pairs[i][1]) for i in g))
    longest = max(len(pairs[i][0]) + len(pairs[i][1]) for i in longest_group)
    config = base.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window and window < longest:
        return f"the model looks back over {window} tokens"
    few = [pairs[i] for group in _few(pairs, [*several, longest_group]) for i in group]
    try:
        shared, plain = (_logp(model, few, share, BUDGET["cpu"], pad) for share in (True, False))
        difference = float((shared - plain).abs().max())
        tolerance = NEAR if difference <= NEAR else NEAR + 4 * float((_logp(model, few, False, 1, pad) - plain).abs().max())
    except Exception as error:  # models raise errors of any kind
        return f"the model refuses to share ({type(error).__name__})"
    return "" if difference <= tolerance else f"log-probabilities would differ by {difference:.2g} if answers shared their questions"


def strange(model: nn.Module) -> str:
    """Name what changes the model's own forward pass, such as hooks, which may count places; empty if nothing does."""
    from transformers import PreTrainedModel

    if not isinstance(base_of(model), PreTrainedModel):
        return "the model is wrapped"
    if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
        return "the model has hooks"
    return ""


def _by_prompt(pairs: Sequence[Pair]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (prompt, _) in enumerate(pairs):
        groups.setdefault(tuple(prompt), []).append(i)
    return list(groups.values())


def _few(pairs: Sequence[Pair], groups: Sequence[list[int]]) -> list[list[int]]:
    """The question with the longest sequence, the question with the longest answers in total, and the first question."""
    by_sequence = max(groups, key=lambda g: max(len(pairs[i][0]) + len(pairs[i][1]) for i in g))
    by_tree = max(groups, key=lambda g: sum(len(pairs[i][1]) for i in g))
    return list({tuple(g): g for g in (by_sequence, by_tree, groups[0])}.values())


def _logp(model: nn.Module, pairs: Sequence[Pair], share: bool, budget: int, pad: int) -> Tensor:
    packing = pack(pairs, share, budget, pad)
    reading = _pass(model, pairs, packing, share, np.zeros(packing.predictions, bool), lambda share: None, "")
    return torch.from_numpy(np.concatenate([reading.target_logp[labels] for labels in packing.labels]))


# The pass


@torch.no_grad()
def _pass(
    model: nn.Module,
    pairs: Sequence[Pair],
    packing: Packing,
    share: bool,
    wanted: Array,
    progress: Callable[[float], None],
    how: str,
) -> Reading:
    parameter = next(model.parameters())
    dtype = getattr(base_of(model), "dtype", parameter.dtype)
    head = LanguageHead(model, _for(model, ROOM))
    prediction = label = moment = places = 0  # how many are done
    labels = sum(len(batch.label) for batch in packing.batches)
    # Results are allocated before the first forward pass. Allocated between chunks, they would fragment the memory of the large tensors.
    logp, hit = parameter.new_empty(labels, dtype=torch.float32), parameter.new_empty(labels, dtype=torch.bool)
    moments = parameter.new_empty(int(wanted.sum()), 2, dtype=torch.float32)
    for on_host in packing.batches:
        batch = on_host.to(parameter.device)
        inputs = {"attention_mask": batch.mask(dtype), "position_ids": batch.position} if share else {"attention_mask": batch.real.long()}
        batch_wanted = torch.from_numpy(wanted[prediction : prediction + len(batch.at)])
        edges = on_host.by
        for first, last, logits in head.chunks(batch.at, input_ids=batch.ids, use_cache=False, **inputs):
            a, b = torch.searchsorted(edges, torch.tensor([first, last])).tolist()
            chunk_moments = int(batch_wanted[first:last].sum())
            into = logp[label + a : label + b], hit[label + a : label + b], moments[moment : moment + chunk_moments]
            _read(logits, batch.by[a:b] - first, batch.label[a:b], batch_wanted[first:last], *into)
            moment += chunk_moments
            del logits  # frees them before the next chunk is computed
        prediction, label = prediction + len(batch.at), label + len(batch.label)
        places += int(on_host.real.sum())
        progress(places / packing.places)
    mean, std = np.full((2, packing.predictions), np.nan, np.float32)
    mean[wanted], std[wanted] = moments.cpu().numpy().T
    return Reading(pairs, packing, logp.cpu().numpy(), hit.cpu().numpy(), mean, std, how)


def _read(logits: Tensor, by: Tensor, label: Tensor, wanted: Tensor, logp: Tensor, hit: Tensor, moments: Tensor) -> None:
    """Fill in log-probability and hit of each label, and the moments (wanted, 2) of the predictions that `wanted` marks."""
    z = exact(logits)
    best = z.amax(-1, keepdim=True)
    score = z[by, label] - best[by, 0]
    torch.ge(score, 0, out=hit)
    z -= best  # in place, here and below: nothing else reads the logits
    ties = hit.nonzero()[:, 0]
    places = wanted.nonzero()[:, 0].to(z.device)
    log_probs = z[places]
    total = z.exp_().sum(-1)
    if len(ties := ties[total[by[ties]] >= 2]):  # generation chooses the first of several labels with the highest score
        hit[ties] = z[by[ties]].argmax(-1) == label[ties]
    total = total.log()
    logp.copy_(score - total[by])
    log_probs -= total[places, None]
    p = log_probs.exp()
    mean = p.mul_(log_probs).sum(-1)
    variance = p.mul_(log_probs).sum(-1) - mean.square()
    moments.copy_(torch.stack([mean, variance.clamp_min(VARIANCE).sqrt()], -1))


class LanguageHead:
    """The language head, run on chunks of the predicting positions. The logits of a whole batch would be the largest tensor."""

    def __init__(self, model: nn.Module, room: int) -> None:
        """Find the head of a model. room: most logits that may exist at a time."""
        self.model, self.room = model, room
        head = getattr(base_of(model), "get_output_embeddings", lambda: None)()
        self.module: nn.Module | None = head if isinstance(head, nn.Module) else None
        self.last: bool | None = None if self.module else False  # whether the head is the last step of the model; None: not tested yet

    def chunks(self, at: Tensor, **inputs: Any) -> Iterator[tuple[int, int, Tensor]]:
        """Run one forward pass and yield its logits in chunks.

        Args:
            at: flattened positions.
            inputs: of the model.

        Yields:
            The first and last (exclusive) index into `at`, and logits (last - first, classes).
        """
        size = len(at) if self.last is False else self._size(len(at))
        with self._restricted(at, size) as states:
            logits = self.model(**inputs).logits
        if not states:  # the model has no plain head, or does not call it
            yield 0, len(at), logits.flatten(0, 1)[at]
            return
        hidden, out = states
        states.clear()
        logits = logits[0]
        if self.last is None:
            self.last = torch.equal(logits, out[0])
            if not self.last:  # the model changes the scores after the head (a cap, a scale), so it must compute all of them
                yield from self.chunks(at, **inputs)
                return
        yield 0, size, logits
        del logits, out  # frees them before the next chunk is computed
        assert self.module is not None
        for first in range(size, len(at), size):
            chunk = hidden[first : first + size]
            yield first, first + len(chunk), self.module(chunk)

    def _size(self, positions: int) -> int:
        assert self.module is not None
        classes = getattr(self.module, "out_features", 0) or len(next(self.module.parameters()))
        return min(positions, max(FEWEST, self.room // classes))

    @contextmanager
    def _restricted(self, at: Tensor, size: int) -> Iterator[list[Tensor]]:
        """Restrict the head to the first `size` positions of `at`. Yields a list that the forward pass fills: hidden states and output."""
        states: list[Tensor] = []

        def pick(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if not args or args[0].dim() != 3:  # a head that reads something else than hidden states (rows, positions, width)
                return None
            states.append(args[0].flatten(0, 1)[at])
            return (states[0][None, :size], *args[1:])

        def record(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            if states:
                states.append(out)

        handles = [self.module.register_forward_pre_hook(pick), self.module.register_forward_hook(record)] if self.module else []
        try:
            yield states
        finally:
            for handle in handles:
                handle.remove()
