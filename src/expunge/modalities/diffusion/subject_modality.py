"""Diffusion models of scenes and subjects: a row is a picture whose caption marks subjects, with a mask of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from expunge.core.capabilities import Displayable, Draws, Redraws
from expunge.core.errors import UserError
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.random import seed_of
from expunge.core.request import content, digest
from expunge.core.rows import Rows
from expunge.engine.adapters import base_of
from expunge.functional.noise_fusion import localization
from expunge.modalities.common.packed import call, watching
from expunge.modalities.common.records import absent
from expunge.modalities.diffusion.captions import tokens_of
from expunge.modalities.diffusion.collaboration import Collaboration, Denoiser, Stages, collaborate, guided_denoiser
from expunge.modalities.diffusion.draw_losses import split
from expunge.modalities.diffusion.markers import MARKER, marked_places, unmarked
from expunge.modalities.diffusion.modality import Diffusion, Settings
from expunge.modalities.diffusion.own_saving import SUBJECTS, save
from expunge.modalities.diffusion.sampling import sampler_of
from expunge.modalities.diffusion.subjects import cropped

UNIT = 2.0**56  # seeds are below it
SIDE = 16  # of reference pictures


@dataclass(frozen=True)
class SubjectSettings(Settings):
    """How rows become losses, and captions pictures.

    Args:
        masked: share of steps in which the model of subjects learns from what lies on subjects alone.
        shown: share of draws in which it is given the reference pictures.
        localized: weight of attention that lies outside subjects.
        scene_share, fusion_share: how far a sampling has come when the model of scenes alone ends, and when fusion ends.
        window: side of the average pooling of saliency; 1: none.
    """

    masked: float = 0.5
    shown: float = 0.9
    localized: float = 1e-3
    scene_share: float = 0.3
    fusion_share: float = 0.6
    window: int = 3

    def stages(self, calls: int) -> Stages:
        """Who denoises at which of so many calls."""
        return Stages(round(self.scene_share * calls) - 1, round(self.fusion_share * calls) - 1, self.window, self.window // 2)


@dataclass(repr=False)  # as of `Diffusion`
class SubjectDiffusion(Diffusion):
    """The modality of two denoisers, one of scenes and one of subjects.

    The loss of a row is the sum of both: the squared error of the model of scenes, that of the model of subjects (in half of the steps on
    subjects alone), and a small weight of attention that lies outside the subjects. Column `mask` of the records holds a mask from 0 to 1
    for the subject, or a list of them, in the order of the markers `<subject>` in the caption.
    """

    settings: SubjectSettings = SubjectSettings()
    capabilities: frozenset[Any] = frozenset({Displayable, Draws, Redraws})

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows:
        """Convert records to rows. Arguments: as of `Diffusion`.

        Raises:
            UserError: also for a mask that does not fit, and for another number of masks than of markers.
        """
        rows = super().rows(name, records, source)
        masks, where = [], source or name
        for i, (record, caption) in enumerate(zip(records, rows["caption"], strict=True), 1):
            given = record.get("mask")
            of_row = [] if absent(given) else _masks(given, f"{where}, row {i}", self.sides)
            if of_row and len(of_row) != len(marked_places(self.tokenizer, caption)):
                raise UserError(
                    f"{where}, row {i}: {len(of_row)} masks of subjects, and the caption marks another number of words; put {MARKER} "
                    f"behind each word that names one"
                )
            masks.append(of_row)
        columns = {k: v for k, v in rows.columns.items() if k != "mask"}
        ids = tuple(  # the loss depends on the masks
            f"{content(i)}~{digest([m.tolist() for m in of_row])}{i[len(content(i)) :]}" if of_row else i
            for i, of_row in zip(rows.ids, masks, strict=True)
        )
        alike = [(content(i),) for i in rows.ids]  # a picture with its caption, by which a request knows rows that stand in two sets
        return replace(rows, ids=ids, columns={**columns, "masks": masks, "content": alike})

    def _evaluated(self, rows: Rows) -> Rows:
        rows = super()._evaluated(rows)
        count = self.settings.evaluated
        return rows.add(shown=[[True] * count] * len(rows), masked=[[False] * count] * len(rows))

    def redraw(self, rows: Rows, seed: int) -> Rows:
        """The same rows with the draws of a training step; all rows of a step learn from subjects alone, or none."""
        if "key" not in rows.columns:
            return rows
        rows = super().redraw(rows, seed)
        coins = [seed_of(seed, "masked", k) / UNIT < self.settings.masked for k in range(self.settings.drawn)]
        shown = [[seed_of(s, "shown") / UNIT < self.settings.shown for s in of] for of in rows["noise"]]
        return rows.add(shown=shown, masked=[coins] * len(rows))

    def blocks(self, model: nn.Module) -> tuple[str, ...]:
        """Paths of the blocks of both denoisers."""
        base: Any = base_of(model)
        return tuple(base.blocks())

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """The loss of every draw, in one forward pass of both models over all groups. Arguments: as of `Diffusion`."""
        like = next(p for p in model.parameters() if p.is_floating_point())
        drawn = [self._drawn(g, like) for g in groups]
        noisy, wanted = torch.cat([n for n, _, _ in drawn]), torch.cat([w for _, _, w in drawn if w is not None])
        times = torch.cat([t for _, t, _ in drawn])
        draws = [d for g in groups for d in _draws(g)]
        captions = [d["caption"] for d in draws]
        references, places = self._references(draws)
        time = self.process.time[times].to(like.device, like.dtype)
        inputs = {"references": references.to(like), "places": places.to(like.device), "attention": self.settings.localized > 0}
        with watching(model, hook_points, patch) as hooked:
            out = call(model, weights, noisy, time, **self._texts(captions, like.device), **inputs)
        union = torch.stack([_union(d["masks"], self.sides) for d in draws]).to(like)[:, None]
        only = torch.tensor([d["masked"] for d in draws], device=like.device).view(-1, 1, 1, 1)
        kept = torch.where(only, F.interpolate(union, size=noisy.shape[-2:], mode="bilinear"), torch.ones_like(union[:1, :, :1, :1]))
        errors = (out.scene - wanted, kept * (out.subject - wanted))
        losses = sum((e.square().flatten(1).mean(1) for e in errors), start=noisy.new_zeros(len(noisy)))
        losses = losses + self.settings.localized * self._misplaced(out.attention, draws, places.to(like.device), noisy)
        return split(losses, {n: (_mean(i), _mean(o)) for n, (i, o) in hooked.items()}, groups)

    def _texts(self, captions: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        texts = [unmarked(c) for c in captions]
        numbers = {c: i for i, c in enumerate(dict.fromkeys(texts))}
        which = torch.tensor([numbers[c] for c in texts], dtype=torch.long)
        return {"tokens": tokens_of(self.tokenizer, list(numbers)).to(device), "which": which.to(device)}

    def _references(self, draws: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        """Reference pictures (draws, subjects, channels, side, side), and places of their words (draws, subjects); -1: there is none."""
        most = max((len(d["masks"]) for d in draws), default=0)
        pictures = torch.zeros(len(draws), most, self.channels, SIDE, SIDE)
        places = torch.full((len(draws), most), -1, dtype=torch.long)
        for i, draw in enumerate(draws):
            at = marked_places(self.tokenizer, draw["caption"]) if draw["masks"] else []
            for k, (mask, place) in enumerate(zip(draw["masks"], at, strict=False)):
                picture = draw["picture"].float() / 127.5 - 1
                noise = torch.rand(picture.shape, generator=Generator().manual_seed(seed_of(draw["noise"], "reference", k))) * 2 - 1
                pictures[i, k], places[i, k] = cropped(picture, mask, noise, SIDE), place
        return pictures, places.clamp_max(self.tokenizer.model_max_length - 1)

    def _misplaced(self, attention: Sequence[Tensor], draws: Sequence[Mapping[str, Any]], places: Tensor, like: Tensor) -> Tensor:
        """Attention of subjects' words outside their subjects, a mean over layers, (draws,)."""
        if not attention or not places.shape[1]:
            return like.new_zeros(len(draws))
        masks = torch.stack([_padded(d["masks"], places.shape[1], self.sides) for d in draws]).to(like)
        layers = []
        for weights in attention:
            ratio = (weights.shape[2] / (self.sides[0] * self.sides[1])) ** 0.5
            height, width = (round(side * ratio) for side in self.sides)
            at = places.clamp_min(0)[:, None, None].expand(-1, weights.shape[1], weights.shape[2], -1)
            maps = weights.gather(3, at).permute(0, 3, 1, 2).unflatten(3, (height, width))  # type: ignore[no-untyped-call]
            layers.append(localization(maps, masks, places >= 0))
        return torch.stack(layers).mean(0)

    # Pictures

    def denoisers(
        self, model: nn.Module, captions: Sequence[str], references: Sequence[Sequence[Tensor]], guidance: float
    ) -> tuple[Denoiser, Denoiser]:
        """The models of scenes and of subjects with guidance: by the empty prompt, and by the caption without its subjects.

        Args:
            captions: with markers, (rows,).
            references: pictures of the subjects of each caption, from -1 to 1, each (channels, side, side).
            guidance: g.
        """
        base: Any = base_of(model)
        like = next(p for p in model.parameters() if p.is_floating_point())
        texts = self._texts([*captions, ""], like.device)
        states = base.states(texts["tokens"])[texts["which"]]
        text, empty = states[:-1], states[-1:].expand(len(captions), -1, -1)
        most = max(map(len, references), default=0)
        pictures, places = torch.zeros(len(captions), most, self.channels, SIDE, SIDE), torch.full((len(captions), most), -1)
        for i, (of_row, caption) in enumerate(zip(references, captions, strict=True)):
            for k, (picture, place) in enumerate(zip(of_row, marked_places(self.tokenizer, caption), strict=False)):
                pictures[i, k], places[i, k] = picture, place
        fused = base.fused(text, pictures.to(like), places.to(like.device))
        of_scene = guided_denoiser(base.scene, self.process, empty, text, guidance)
        return of_scene, guided_denoiser(base.subject, self.process, text, fused, guidance)

    @torch.no_grad()
    def collaboration(
        self,
        model: nn.Module,
        captions: Sequence[str],
        references: Sequence[Sequence[Tensor]],
        seeds: Sequence[int],
        steps: int = 0,
        guidance: float = -1,
        stages: Stages | None = None,
    ) -> Collaboration:
        """Draw with both models. Arguments: as of `sample`, and who denoises when."""
        like = next(p for p in model.parameters() if p.is_floating_point())
        guidance = self.settings.guidance if guidance < 0 else guidance
        scene, subject = self.denoisers(model, captions, references, guidance)
        scheduler, steps = sampler_of(self.scheduler), steps or self.settings.steps
        scheduler.set_timesteps(steps)
        shape = (self.channels, *self.sides)
        start = torch.stack([torch.randn(*shape, generator=Generator().manual_seed(seed)) for seed in seeds]).to(like)
        return collaborate(scheduler, start, steps, scene, subject, stages or self.settings.stages(len(scheduler.timesteps)))

    def sample(
        self,
        model: nn.Module,
        captions: Sequence[str],
        seeds: Sequence[int],
        steps: int = 0,
        guidance: float = -1,
        until: int = -1,
        references: Sequence[Sequence[Tensor]] = (),
    ) -> tuple[Tensor, Tensor]:
        """Draw pictures, one for each caption and its seed. Arguments: as of `Diffusion`; `until` must be -1.

        Args:
            references: pictures of the subjects of each caption, from -1 to 1, (channels, side, side); none: whoever the models like.

        Raises:
            UserError: for a sampling that is to stop midway.
        """
        if until >= 0:
            raise UserError("two models share this sampling, and it does not stop midway")
        given = references or [()] * len(captions)
        drawn = self.collaboration(model, captions, given, seeds, steps, guidance).latents
        return drawn, torch.full((len(captions),), -1)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write weights, configuration and tokenizer, or the adapter alone."""
        base: Any = base_of(model)
        save(model, self, SUBJECTS, base.entries, folder)


def with_settings(modality: SubjectDiffusion, **changes: Any) -> SubjectDiffusion:
    """The same modality with other settings."""
    return replace(modality, settings=replace(modality.settings, **changes))


def _draws(rows: Rows) -> list[dict[str, Any]]:
    """What is drawn for each draw of each row. A dropped caption takes its subjects along, and one that is not shown has no mask."""
    draws = []
    for i, times in enumerate(rows["times"]):
        for k in range(len(times)):
            dropped, shown = rows["dropped"][i][k], rows["shown"][i][k]
            draws.append(
                {
                    "caption": "" if dropped else rows["caption"][i],
                    "masks": rows["masks"][i] if shown and not dropped else [],
                    "picture": rows["picture"][i],
                    "noise": rows["noise"][i][k],
                    "masked": rows["masked"][i][k],
                }
            )
    return draws


def _masks(given: Any, place: str, sides: tuple[int, int]) -> list[Tensor]:
    """Masks of a row, each (height, width) from 0 to 1. Raises: UserError."""
    values = torch.as_tensor(np.asarray(given)).float()
    values = values[None] if values.dim() == 2 else values
    if values.dim() != 3 or tuple(values.shape[1:]) != tuple(sides):
        size = f"{sides[0]} x {sides[1]}"
        raise UserError(f"{place}: a mask of a subject has the size of the picture, {size}, and this has the shape {tuple(values.shape)}")
    if float(values.min()) < 0 or float(values.max()) > 1:
        raise UserError(f"{place}: values of a mask go from 0 (elsewhere) to 1 (the subject), and these from {float(values.min()):g}")
    return list(values)


def _union(masks: Sequence[Tensor], sides: tuple[int, int]) -> Tensor:
    return torch.stack(list(masks)).amax(0) if masks else torch.zeros(sides)


def _padded(masks: Sequence[Tensor], count: int, sides: tuple[int, int]) -> Tensor:
    return torch.stack([*masks[:count], *[torch.zeros(sides)] * (count - len(masks))])


def _mean(states: Tensor) -> Tensor:
    """States of a module averaged over places, (draws, width)."""
    return states.mean((2, 3)) if states.dim() == 4 else states.flatten(1, -2).mean(1) if states.dim() > 2 else states
