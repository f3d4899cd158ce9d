"""The model output that every modality returns: packed positions without padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from expunge.core.errors import UndeclaredNeed, UserError
from expunge.core.modality import Patch, Weights
from expunge.core.rows import Packed, Rows
from expunge.engine.adapters import base_of
from expunge.engine.blocks import block_hook_points, last_block, spelled_path
from expunge.functional.brief import brief


@brief("rows", "scores")
@dataclass
class PackedOutput:
    """The output of a model for a set of rows. Softmaxes are computed on demand, in float32 (or float64).

    Where there is a head, it has not run: whoever reads logits runs it on all labels, and losses run it on some labels at a time, once more
    on the way back, so that the logits of long rows never stand in memory at once.
    """

    states: Tensor  # (labels, classes), before the softmax; where there is a head (labels, width), before the head
    labels: Tensor  # (labels,)
    row: Tensor  # (labels,) the row of each label
    rows: int
    hooked: Mapping[str, tuple[Tensor, Tensor]]  # module -> packed (input, output), each (tokens, width)
    token_row: Tensor  # (tokens,) the row of each token
    head: Callable[[Tensor], Tensor] | None = None  # (labels, width) -> (labels, classes)
    at_once: int = 0  # labels that the head runs on at a time

    @cached_property
    def scores(self) -> Tensor:
        """Logits, (labels, classes)."""
        return self.states if self.head is None else self.head(self.states)

    def with_scores(self, scores: Tensor) -> Self:
        """The same output with other logits, (labels, classes)."""
        return replace(self, states=scores, head=None, at_once=0)

    @property
    def logits(self) -> Packed:
        return Packed(self.scores, self.row, self.rows)

    @property
    def log_probs(self) -> Packed:
        return self.logits.map(lambda z: exact(z).log_softmax(-1))

    @cached_property
    def loss(self) -> Packed:
        if self.head is None:
            return Packed(_losses(self.scores, self.labels), self.row, self.rows)
        pieces = zip(torch.split(self.states, self.at_once), torch.split(self.labels, self.at_once), strict=True)
        losses = [checkpoint(self._losses_of, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
        return Packed(torch.cat(losses), self.row, self.rows)

    def _losses_of(self, states: Tensor, labels: Tensor) -> Tensor:
        assert self.head is not None
        return _losses(self.head(states), labels)

    @cached_property
    def target_logp(self) -> Packed:
        return self.loss.map(torch.neg)

    @property
    def answer_tokens(self) -> Tensor:
        """Indices of the tokens that hold a label, (labels,): the last tokens of each row."""
        tokens, labels = (torch.bincount(r, minlength=self.rows).cumsum(0) for r in (self.token_row, self.row))
        return torch.arange(len(self.row), device=self.row.device) + (tokens - labels)[self.row]

    def hidden(self, hook_point: str, answers: bool = False) -> Packed:
        return self._hooked(hook_point, 1, answers)

    def input(self, hook_point: str, answers: bool = False) -> Packed:
        return self._hooked(hook_point, 0, answers)

    def _hooked(self, hook_point: str, side: int, answers: bool) -> Packed:
        if hook_point not in self.hooked:
            raise UndeclaredNeed(f"the module {hook_point!r} was not declared in `hook_points`")
        states = self.hooked[hook_point][side]
        return Packed(states[self.answer_tokens], self.row, self.rows) if answers else Packed(states, self.token_row, self.rows, "tokens")


def _losses(scores: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(exact(scores), labels, reduction="none")


def exact(x: Tensor) -> Tensor:
    """Convert to at least float32. Probabilities near 0 lose their gradient in lower precision."""
    return x if x.dtype == torch.float64 else x.float()


@brief("labels")
@dataclass(frozen=True)
class Layout:
    """Where the labels and the real positions of a padded batch are, as indices into its flattened positions, computed on the host.

    The rows of labels and tokens stay on the host, because reading them from a busy device would wait for the whole forward pass.
    """

    labels: Tensor  # (labels,) classes
    label_row: Tensor  # (labels,)
    label_at: Tensor  # (labels,) the position that predicts the label
    token_row: Tensor  # (tokens,)
    token_at: Tensor  # (tokens,)

    def to(self, device: torch.device) -> Layout:
        moved = {n: getattr(self, n).to(device, non_blocking=True) for n in ("labels", "label_at", "token_at")}
        return replace(self, **moved)


def cut(
    logits: Tensor,
    layout: Layout,
    hook_points: Mapping[str, tuple[Tensor, Tensor]],
    groups: Sequence[Rows],
    head: Callable[[Tensor], Tensor] | None = None,
    at_once: int = 0,
) -> list[PackedOutput]:
    """Split one forward pass over all groups into the output of each group.

    Args:
        logits: (labels, classes), packed as `layout` describes; with a head, which has not run, the states before it (labels, width).
        hook_points: input and output of each hooked module, padded (rows, positions, width).
        groups: the rows of each output.
        head, at_once: see `PackedOutput`.
    """
    hooked = {n: (_flat(i)[layout.token_at], _flat(o)[layout.token_at]) for n, (i, o) in hook_points.items()}
    label_row, token_row = layout.label_row.contiguous(), layout.token_row.contiguous()
    edges = torch.tensor([0, *(len(g) for g in groups)]).cumsum(0)
    at = zip(*(torch.searchsorted(rows, edges).tolist() for rows in (label_row, token_row)), edges.tolist(), strict=True)
    outputs = []
    for (a, c, first), (b, d, end) in pairwise(at):
        group_hooked = {n: (i[c:d], o[c:d]) for n, (i, o) in hooked.items()}
        rows = [(r - first).to(logits.device, non_blocking=True) for r in (label_row[a:b], token_row[c:d])]
        outputs.append(PackedOutput(logits[a:b], layout.labels[a:b], rows[0], end - first, group_hooked, rows[1], head, at_once))
    return outputs


def _flat(x: Tensor) -> Tensor:
    """Flatten the positions of a batch to one dimension. Token ids, unlike hidden states, have no width."""
    return x.flatten(0, -2) if x.is_floating_point() else x.flatten()


@contextmanager
def watching(model: nn.Module, hook_points: Sequence[str], patch: Patch | None) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Record the input and output of modules during a forward pass, with a patch applied.

    Args:
        hook_points: paths of the modules; `block:7` and `block:*` stand for blocks.
        patch: a change of the forward pass, applied inside the block; None: no change.

    Yields:
        A dictionary that the forward pass fills, from path to (input, output).

    Raises:
        UserError: when the model has no module at a path.
    """
    states: dict[str, tuple[Tensor, Tensor]] = {}

    def record(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            inputs = args[0] if args else next(iter(kwargs.values()))
            states[path] = (inputs, out[0] if isinstance(out, tuple) else out)

        return hook

    base = base_of(model)
    with ExitStack() as stack:
        for path in spelled_out(model, hook_points):
            module = module_at(base, path)
            stack.callback(module.register_forward_hook(record(path), with_kwargs=True).remove)
        if patch is not None:
            stack.enter_context(patch.on(base))
        yield states


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The module at a path. A path like `block:7` means the block of that number, whatever its name in the model.

    Raises:
        UserError: when the model has no such module.
    """
    base, full_path = base_of(model), spelled_path(model, path)
    try:
        return base.get_submodule(full_path)
    except AttributeError:
        raise UserError(f"this model has no module {full_path!r}; its last block is {last_block(base)!r}") from None


def spelled_out(model: nn.Module, hook_points: Sequence[str]) -> list[str]:
    """Replace `block:*` by the hook points of all blocks."""
    return [path for hook_point in hook_points for path in (block_hook_points(model) if hook_point == "block:*" else (hook_point,))]


def call(model: nn.Module, weights: Weights | None, *args: Tensor, **inputs: Any) -> Any:
    """Run a model, with these weights instead of its own unless `weights` is None."""
    return torch.func.functional_call(model, weights, args, inputs) if weights else model(*args, **inputs)


def independent(model: nn.Module) -> bool:
    """Whether the rows of one forward pass do not affect each other. Under batch norm in training mode they do."""
    return not any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules())


@contextmanager
def running_statistics(model: nn.Module) -> Iterator[None]:
    """Normalize by the running statistics in a `with` block, because one row, or copies of it, has no batch statistics."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training and m.running_mean is not None]
    for layer in layers:
        layer.train(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.train(True)


def last_linear(model: nn.Module) -> str:
    """The path of the last linear layer outside adapters.

    Raises:
        UserError: when the model has no linear layer.
    """
    paths: list[str] = [n for n, m in base_of(model).named_modules() if isinstance(m, nn.Linear) and "lora_" not in n]
    if not paths:
        raise UserError(f"a {type(base_of(model)).__name__} has no linear layer, and the head of a model must be one")
    return paths[-1]
