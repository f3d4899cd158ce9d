"""One teacher-forced pass over many sequences: what is worth keeping of each label, and never the logits of more than a few positions."""

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
from expunge.modalities.common.packed import exact
from expunge.modalities.text.trie import Packing, Pair, pack

BUDGET = {"cpu": 2048, "cuda": 16384}  # places in one forward: what a cache holds, what fills a GPU
ROOM = {"cpu": 2**21, "cuda": 2**27}  # logits that exist at a time
FEWEST = 64  # positions that the head is asked about at a time, however many classes there are
NEAR = 1e-4  # two ways to the same log-probability may differ by so much, and by four times as much as two plain ways do
VARIANCE = 1e-6  # smallest variance of a position's log-probability

Array = NDArray[Any]
Heard = tuple[Sequence[int], Sequence[int], Array]  # a prompt, its answer, and whether each label of that is the argmax


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model says of sequences, by label; `of` gives the labels of one of them."""

    pairs: Sequence[Pair]
    packing: Packing
    target_logp: Array  # (labels,) log-probability
    hit: Array  # (labels,) whether it is the argmax
    mean: Array  # (predictions,) E[log p] under the model's own distribution; nan where it was not asked for
    std: Array  # (predictions,) its standard deviation
    how: str  # whether answers shared their question, and if not, why

    def of(self, i: int, moments: bool) -> dict[str, Array]:
        labels = self.packing.labels[i]
        found = {"target_logp": self.target_logp[labels], "hit": self.hit[labels]}
        if moments:
            by = self.packing.by[labels]
            found |= {"mean": self.mean[by], "std": self.std[by]}
        return found

    def drafts(self, prompts: Sequence[Sequence[int]], beside: Sequence[Heard] = ()) -> list[list[int]]:
        """How greedy generation begins behind each prompt, as far as this tells: the labels of an answer as long as each is the argmax.

        An end is among them where an answer is recited whole. beside: what else is known of the model.
        """
        best: dict[tuple[int, ...], list[int]] = {}
        mine = ((prompt, answer, self.hit[labels]) for (prompt, answer), labels in zip(self.pairs, self.packing.labels, strict=True))
        for prompt, answer, hits in chain(mine, beside):
            run = len(hits) if hits.all() else int(hits.argmin())
            if run > len(best.get(key := tuple(prompt), [])):
                best[key] = list(answer[:run])
        return [best.get(tuple(p), []) for p in prompts]


def read(model: nn.Module, pairs: Sequence[Pair], moments: Sequence[bool], pad: int, progress: Callable[[float], None]) -> Reading:
    """Read sequences. moments: of which of them mean and deviation are wanted; progress: hears the share that is done."""
    budget = _for(model, BUDGET)
    why = unshareable(model, pairs, pad)
    packing = pack(pairs, not why, budget, pad)
    wanted = np.zeros(packing.predictions, bool)
    for labels, ask in zip(packing.labels, moments, strict=True):
        if ask:
            wanted[packing.by[labels]] = True
    return _pass(model, pairs, packing, not why, wanted, progress, why or "answers share their questions")


def _for(model: nn.Module, sizes: dict[str, int]) -> int:
    return sizes.get(next(model.parameters()).device.type, sizes["cuda"])


# which models can


def unshareable(model: nn.Module, pairs: Sequence[Pair], pad: int) -> str:
    """Why answers cannot share their question in this model; '' where they can.

    A model that looks back over a window, or counts places by itself, would see the branches in between. What cannot be known from the
    outside is tried: a few questions are read both ways.
    """
    if why := strange(model):
        return why
    base: Any = base_of(model)
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return "the model takes no positions"
    several = [group for group in _by_prompt(pairs) if len({tuple(pairs[i][1]) for i in group}) > 1]
    if not several:
        return "no question has several answers"
    longest = max(len(p) + len(a) for p, a in pairs)
    config = base.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window and window < longest:
        return f"the model looks back over {window} tokens"
    few = [pairs[i] for group in _few(pairs, several) for i in group]
    try:
        shared, plain = (_logp(model, few, share, BUDGET["cpu"], pad) for share in (True, False))
        off = float((shared - plain).abs().max())
        near = NEAR if off <= NEAR else NEAR + 4 * float((_logp(model, few, False, 1, pad) - plain).abs().max())
    except Exception as error:  # a model may refuse in its own way
        return f"the model refuses to share ({type(error).__name__})"
    return "" if off <= near else f"log-probabilities would differ by {off:.2g} if answers shared their questions"


def strange(model: nn.Module) -> str:
    """What stands between the model and its own forward, if anything: a guard, or hooks, which may count places."""
    from transformers import PreTrainedModel

    if not isinstance(base_of(model), PreTrainedModel) or hasattr(model, "describe"):
        return "the model is wrapped"
    if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
        return "the model has hooks"
    return ""


def _by_prompt(pairs: Sequence[Pair]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (prompt, _) in enumerate(pairs):
        groups.setdefault(tuple(prompt), []).append(i)
    return list(groups.values())


def _few(pairs: Sequence[Pair], several: Sequence[list[int]]) -> list[list[int]]:
    """The question with the longest sequence, that with the longest answers together, and the first."""
    by_sequence = max(several, key=lambda g: max(len(pairs[i][0]) + len(pairs[i][1]) for i in g))
    by_tree = max(several, key=lambda g: sum(len(pairs[i][1]) for i in g))
    return list({tuple(g): g for g in (by_sequence, by_tree, several[0])}.values())


def _logp(model: nn.Module, pairs: Sequence[Pair], share: bool, budget: int, pad: int) -> Tensor:
    packing = pack(pairs, share, budget, pad)
    found = _pass(model, pairs, packing, share, np.zeros(packing.predictions, bool), lambda share: None, "")
    return torch.from_numpy(np.concatenate([found.target_logp[labels] for labels in packing.labels]))


# the pass


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
    some = next(model.parameters())
    dtype = getattr(base_of(model), "dtype", some.dtype)
    head = LanguageHead(model, _for(model, ROOM))
    done = label = known = seen = 0
    labels = sum(len(batch.label) for batch in packing.batches)
    # made before the first forward: what stays of one chunk, put between the large tensors of two, would keep their room from being reused
    logp, hit = some.new_empty(labels, dtype=torch.float32), some.new_empty(labels, dtype=torch.bool)
    moments = some.new_empty(int(wanted.sum()), 2, dtype=torch.float32)
    for on_host in packing.batches:
        batch = on_host.to(some.device)
        given = {"attention_mask": batch.mask(dtype), "position_ids": batch.position} if share else {"attention_mask": batch.real.long()}
        asked = torch.from_numpy(wanted[done : done + len(batch.at)])
        edges = on_host.by
        for first, last, logits in head.chunks(batch.at, input_ids=batch.ids, use_cache=False, **given):
            a, b = torch.searchsorted(edges, torch.tensor([first, last])).tolist()
            more = int(asked[first:last].sum())
            into = logp[label + a : label + b], hit[label + a : label + b], moments[known : known + more]
            _read(logits, batch.by[a:b] - first, batch.label[a:b], asked[first:last], *into)
            known += more
            del logits  # before the next ones are made
        done, label = done + len(batch.at), label + len(batch.label)
        seen += int(on_host.real.sum())
        progress(seen / packing.places)
    mean, std = np.full((2, packing.predictions), np.nan, np.float32)
    mean[wanted], std[wanted] = moments.cpu().numpy().T
    return Reading(pairs, packing, logp.cpu().numpy(), hit.cpu().numpy(), mean, std, how)


def _read(logits: Tensor, by: Tensor, label: Tensor, asked: Tensor, logp: Tensor, hit: Tensor, moments: Tensor) -> None:
    """Fill in log-probability and hit of each label, and the moments of the predictions that are asked for, (asked, 2)."""
    z = exact(logits)
    best = z.amax(-1, keepdim=True)
    score = z[by, label] - best[by, 0]
    torch.ge(score, 0, out=hit)
    z -= best  # in place, here and below: nobody else wants the logits
    several = hit.nonzero()[:, 0]
    places = asked.nonzero()[:, 0].to(z.device)
    log = z[places]
    total = z.exp_().sum(-1)
    if len(several := several[total[by[several]] >= 2]):  # of labels that share the highest score the first is said
        hit[several] = z[by[several]].argmax(-1) == label[several]
    total = total.log()
    logp.copy_(score - total[by])
    log -= total[places, None]
    p = log.exp()
    mean = p.mul_(log).sum(-1)
    variance = p.mul_(log).sum(-1) - mean.square()
    moments.copy_(torch.stack([mean, variance.clamp_min(VARIANCE).sqrt()], -1))


class LanguageHead:
    """The language head, asked about the predicting positions only, some at a time: all logits of a batch would be the largest tensor."""

    def __init__(self, model: nn.Module, room: int) -> None:
        self.model, self.room = model, room
        found = getattr(base_of(model), "get_output_embeddings", lambda: None)()
        self.module: nn.Module | None = found if isinstance(found, nn.Module) else None
        self.last: bool | None = None if self.module else False  # whether what it says is what the model says; a first batch tells

    def chunks(self, at: Tensor, **inputs: Any) -> Iterator[tuple[int, int, Tensor]]:
        """Logits of one forward at flattened positions: first, last (not included) and (last - first, classes)."""
        size = len(at) if self.last is False else self._size(len(at))
        with self._asked(at, size) as seen:
            logits = self.model(**inputs).logits
        if not seen:  # a model without a plain head, or that does not ask it
            yield 0, len(at), logits.flatten(0, 1)[at]
            return
        hidden, out = seen
        seen.clear()
        logits = logits[0]
        if self.last is None:
            self.last = torch.equal(logits, out[0])
            if not self.last:  # the model does something with the scores (a cap, a scale): it must see them all
                yield from self.chunks(at, **inputs)
                return
        yield 0, size, logits
        del logits, out  # before the next ones are made
        assert self.module is not None
        for first in range(size, len(at), size):
            some = hidden[first : first + size]
            yield first, first + len(some), self.module(some)

    def _size(self, positions: int) -> int:
        assert self.module is not None
        classes = getattr(self.module, "out_features", 0) or len(next(self.module.parameters()))
        return min(positions, max(FEWEST, self.room // classes))

    @contextmanager
    def _asked(self, at: Tensor, size: int) -> Iterator[list[Tensor]]:
        """The head sees the first positions of `at`. Yields the hidden states of all and the head's output, once there are any."""
        seen: list[Tensor] = []

        def pick(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if not args:
                return None
            seen.append(args[0].flatten(0, 1)[at])
            return (seen[0][None, :size], *args[1:])

        def keep(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            seen.append(out)

        handles = [self.module.register_forward_pre_hook(pick), self.module.register_forward_hook(keep)] if self.module else []
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()
