"""Score many sequences of a causal model in one teacher-forced pass, in which answers share their question where the model allows it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from expunge.engine.adapters import base_of
from expunge.modalities.text.decoding import disturbed
from expunge.modalities.text.reading import BUDGET, Inputs, Reading, difference_of, places_for, score, strange
from expunge.modalities.text.trie import Batch, Pair, pack


def read(model: nn.Module, pairs: Sequence[Pair], moments: Sequence[bool], pad: int, progress: Callable[[float], None]) -> Reading:
    """Score the labels of sequences.

    Args:
        pairs: token ids of prompts and answers.
        moments: for each pair, whether to compute mean and deviation of the log-probabilities.
        pad: token id of padding.
        progress: is called with the share of the work that is done, from 0 to 1.
    """
    alone = bool(pairs) and disturbed(model, [*pairs[0][0], *pairs[0][1]], pad)
    budget = 1 if alone else places_for(model)
    obstacle = "padding changes what the model predicts" if alone else unshareable(model, pairs, pad)
    packing, inputs = pack(pairs, not obstacle, budget, pad), _inputs(model, not obstacle)
    return score(model, pairs, packing, moments, inputs, progress, obstacle or "answers share their questions")


def _inputs(model: nn.Module, share: bool) -> Inputs:
    """The inputs of a model for each packed batch."""
    dtype = getattr(base_of(model), "dtype", next(model.parameters()).dtype)

    def inputs(_: int, batch: Batch) -> dict[str, Any]:
        places = {"attention_mask": batch.mask(dtype), "position_ids": batch.position} if share else {"attention_mask": batch.real.long()}
        return {"input_ids": batch.ids, **places}

    return inputs


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
        shared, plain = (_few_scores(model, few, share, min(BUDGET["cpu"], places_for(model)), pad) for share in (True, False))
        difference = difference_of(shared, plain, lambda: _few_scores(model, few, False, 1, pad))
    except Exception as error:  # models raise errors of any kind
        return f"the model refuses to share ({type(error).__name__})"
    return f"log-probabilities would differ by {difference:.2g} if answers shared their questions" if difference else ""


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


def _few_scores(model: nn.Module, pairs: Sequence[Pair], share: bool, budget: int, pad: int) -> Reading:
    return score(model, pairs, pack(pairs, share, budget, pad), [False] * len(pairs), _inputs(model, share))
