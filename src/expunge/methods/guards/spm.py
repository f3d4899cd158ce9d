"""SPM: a thin adapter that opens for prompts like the concept to forget, and leaves all other prompts to the model as it is.

The weights stay, and the adapter's strength follows from the prompt. Whoever has the weights has the concept.

Equation: y + m up(down(x)) at each linear layer and convolution of the transformer blocks, of rank 1; L = MSE(e_A(x_t,c), e0(n) - g (e0(c)
  - e0(n))) + 1000 MSE(e_A(x_t,r), e0(x_t,r)), n the neutral prompt, r drawn states: a normal direction, kept with probability 1 -
  cos(r,c), of length |c| times a number from 0.8 to 1.2; m = max(cos(prompt, concept), share of the concept's tokens in the prompt), at
  most 1
Source: Lyu et al. 2024 (CVPR), One-dimensional adapter to rule them all, arXiv 2312.16145
Needs: forget (prompts alone); a text encoder; a LoRA adapter and the reference while it trains
Cost: a step samples 15 steps with guidance on average, two passes of the reference, and a forward and backward of 5 rows for each row;
  afterwards a pass of the text encoder over each new prompt, and two thin products a layer
Differs: m scales the product of both factors, as in the paper, while the released inference scales each and so has m squared; all prompts
  to forget share one adapter, with the largest of their gates; the learning rate falls as one cosine instead of three, and its warm-up
  counts passes over the prompts, which are 500 steps for a single one; AdamW keeps 32 bits
Status: faithful
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.core.capabilities import Denoises, require
from expunge.core.hyperparameters import hp, part
from expunge.core.modality import Modality, ModelOutput, Patch, Weights
from expunge.core.parts import Guard, Selector
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.core.view import View
from expunge.engine import guarding
from expunge.engine.adapters import base_of
from expunge.methods.concepts import prompts
from expunge.methods.denoising import AsBefore, PartialSamples
from expunge.methods.objectives.esd import NegativeGuidance

LAYERS = (
    r"(unet|transformer)\.(.*\.)?(attentions|transformer_blocks)\.\d+\.(.*\.)?"
    r"(proj_in|proj_out|to_q|to_k|to_v|to_out\.0|net\.0\.proj|net\.2)"
)


@part
class DrawnStates(Selector):
    """Puts states that are drawn in place of the captions of sampled rows: prompts far from the concept, at the same latents."""

    when: ClassVar[Any] = "step"
    anchors: int = hp(4, "drawn states for each row", ge=1)
    requires = frozenset({Denoises})
    reads = frozenset({"partial"})
    gives = frozenset({"drawn"})

    def pick(self, sets: Sets, view: View) -> Sets:
        modality, rows, rng = require(view.modality, Denoises), view.rows("partial"), view.rng()
        with torch.no_grad():
            concept = modality.encode(view.model, rows["concept"])
        states = torch.stack([away(c, rng) for c in concept for _ in range(self.anchors)])
        rows = rows.select([i for i in range(len(rows)) for _ in range(self.anchors)])
        latents, times = modality.noised(rows)
        return {**sets, "drawn": modality.placed(rows, latents, times, states).rename("drawn")}


def away(concept: Tensor, rng: torch.Generator) -> Tensor:
    """States in a direction that is drawn, the likelier the farther from a concept, and about as long as those of the concept."""
    while True:
        direction = torch.randn(concept.shape, generator=rng, dtype=torch.float64).to(concept)
        cosine = float(F.cosine_similarity(direction.flatten(), concept.flatten(), dim=0))
        kept, stretch = torch.rand(2, generator=rng, dtype=torch.float64).tolist()
        if kept < 1 - cosine:
            return direction * (concept.norm() / direction.norm()) * (0.8 + 0.4 * stretch)


TRAINING = Plan(
    NegativeGuidance() + 1000 * AsBefore("drawn"),
    train=Train(
        epochs=0,
        steps=3000,
        lr=1e-4,
        batch_size=1,
        weight_decay=0.01,
        warmup=500,
        schedule="cosine",
        lora=1,
        lora_alpha=1.0,
        lora_targets=LAYERS,
    ),
    selectors=(PartialSamples(sampling_steps=30, times="grid"), DrawnStates()),
    name="adapter",
)


@part
class Membrane(Guard):
    """Trains the adapter on a copy of the model, and opens it by prompt."""

    inner: Plan = TRAINING
    reads = frozenset({"forget"})
    requires = frozenset({Denoises})

    def wrap(self, modality: Modality, view: View) -> Modality:
        (samples,) = (s for s in self.inner.selectors if isinstance(s, PartialSamples))
        concepts = list(dict.fromkeys(prompts(view.forget, view.forget, samples.concept)))
        denoises = require(modality, Denoises)
        with torch.no_grad():
            states = denoises.encode(view.model, concepts)
        trained = view.run(self.inner, {"forget": view.forget}).model
        tokens = [sorted(set(of.values())) for of in denoises.content_tokens(concepts)]
        tensors = {"states": states, **guarding.below("layers", factors(trained))}
        return Permeable.fitted(modality, {"tokens": tokens}, tensors)


def factors(model: nn.Module) -> dict[str, Tensor]:
    """Factors of an adapter by the path of their module, `path.down` and `path.up`."""
    result = {}
    for name, tensor in base_of(model).named_parameters():
        for ending, factor in ((".lora_A.default.weight", "down"), (".lora_B.default.weight", "up")):
            if name.endswith(ending):
                result[f"{name.removesuffix(ending)}.{factor}"] = tensor.detach().clone()
    return result


class Permeable(guarding.StoredGuard):
    """A modality whose model has the adapter while it runs, as far as each row's prompt opens it.

    Args:
        settings: the tokens of each concept, without start, end and padding.
        tensors: `states` of the concepts (concepts, tokens, width), and factors of the layers.
    """

    method = "spm"
    hidden = frozenset({"tokens"})

    def gates(self, model: nn.Module, captions: Sequence[str]) -> Tensor:
        """How far the adapter opens for captions, (captions,), from below 0 to 1."""
        inner = require(self.unguarded, Denoises)
        distinct = list(dict.fromkeys(captions))
        with torch.no_grad():
            cosine = self._likeness(inner.encode(model, distinct))
        of_captions = [set(of.values()) for of in inner.content_tokens(distinct)]
        shares = torch.tensor([[len(own & {*t}) / max(1, len(t)) for t in self.settings["tokens"]] for own in of_captions])
        gates = torch.maximum(cosine, shares.to(cosine)).amax(1).clamp(0, 1)
        return gates[torch.tensor([distinct.index(c) for c in captions], device=gates.device)]

    def _likeness(self, states: Tensor) -> Tensor:
        """Cosines of states, (rows, tokens, width), and those of each concept, (rows, concepts)."""
        concepts = self.stored_tensors["states"].to(states).flatten(1)
        return F.normalize(states.detach().flatten(1), dim=1) @ F.normalize(concepts, dim=1).T

    @contextmanager
    def opened(self, model: nn.Module, gates: Tensor) -> Iterator[None]:
        """The adapter in the model. gates: of the rows of a forward pass, (rows,); of a batch twice as long they count twice."""
        base, tensors = base_of(model), self.tensors_of("layers")
        with ExitStack() as stack:
            for path in sorted({n.rpartition(".")[0] for n in tensors}):
                hook = _added(tensors[f"{path}.down"], tensors[f"{path}.up"], gates)
                stack.callback(base.get_submodule(path).register_forward_hook(hook).remove)
            yield

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """Outputs with the adapter, each draw as far as its caption opens it."""
        captions = ["" if gone else c for g in groups for c, of in zip(g["caption"], g["dropped"], strict=True) for gone in of]
        with self.opened(model, self.gates(model, captions)):
            return self.unguarded.forward(model, groups, hook_points, patch, weights)

    def sample(self, model: nn.Module, captions: Sequence[str], seeds: Sequence[int], *args: Any, **how: Any) -> tuple[Tensor, Tensor]:
        """Samples with the adapter; the prediction for the empty prompt has that of its caption."""
        with self.opened(model, self.gates(model, captions)):
            return require(self.unguarded, Denoises).sample(model, captions, seeds, *args, **how)

    def predict(self, model: nn.Module, latents: Tensor, times: Tensor, states: Tensor) -> Tensor:
        """The prediction for given states, with the adapter as far as these are like those of a concept: they have no tokens to share."""
        with self.opened(model, self._likeness(states).amax(1).clamp(0, 1)):
            return require(self.unguarded, Denoises).predict(model, latents, times, states)

    @property
    def holds(self) -> str:
        """What the guard keeps of the rows to forget."""
        count = len(self.settings["tokens"])
        return (
            f"This guard holds the tokens and the states of {count} {'prompt' if count == 1 else 'prompts'} to forget, which can be read."
        )


def _added(down: Tensor, up: Tensor, gates: Tensor) -> Any:
    """A hook that adds the product of two factors to the output of a layer, scaled for each row."""

    def hook(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        x, a, b = args[0], down.to(out), up.to(out)
        layer: Any = module
        thin = F.conv2d(F.conv2d(x, a, None, layer.stride, layer.padding), b) if a.dim() == 4 else F.linear(F.linear(x, a), b)
        scale = gates.to(out).repeat(len(out) // len(gates)).view(-1, *[1] * (out.dim() - 1))
        return out + scale * thin

    return hook


def restore(modality: Modality, folder: Path) -> Modality:
    """The guard that was saved in a folder, around a modality."""
    return Permeable.restored(modality, folder)


def plan() -> Plan:
    return Plan(Membrane())
