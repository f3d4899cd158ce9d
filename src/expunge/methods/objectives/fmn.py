"""FMN: train the denoiser to pay no attention to the words to forget.

Only attention moves: no picture is aimed at, so what is drawn instead is up to the model.

Equation: L = mean over rows of |A|_2, A all attention probabilities that any pixel, head and cross-attention layer gives to the tokens of
  the concept and to the first end token
Source: Zhang et al. 2024 (CVPR workshops), Forget-Me-Not, arXiv 2303.17591
Needs: forget (pictures with captions); a text encoder
Cost: one forward and backward of the forget rows a step, with the attention of each layer in plain form beside the fast one
Differs: the norm is of each row, where the authors' batches have one; the words themselves are the concept, without textual inversion
  before; the first end token is marked alone, also where more of them fill the caption up
Status: shown
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Denoises, require
from expunge.core.hyperparameters import hp, part
from expunge.core.parts import Objective
from expunge.core.plan import Plan, Train
from expunge.core.view import Step
from expunge.methods.concepts import pairs, places
from expunge.methods.denoising import CROSS_ATTENTION, DENOISER, captioned


class Attending:
    """A patch that changes nothing, and keeps the attention probabilities of a forward pass.

    Args:
        paths: of modules of cross-attention.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        self.probabilities: list[Tensor] = []  # of each module, (rows, heads, pixels, tokens)

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for path in self.paths:
                stack.callback(model.get_submodule(path).register_forward_pre_hook(self._keep, with_kwargs=True).remove)
            yield

    def _keep(self, module: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        hidden = args[0] if args else inputs["hidden_states"]
        states = inputs["encoder_hidden_states"]
        query, key = (module.head_to_batch_dim(x) for x in (module.to_q(hidden), module.to_k(states)))
        probabilities: Tensor = module.get_attention_scores(query, key, None)
        self.probabilities.append(probabilities.unflatten(0, (len(hidden), module.heads)))


@part
class Attention(Objective):
    """The norm of the attention that is paid to the words to forget."""

    concept: str = hp("", "what to erase, in words that captions of the forget rows contain; '': these captions as a whole")
    reads = frozenset({"forget"})
    requires = frozenset({Denoises})

    def loss(self, step: Step) -> Tensor:
        modality, rows = require(step.modality, Denoises), step.forget
        if self.concept:
            pairs(step.whole_set("forget"), self.concept, "")
        draws = [[i] * len(times) for i, times in enumerate(rows["times"])]
        patch = Attending(modality.cross_attention(step.model))
        step.now(captioned(step, rows, rows["caption"]), patch)
        marked = [self._marked(modality, caption) for caption in rows["caption"]]
        row = torch.tensor([i for of in draws for i in of])
        squares = torch.stack([self._square(patch.probabilities, d, marked[i]) for d, i in enumerate(row.tolist())])
        norms = squares.new_zeros(len(rows)).index_add(0, row.to(squares.device), (squares + 1e-24).sqrt())
        return step.mean(norms / torch.bincount(row, minlength=len(rows)).to(norms), rows)

    def _marked(self, modality: Denoises, caption: str) -> list[int]:
        """Positions of the concept and of the first end token; without words of a concept in the caption, of all its tokens."""
        content = list(modality.content_tokens([caption])[0])
        own = places(modality, caption, self.concept) if self.concept else []
        return [*(own or content), max(content, default=0) + 1]

    @staticmethod
    def _square(probabilities: Sequence[Tensor], draw: int, positions: Sequence[int]) -> Tensor:
        sums = [p[draw][:, :, [i for i in positions if i < p.shape[-1]]].square().sum() for p in probabilities]
        return torch.stack(sums).sum()


def plan(
    layers: Annotated[
        Literal["attention", "all"], "what trains: cross-attention, as for styles, or the whole denoiser, as for objects"
    ] = "attention",
) -> Plan:
    train = Train(epochs=0, steps=35, lr=2e-6, batch_size=1, weight_decay=0.01, max_grad_norm=1.0, optimizer="adamw", schedule="constant")
    return Plan(Attention(), train=train, trainable=CROSS_ATTENTION if layers == "attention" else DENOISER)
