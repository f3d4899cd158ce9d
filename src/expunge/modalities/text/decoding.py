"""Rows of tokens that grow by one token at a time, and the fastest mode in which a model lets them grow without a change of its answers.

Most models read prompts of unequal lengths in one batch, padded on the left, and keep keys and values in a cache that finished rows leave.
Some count places from the first column, padding included; some keep states that rows cannot leave; some have no cache. The mode is not
read off the architecture: each is tried on a few tokens, and the first whose logits equal those of plain forward passes is taken.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from expunge.engine.adapters import base_of
from expunge.engine.committee import members_of
from expunge.engine.run_state import evaluating
from expunge.functional.voting import mean_of_softmax

SPARE = 32  # tokens that are allocated ahead, so that keys and values are not copied for each token
CACHES = ("past_key_values", "cache_params")  # what models call their cache
EXACT = 1e-3  # logits of two ways may differ by this share of their spread in float32, and by rounding in coarser types
FORCED = 4  # tokens that follow a prompt when a mode is tried
TRIED = (8, 64)  # fewest and most tokens of the prompt
BRIEF = 16  # the most tokens where padding is tried: every training run waits for this trial


class Roomy(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a block in preallocated buffers. The library's layer copies all of them for every token."""

    keys: Tensor  # (rows, heads, tokens, width), a view of the beginning of its buffer
    values: Tensor  # likewise
    buffers: tuple[Tensor, ...] = ()  # of keys and values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values, both (rows, heads, new tokens, width), and return all of them."""
        new, before = (key_states, value_states), self.get_seq_length()
        after = before + key_states.shape[-2]
        if not self.buffers or after > self.buffers[0].shape[-2]:
            self.buffers = tuple(x.new_empty(*x.shape[:-2], after + SPARE, x.shape[-1]) for x in new)
            if before:
                self.buffers[0][..., :before, :], self.buffers[1][..., :before, :] = self.keys, self.values
        for buffer, states in zip(self.buffers, new, strict=True):
            buffer[..., before:after, :] = states
        self.keys, self.values = (buffer[..., :after, :] for buffer in self.buffers)
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows at these indices only."""
        super().reorder_cache(beam_idx)
        self.buffers = ()


@dataclass(frozen=True)
class DecodingMode:
    """How rows grow."""

    padded: bool = True  # prompts of unequal lengths share a batch, padded on the left
    cached: bool = True  # earlier tokens are not read again
    dropped: bool = True  # finished rows leave the cache


PLAIN = DecodingMode(padded=False, cached=False)  # every token is predicted by a plain forward pass over all tokens before it
MODES = (
    DecodingMode(),
    DecodingMode(dropped=False),
    DecodingMode(padded=False),
    DecodingMode(padded=False, dropped=False),
)  # the fastest first
_modes: WeakKeyDictionary[nn.Module, DecodingMode] = WeakKeyDictionary()  # what was found for a model, by trying
_disturbed: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # likewise


class Growing:
    """Rows of tokens, and the model's prediction of the next one."""

    def __init__(self, model: nn.Module, prompts: Sequence[Sequence[int]], pad: int, mode: DecodingMode) -> None:
        """Start from prompts, which have equal lengths unless the mode pads them. pad: token id of padding."""
        self.model, self.mode = model, mode
        device, width = next(model.parameters()).device, max(map(len, prompts))
        self.ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
        self.mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        self.at = (self.mask.cumsum(1) - 1).clamp_min(0)
        self.parameters = inspect.signature(base_of(model).forward).parameters
        self.cache = _cache(model) if mode.cached else None

    def logits(self) -> Tensor:
        """The logits of the next token of each row, (rows, classes)."""
        inputs: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in self.parameters else {}
        if "use_cache" in self.parameters:
            inputs["use_cache"] = self.mode.cached
        if self.mode.cached:
            inputs[next(name for name in CACHES if name in self.parameters)] = self.cache
        if self.mode.padded:
            inputs["attention_mask"] = self.mask
            if "position_ids" in self.parameters:
                inputs["position_ids"] = self.at
        logits: Tensor = self.model(input_ids=self.ids, **inputs, **self.beside()).logits
        return logits[:, -1]

    def beside(self) -> dict[str, Any]:
        """Inputs of the model besides token ids and what belongs to them: none."""
        return {}

    def append(self, tokens: Tensor) -> None:
        """Add a token, (rows,), to each row."""
        if not self.mode.cached:
            self.ids = torch.cat([self.ids, tokens[:, None]], 1)
            return
        self.ids, self.at = tokens[:, None], self.at[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)

    def keep(self, rows: Tensor) -> None:
        """Keep the rows at these indices alone; an index may repeat."""
        if self.cache is not None:
            self.cache.reorder_cache(rows)  # unlike `batch_select_indices`, layers of all kinds have it
        self.ids, self.at, self.mask = self.ids[rows], self.at[rows], self.mask[rows]


