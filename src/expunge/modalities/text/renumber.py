"""Give the tokens of a language model other ids: every row of weights that belongs to a token moves with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.errors import UserError
from expunge.engine.adapters import base_of, is_encoder_decoder
from expunge.engine.run_state import device_of, evaluating
from expunge.modalities.text.wider import known_tokens

LENGTH = 8  # tokens of the text on which the model is compared with itself


def configured(model: nn.Module) -> set[int]:
    """Ids that the configurations of a model name, which must stay what they are."""
    base: Any = base_of(model)
    ids: set[int] = set()
    for holder in (base.config, getattr(base, "generation_config", None)):
        entries: Mapping[str, Any] = holder.to_dict() if holder is not None else {}
        for name, value in entries.items():
            if "token" in name:
                ids.update(_numbers(value))
    return ids


def _numbers(value: Any) -> Iterator[int]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


@torch.no_grad()
def renumber(model: nn.Module, source: Tensor) -> None:
    """Move the rows of all embeddings and heads.

    Args:
        model: a language model; it changes in place.
        source: for each new id, the id that the token had before, (tokens,).

    Raises:
        UserError: when the model answers otherwise afterwards, because it has weights for tokens elsewhere.
    """
    base: Any = base_of(model)
    probe = torch.linspace(0, known_tokens(model) - 1, LENGTH).long()
    target = torch.empty_like(source)
    target[source] = torch.arange(len(source))
    before = _scores(base, probe)
    for tensor, dim in _of_tokens(base):
        rows = torch.cat([source, torch.arange(len(source), tensor.shape[dim])])[: tensor.shape[dim]].to(tensor.device)
        tensor.copy_(tensor.index_select(dim, rows))
    after = _scores(base, target[probe])[..., target[: before.shape[-1]]]
    if not torch.allclose(before[..., : after.shape[-1]], after, atol=1e-3 * float(before.abs().max()) + 1e-6):
        raise UserError(
            f"a {type(base).__name__} has weights for single tokens besides its embeddings and its head, so its tokens cannot get other "
            "ids: give --ids kept"
        )


def _of_tokens(base: Any) -> Iterator[tuple[Tensor, int]]:
    """Each tensor with an entry for each token, tied ones once, and the dimension of the tokens."""
    size, seen_at = known_tokens(base), set[int]()
    for module in base.modules():
        if not hasattr(module, "get_input_embeddings"):
            continue
        try:
            layers = (module.get_input_embeddings(), module.get_output_embeddings())
        except (NotImplementedError, AttributeError):  # a part of the model without tokens
            continue
        tensors = [t for layer in layers if layer is not None for t in (layer.weight, getattr(layer, "bias", None)) if t is not None]
        for tensor, dim in [*((t, 0) for t in tensors), *((b, b.dim() - 1) for b in _final_biases(module))]:
            if tensor.data_ptr() not in seen_at and tensor.shape[dim] >= size:
                seen_at.add(tensor.data_ptr())
                yield tensor, dim


def _final_biases(module: Any) -> list[Tensor]:
    """The bias of the scores that some encoder-decoders keep beside the head."""
    return [b for name, b in module.named_buffers(recurse=False) if name == "final_logits_bias"]


def _scores(base: Any, ids: Tensor) -> Tensor:
    """The scores of all tokens after each token of a text, (1, LENGTH, tokens)."""
    ids = ids[None].to(device_of(base))
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if is_encoder_decoder(base) else {})}
    with evaluating(base):
        scores: Tensor = base(**inputs).logits.float().cpu()
    return scores
