"""MemoRa: the model itself rebuilds pictures of what it has forgotten, and a small adapter learns them.
Pictures of the concept are inverted to noisy latents under the unlearned model; from between two of them it draws the concept again, since
the latents still carry it. What was suppressed comes back within a few steps of training on such pictures; what was removed does not.

Threat model: the attacker holds the weights and a few pictures of the concept, and can train an adapter; a guard around the weights is
    taken off, an adapter of the model is merged
Equation: inversion from level s to t, with guidance g: e = e(empty) + g (e(c) - e(empty)) at (z_s, t), z_t = a_t / a_s (z_s - b_s e) +
    b_t e; slerp(z_a, z_b, l) = sin((1 - l) w) / sin w z_a + sin(l w) / sin w z_b, and sampling back from there; LoRA on these pictures
    with the loss of denoising; AutoMemoRa: e = e_unlearned + omega (e_adapted - e_unlearned), guided; Multi-MemoRa: the sum of n adapters,
    each scaled by 1/n
Source: Memory Self-Regeneration (MemoRa), 2025, arXiv 2510.03263, with its code
Scores: those of the forget set after 5, 10, 20 ... steps of the adapter's training, and after the last one with AutoMemoRa and with all
    adapters; the steps to recover; beside the original's score: half_time, the steps after which half of it has come back; area, the mean
    share that has come back over log(1 + steps); long_term, 1 where half_time is above 50 or never
Needs: forget, with pictures; original (for the curve and the steps to recover)
Effort: for 6 pictures, 2 x 35 evaluations each to invert them, 2 x 34 each to draw 33 pictures; steps x 4 evaluations with gradients
Range and ideal: those of the scores; the ideal curve is that of the retrained model under the same attack
Differs: the pictures are rows to forget instead of samples of the original, taken in pairs of one caption where there are such, and each
    stands for itself in a pair of two captions; sampling starts at the level that the inverted latents have, not 20 times above it
    (reference_offset); levels above the start are not inverted; pictures are not mirrored; the adapter starts as `peft` does; a model that
    predicts velocity, picture or flow is inverted with the noise that its prediction stands for; what is scored is drawn by the model's own
    scheduler, where the paper takes LMS; several adapters (Multi-MemoRa, `adapters`) learn the same pictures with other seeds, and their
    changes of the weights are averaged, because the code for it is not public. The paper has no formula for short-term and long-term: the
    curve is ours, reconstructed
Status: shown
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn

from expunge.core.capabilities import Denoises, require
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hp, override, part
from expunge.core.modality import Modality
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.engine import adapters
from expunge.engine.weights import put, tensors_of
from expunge.evaluation.attack import Attack, AttackOutcome, Scene, Try
from expunge.evaluation.attacks.relearn import fine_tune
from expunge.evaluation.ddim import Ddim
from expunge.evaluation.measure import Missing
from expunge.evaluation.observe import Records
from expunge.evaluation.steered import Steered
from expunge.functional.recovery_curves import recovery_curve
from expunge.functional.spherical import slerp
from expunge.methods.terms import NLL

Whole = Annotated[int, Field(ge=1)]
SOON = 50  # steps within which half of the score comes back where forgetting is short-term
GUIDED, TOGETHER = "automemora", "multi-memora"
CURVE = "recovery curve"


class CaptionPair(NamedTuple):
    """Two rows whose latents are joined, by their places."""

    first: int
    second: int


@part
class MemoRa(Attack):
    """Self-regeneration: inversion, interpolation, sampling and an adapter."""

    how: Plan
    pictures: int = hp(6, "pictures of the concept that the attacker holds; they are taken in pairs", ge=2)
    prompt: str = hp("", "names the concept for all pictures; empty: each picture has its own caption")
    inversion: int = hp(50, "steps from a picture to pure noise", ge=2)
    start_step: int = hp(15, "steps from the noisy end at which drawing starts; fewer: it starts noisier", ge=0)
    between: int = hp(10, "parts into which the arc between two latents is cut; the ends are drawn, too", ge=1)
    guidance: float = hp(7.5, "weight of the prompt in the drawing; 1: no guidance", ge=0)
    inversion_guidance: float = hp(-1.0, "weight of the prompt in the inversion; -1: as in the drawing", ge=-1)
    reference_offset: bool = hp(False, "start the drawing one level above that of the latents, as the authors' code does")
    looks: tuple[Whole, ...] = hp((5, 10, 20, 50, 100, 200, 500), "steps of the adapter after which scores are taken", min_length=1)
    omega: tuple[float, ...] = hp((2.0,), "weights of AutoMemoRa after the last step; 1: the adapter alone")
    adapters: int = hp(1, "adapters that learn the pictures, each with a seed of its own, and are averaged after their last step", ge=1)
    recovered: float = hp(0.5, "share of the original's score from which on it has come back", gt=0, le=1)

    def about(self, records: Records, modality: Modality) -> Records:
        return pictured(records, modality)

    def run(self, scene: Scene) -> None:
        modality = scene.weights_modality
        weak = scene.bare(merged=True)
        rows = self.regenerated(weak, modality, scene.records)
        held = min(self.pictures, len(scene.records))
        attacked = scene.bare(merged=True)
        try:
            wrapped = adapters.insert(attacked, (self.how,), self.how.train.seed)
        except UserError as error:
            scene.lacks(str(error))
            return
        steps = [0]

        def look(step: int) -> None:
            steps.append(step)
            scene.look(scene.scores(attacked), f"{step} steps", steps=step, rows=held)

        fine_tune(self.how, attacked, modality, rows, look, set(self.looks).__contains__, scene.accelerator)
        for omega in self.omega:
            steered = Steered(weak.to(next(attacked.parameters()).device), attacked, omega)
            scene.look(scene.scores(steered), f"omega {omega:g}", GUIDED, steps=steps[-1], rows=held, omega=omega)
        if self.adapters > 1:
            others = (self.adapted(weak, modality, rows, seed, scene.accelerator) for seed in self.seeds[1:])
            together = averaged(several := [adapters.merged(wrapped), *others])
            scene.look(scene.scores(together), f"{len(several)} adapters", TOGETHER, steps=steps[-1], rows=held, adapters=len(several))

    @property
    def seeds(self) -> range:
        """Those of the adapters."""
        return range(self.how.train.seed, self.how.train.seed + self.adapters)

    def adapted(self, weak: nn.Module, modality: Modality, rows: Rows, seed: int, accelerator: Accelerator) -> nn.Module:
        """The unlearned model with another adapter worked into its weights, after the last step."""
        model, how = copy.deepcopy(weak), override(self.how, {"seed": seed})
        wrapped = adapters.insert(model, (how,), seed)
        fine_tune(how, model, modality, rows, lambda step: None, lambda step: False, accelerator)
        return adapters.merged(wrapped)

    def regenerated(self, model: nn.Module, modality: Modality, records: Records) -> Rows:
        """The pictures that the model draws from between the inverted ones, as rows.

        Args:
            model: the unlearned one.
            modality: of the model.
            records: rows to forget, with pictures.
        """
        artist: Any = require(modality, Denoises)
        rows = modality.rows("forget", records)
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.how.train.seed)).tolist()
        pairs = paired(chosen, rows["caption"], self.pictures // 2)
        held = list(dict.fromkeys(k for pair in pairs for k in pair))
        drawing = Ddim(model, modality, self.guidance)
        grid = drawing.grid(self.inversion)
        top = max(1, len(grid) - 1 - self.start_step)
        captions = {k: self.prompt or rows["caption"][k] for k in held}
        clean = torch.stack([artist.latents.read(rows["latent"][k]) for k in held]).to(next(model.parameters()))
        inverting = Ddim(model, modality, self.guidance if self.inversion_guidance < 0 else self.inversion_guidance)
        noisy = inverting.inverted(clean, list(captions.values()), grid[: top + 1])[top - 1 if self.reference_offset else top]
        latents = dict(zip(held, noisy, strict=True))
        starts, texts = list[Tensor](), list[str]()
        for pair in pairs:
            for k in range(self.between + 1):
                starts.append(slerp(latents[pair.first], latents[pair.second], k / self.between))
                texts.append(captions[pair.first if 2 * k <= self.between else pair.second])
        drawn = artist.drawn(drawing.sampled(torch.stack(starts), texts, grid[: top + 1]))
        pictures = drawn.permute(0, 2, 3, 1).numpy()
        shown = [p if p.shape[2] > 1 else p[..., 0] for p in pictures]
        return modality.rows("forget", [{"image": p, "caption": c} for p, c in zip(shown, texts, strict=True)], "regenerated pictures")


def pictured(records: Records, modality: Modality, least: int = 2) -> Records:
    """The rows to forget that have pictures. Raises: Missing where fewer than `least` have, and where the model makes no pictures."""
    try:
        require(modality, Denoises)
    except UserError as error:
        raise Missing(str(error)) from None
    pictures = modality.rows("forget", records)["picture"]
    kept = [r for r, picture in zip(records, pictures, strict=True) if picture is not None]
    if len(kept) < least:
        raise Missing(f"the attack starts from {least} or more pictures of what was to be forgotten, and the rows to forget have fewer")
    return kept


def paired(order: Sequence[int], captions: Sequence[str], count: int) -> list[CaptionPair]:
    """Pairs of rows, those of one caption first; no row is in two pairs, unless there are too few.

    Args:
        order: places of the rows, in which they are taken.
        captions: of all rows.
        count: of the pairs at most.
    """
    waiting: dict[str, int] = {}
    pairs = []
    for k in order:
        other = waiting.pop(captions[k], None)
        if other is None:
            waiting[captions[k]] = k
        else:
            pairs.append(CaptionPair(other, k))
    rest = list(waiting.values())
    pairs += [CaptionPair(a, b) for a, b in zip(rest[::2], rest[1::2], strict=False)]
    return pairs[: max(1, count)]


def averaged(models: Sequence[nn.Module]) -> nn.Module:
    """The first model with the mean of all models' weights; that of adapters of one model is their sum, each scaled by 1/n."""
    weights = [tensors_of(model) for model in models]
    put(models[0], {n: torch.stack([w[n] for w in weights]).mean(0) for n, t in weights[0].items() if t.is_floating_point()})
    return models[0]


def beside(outcome: AttackOutcome, original: AttackOutcome | None, retrained: AttackOutcome | None) -> Iterator[Try]:
    """The recovery curve in numbers, where the original's score is known."""
    lead = outcome.lead
    known = original.before if original else outcome.original
    if not lead or lead not in known:
        return
    values = {t.at["steps"]: float(t.scores[lead]["value"]) for t in outcome.cases("", lead).values()}
    curve = recovery_curve(values, float(known[lead]["value"])) if 0 in values else None
    if curve:
        half = {} if curve.half is None else {"half_time": float(curve.half)}
        long_term = float(curve.half is None or curve.half > SOON)
        yield Try(CURVE, lead, {}, {**half, "area": curve.area, "recovered_at_the_end": curve.last, "long_term": long_term})


def plan() -> MemoRa:
    train = Train(
        epochs=0,
        steps=100,
        lr=1e-4,
        batch_size=4,
        schedule="cosine",
        max_grad_norm=1.0,
        lora=4,
        lora_alpha=4,
        lora_targets="to_q, to_k, to_v, to_out.0",
    )
    return MemoRa(Plan(NLL("forget"), train=train))