class GrowingTogether:
    """The same rows in every member of a committee. The next token is predicted by the mean of the members' probabilities."""

    def __init__(self, each: Sequence[Any]) -> None:
        self.each = each  # rows in each member, which grow alike

    @property
    def ids(self) -> Tensor:
        """The last tokens of the rows, (rows, tokens)."""
        ids: Tensor = self.each[0].ids
        return ids

    def logits(self) -> Tensor:
        """The log-probabilities of the next token of each row, (rows, classes)."""
        return mean_of_softmax([growing.logits() for growing in self.each])

    def append(self, tokens: Tensor) -> None:
        """Add a token, (rows,), to each row."""
        for growing in self.each:
            growing.append(tokens)

    def keep(self, rows: Tensor) -> None:
        """Keep the rows at these indices alone; an index may repeat."""
        for growing in self.each:
            growing.keep(rows)


def together(each: Sequence[Any]) -> Any:
    """The rows of one model, or of all members of a committee as one."""
    return each[0] if len(each) == 1 else GrowingTogether(each)


def started(model: nn.Module, prompts: Sequence[Sequence[int]], pad: int, mode: DecodingMode) -> Any:
    """Rows of tokens that begin with prompts, under a model or a committee."""
    return together([Growing(member, prompts, pad, mode) for member in members_of(model)])


def _cache(model: nn.Module) -> DynamicCache:
    """An empty cache of the kind that the model's configuration names."""
    cache = DynamicCache(config=base_of(model).config)
    cache.layers = [Roomy() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def mode_of(model: nn.Module, prompts: Sequence[Sequence[int]], pad: int) -> DecodingMode:
    """The fastest mode in which a model's rows may grow. It is tried once for each model, on the first of the prompts (token ids)."""
    model = members_of(model)[0]
    base = base_of(model)
    cached = any(name in inspect.signature(base.forward).parameters for name in CACHES)
    if not isinstance(base, PreTrainedModel):
        return DecodingMode() if cached else PLAIN
    if base not in _modes:
        prompt = sized(prompts[0])
        with evaluating(model), torch.no_grad():  # dropout would make any two passes differ
            _modes[base] = next((mode for mode in MODES if cached and _equals_plain(model, prompt, pad, mode)), PLAIN)
    return _modes[base]


def disturbed(model: nn.Module, tokens: Sequence[int], pad: int) -> bool:
    """Whether padding on the right changes what a model predicts before it. It is tried once for each model, on some token ids."""
    base = base_of(model)
    if not isinstance(base, PreTrainedModel):
        return False
    if base not in _disturbed:
        long, device = sized(tokens)[:BRIEF], next(model.parameters()).device
        short = long[: len(long) // 2]
        ids = torch.tensor([long, short + [pad] * (len(long) - len(short))], device=device)
        mask = torch.tensor([[1] * len(long), [1] * len(short) + [0] * (len(long) - len(short))], device=device)
        with evaluating(model), torch.no_grad():
            padded = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[1, : len(short)]
            alone = model(input_ids=ids[1:, : len(short)], use_cache=False).logits[0]
        _disturbed[base] = not equal(padded.flatten(), alone.flatten())
    return _disturbed[base]


def looks_ahead(model: nn.Module, known: int) -> bool:
    """Whether a model predicts a token from the tokens after it. known: how many tokens it knows."""
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=next(model.parameters()).device) % known
    with evaluating(model), torch.no_grad():
        first, second = model(input_ids=ids).logits[:, :3]
    return known > 5 and not equal(second.flatten(), first.flatten())


def sized(tokens: Sequence[int]) -> list[int]:
    """Tokens to try a model on: not too few to show a difference, not too many to be quick."""
    fewest, most = TRIED
    return (list(tokens) * fewest)[: max(fewest, min(len(tokens), most))]


def _equals_plain(model: nn.Module, prompt: list[int], pad: int, mode: DecodingMode) -> bool:
    """Whether two rows that grow in this mode, one of which is dropped half-way, get the logits of plain forward passes."""
    prompts = [prompt, prompt[len(prompt) // 2 :] if mode.padded else prompt[::-1]]
    forced = prompt[:FORCED]
    try:
        growing, pairs = Growing(model, prompts, pad, mode), list[tuple[Tensor, Tensor]]()
        plain = [model(input_ids=growing.ids.new_tensor([[*p, *forced]])).logits[0, len(p) - 1 :] for p in prompts]
        for step in range(len(forced)):
            pairs += zip(growing.logits(), (rows[step] for rows in plain), strict=True)
            growing.append(growing.ids.new_tensor([forced[step]] * len(plain)))
            if mode.dropped and step == len(forced) // 2:
                growing.keep(growing.ids.new_tensor([1]))
                plain = plain[1:]
    except torch.OutOfMemoryError:
        raise
    except Exception:  # models raise errors of any kind
        return False
    return all(equal(*pair) for pair in pairs)


def equal(logits: Tensor, plain: Tensor) -> bool:
    """Whether logits, both of the same shape, are equal up to rounding. A model that gives none that are finite is equal to itself."""
    finite = plain.isfinite()
    if not finite.any():
        return True
    spread, difference = plain[finite].float().std(correction=0), (logits - plain)[finite].float().square().mean().sqrt()
    return bool(difference <= max(EXACT, 8 * torch.finfo(plain.dtype).eps) * spread)
