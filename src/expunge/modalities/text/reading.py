"""Score packed sequences teacher-forced. The pass keeps a few numbers for each label and never holds the logits of many positions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expunge.engine.adapters import base_of
from expunge.engine.memory import LOGITS, fitting, position_bytes
from expunge.functional.brief import brief
from expunge.modalities.common.packed import exact
from expunge.modalities.text.trie import Batch, Packing, Pair

BUDGET = {"cpu": 2048, "cuda": 16384}  # places in one forward pass: as many as fit a CPU cache, or fill a GPU
ROOM = {"cpu": 2**21, "cuda": 2**27}  # most logits that exist at a time
FEWEST = 64  # fewest positions that the head computes at a time, whatever the number of classes
NEAR = 1e-4  # log-probabilities (nats) may differ by this much, plus four times the difference between two plain passes
VARIANCE = 1e-6  # smallest variance of the log-probability at a position

Array = NDArray[Any]
Scored = tuple[Hashable, Sequence[int], Array]  # what is asked, an answer, and whether each label of the answer is the argmax
Inputs = Callable[[int, Batch], dict[str, Any]]  # the inputs of a model for a batch, by its number and content


@brief("pairs", "target_logp", "how")
@dataclass(frozen=True, eq=False)
class Reading:
    """The scores of a model for each label of some sequences; `of` returns the labels of one sequence."""

    pairs: Sequence[Pair]
    asked: Sequence[Hashable]  # what the model is asked before the answer of each pair
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

    @property
    def in_order(self) -> Tensor:
        """The log-probabilities of all labels, sequence after sequence."""
        return torch.from_numpy(np.concatenate([self.target_logp[labels] for labels in self.packing.labels]))

    def drafts(self, asked: Sequence[Hashable], beside: Sequence[Scored] = ()) -> list[list[int]]:
        """Predict the beginning of each greedy answer from the labels that are the argmax.

        Args:
            asked: what the model is asked before each answer.
            beside: more scored answers of the same model.

        Returns:
            For each answer, the labels before the first that is not the argmax, from the known answer with the most such labels. A fully
            predicted answer includes its end of sequence.
        """
        best: dict[Hashable, list[int]] = {}
        read_here = ((self.asked[i], answer, self.hit[self.packing.labels[i]]) for i, (_, answer) in enumerate(self.pairs))
        for question, answer, hits in chain(read_here, beside):
            run = len(hits) if hits.all() else int(hits.argmin())
            if run > len(best.get(question, [])):
                best[question] = list(answer[:run])
        return [best.get(question, []) for question in asked]


@torch.no_grad()
def score(
    model: nn.Module,
    pairs: Sequence[Pair],
    packing: Packing,
    moments: Sequence[bool],
    inputs: Inputs,
    progress: Callable[[float], None] = lambda share: None,
    how: str = "",
    asked: Sequence[Hashable] = (),
) -> Reading:
    """Score the labels of packed sequences.

    Args:
        pairs: token ids of prompts and answers.
        packing: what packed them.
        moments: for each pair, whether to compute mean and deviation of the log-probabilities.
        inputs: the inputs of the model for a batch, by its number and content.
        progress: is called with the share of the work that is done, from 0 to 1.
        how: what the reading says of itself.
        asked: what the model is asked before each answer; default: its prompt.
    """
    parameter = next(model.parameters())
    wanted = np.zeros(packing.predictions, bool)
    for of_pair, with_moments in zip(packing.labels, moments, strict=True):
        if with_moments:
            wanted[packing.by[of_pair]] = True
    head = LanguageHead(model, fitting(_size_for(model, ROOM), 2 * LOGITS * 4))  # places take the other half
    prediction = label = moment = places = 0  # how many are done
    labels = sum(len(batch.label) for batch in packing.batches)
    # Results are allocated before the first forward pass. Allocated between chunks, they would fragment the memory of the large tensors.
    logp, hit = parameter.new_empty(labels, dtype=torch.float32), parameter.new_empty(labels, dtype=torch.bool)
    scored_moments = parameter.new_empty(int(wanted.sum()), 2, dtype=torch.float32)
    for number, on_host in enumerate(packing.batches):
        batch = on_host.to(parameter.device)
        batch_wanted = torch.from_numpy(wanted[prediction : prediction + len(batch.at)])
        edges = on_host.by
        for first, last, logits in head.chunks(batch.at, use_cache=False, **inputs(number, batch)):
            a, b = torch.searchsorted(edges, torch.tensor([first, last])).tolist()
            chunk_moments = int(batch_wanted[first:last].sum())
            into = logp[label + a : label + b], hit[label + a : label + b], scored_moments[moment : moment + chunk_moments]
            _read(logits, batch.by[a:b] - first, batch.label[a:b], batch_wanted[first:last], *into)
            moment += chunk_moments
            del logits  # frees them before the next chunk is computed
        prediction, label = prediction + len(batch.at), label + len(batch.label)
        places += int(on_host.real.sum())
        progress(places / packing.places)
    mean, std = np.full((2, packing.predictions), np.nan, np.float32)
    mean[wanted], std[wanted] = scored_moments.cpu().numpy().T
    return Reading(pairs, asked or [tuple(prompt) for prompt, _ in pairs], packing, logp.cpu().numpy(), hit.cpu().numpy(), mean, std, how)


def places_for(model: nn.Module) -> int:
    """Places in one forward pass: as many as are fast on the device of a model, or as fit into half of the memory that a pass may take."""
    return fitting(_size_for(model, BUDGET), 2 * position_bytes(model))


def _size_for(model: nn.Module, sizes: dict[str, int]) -> int:
    return sizes.get(next(model.parameters()).device.type, sizes["cuda"])


def strange(model: nn.Module) -> str:
    """Name what changes the model's own forward pass, such as hooks, which may count places; empty if nothing does."""
    from transformers import PreTrainedModel

    if not isinstance(base_of(model), PreTrainedModel):
        return "the model is wrapped"
    if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
        return "the model has hooks"
    return ""


def difference_of(shared: Reading, plain: Reading, alone: Callable[[], Reading]) -> float:
    """By how much (nats) two ways of scoring the same sequences differ; 0 if it is no more than rounding explains.

    Args:
        alone: scores each sequence in a pass of its own, which shows how much rounding does.
    """
    difference = float((shared.in_order - plain.in_order).abs().max())
    tolerance = NEAR if difference <= NEAR else NEAR + 4 * float((alone().in_order - plain.in_order).abs().max())
    return 0.0 if difference <= tolerance else difference


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
