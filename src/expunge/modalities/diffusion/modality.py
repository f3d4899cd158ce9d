"""The modality of diffusion models. A row is a picture with its caption, or a prompt alone; its loss is that of denoising the picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.capabilities import Denoises, Displayable, Redraws
from expunge.core.errors import UserError
from expunge.core.modality import ModelOutput, Patch, Weights
from expunge.core.random import seed_of
from expunge.core.request import content, digest, ids_of
from expunge.core.rows import Rows
from expunge.engine.adapters import base_of
from expunge.functional.brief import brief
from expunge.modalities.common.fingerprint import fingerprint
from expunge.modalities.common.network import Network
from expunge.modalities.common.packed import call, watching
from expunge.modalities.common.records import note
from expunge.modalities.diffusion.captions import captions_of, content_of, cut_short, naming, numbers_of, starts_of, tokens_of
from expunge.modalities.diffusion.columns import CAPTIONS, PICTURES
from expunge.modalities.diffusion.network import NOTHING, TEXT, block_paths, cross_attention, prefixed
from expunge.modalities.diffusion.output import Denoised
from expunge.modalities.diffusion.pictures import pictures_of
from expunge.modalities.diffusion.process import Process
from expunge.modalities.diffusion.sampling import sampled
from expunge.modalities.diffusion.saving import save
from expunge.modalities.diffusion.vae import Latents

SHOWN = 64  # longer side of a displayed picture, in pixels


@dataclass(frozen=True)
class Settings:
    """How rows become losses, and captions pictures.

    Args:
        drawn: draws of noise and time of a row in a training step.
        evaluated: draws of a row elsewhere, at times that lie evenly.
        dropped: the share of captions that training replaces by the empty prompt, which guidance needs.
        steps: of sampling.
        guidance: of sampling: the weight of the prediction for the caption against that for the empty prompt; 1: none.
    """

    drawn: int = 1
    evaluated: int = 8
    dropped: float = 0.0
    steps: int = 50
    guidance: float = 7.5


@brief("name", "conditioning", "process", "sides")
@dataclass
class Diffusion(Network):
    """The modality of diffusion models.

    The loss of a row is the mean squared error of what the model predicts for its picture, with noise and a time that are drawn for it.
    Each training step draws them anew, as a function of seed, epoch, step and row; everywhere else (audits, attacks, Fisher information) a
    row has fixed ones, a function of the row alone, at times that lie evenly.

    Args:
        process: how noise is put on pictures.
        scheduler: of `diffusers`, which samples.
        conditioning: what the denoiser is given besides latents and time: text, classes or nothing.
        channels, sides: of pictures, (height, width).
        tokenizer: of captions, where they are texts.
        classes: names of the classes, where the denoiser is given classes.
        latents: between pictures and what the denoiser reads: a VAE, or the pixels themselves.
        settings: see `Settings`.
        index: further entries of the pipeline's `model_index.json`; the parts that they name are copied when a model is saved.
        source: the folder of the pipeline; '': it is new.
    """

    process: Process
    scheduler: Any
    conditioning: str
    channels: int
    sides: tuple[int, int]
    tokenizer: Any = None
    classes: tuple[str, ...] = ()
    latents: Latents = field(default_factory=Latents)
    settings: Settings = Settings()
    index: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    name: str = "diffusion"
    capabilities: frozenset[Any] = frozenset({Denoises, Displayable, Redraws})

    # Rows

    def rows(self, name: str, records: Sequence[Mapping[str, Any]], source: str = "") -> Rows:
        """Convert records to rows.

        Args:
            name: name of the set.
            records: with a picture in a column `image` and a caption in `caption` (see `columns`). A record without a picture is a prompt
                alone, which can be drawn and not learned from.
            source: name of the records in messages; default: `name`.

        Returns:
            Rows with the columns `caption`, `picture` (uint8 (channels, height, width), or None), `latent` (what the denoiser reads,
            without noise, or None), `key` (what draws depend on), `times`, `noise` and `dropped` (a list of draws for each row), and others
            of the records.

        Raises:
            UserError: when a caption is missing, or a picture cannot be read or is too small.
        """
        where = source or name
        captions = captions_of(records, where, self.classes, self.conditioning == NOTHING)
        if self.conditioning == TEXT:
            note(records, cut_short(self.tokenizer, captions, name))
        pictures = pictures_of(records, name, where, self.channels, self.sides)
        read = {*PICTURES, *CAPTIONS[:3]}
        others = {k: [r.get(k) for r in records] for k in dict.fromkeys(k for r in records for k in r if k not in read)}
        ids = ids_of([[_hash(p), c] for p, c in zip(pictures, captions, strict=True)])
        keys = [int(content(i), 16) ^ n for i, n in zip(ids, _copies(ids), strict=True)]
        columns: dict[str, Sequence[Any]] = {
            **others,
            "caption": captions,
            "picture": pictures,
            "latent": self.latents.of(pictures),
            "key": keys,
        }
        return self._evaluated(Rows(name, ids, columns))

    def _evaluated(self, rows: Rows) -> Rows:
        """Rows with fixed draws, at times that lie evenly."""
        count, times = self.settings.evaluated, len(self.process)
        at = [int((k + 0.5) * times / count) for k in range(count)]
        noise = [[seed_of("noise", key, k) for k in range(count)] for key in rows["key"]]
        return rows.add(times=[at] * len(rows), noise=noise, dropped=[[False] * count] * len(rows))

    def redraw(self, rows: Rows, seed: int) -> Rows:
        """The same rows with the noise and the times of a training step; rows at given latents as they are."""
        if "key" not in rows.columns or "given" in rows.columns:
            return rows
        count = range(self.settings.drawn)
        draws = [[seed_of(seed, key, k) for k in count] for key in rows["key"]]
        times = [[s % len(self.process) for s in of_row] for of_row in draws]
        dropped = [[seed_of(s, "dropped") / 2**56 < self.settings.dropped for s in of_row] for of_row in draws]
        return rows.add(times=times, noise=draws, dropped=dropped)

    def recaption(self, rows: Rows, captions: Sequence[str], name: str = "") -> Rows:
        """The same pictures, noise and times under other captions, or under one for all.

        Args:
            captions: one for each row, or one; '' is the empty prompt.
            name: of the result; '': that of the rows.
        """
        texts = list(captions) * (len(rows) if len(captions) == 1 else 1)
        if self.classes:
            texts = captions_of([{"caption": t} for t in texts], name or rows.name, self.classes)
        ids = tuple(f"{content(i)}~{digest(t)}{i[len(content(i)) :]}" for i, t in zip(rows.ids, texts, strict=True))
        kept = {k: v for k, v in rows.columns.items() if k != "states"}
        never = [[False] * len(t) for t in rows["times"]]
        return Rows(name or rows.name, ids, {**kept, "caption": texts, "dropped": never}, rows.weight)

    def naming(self, rows: Rows, concept: str) -> Rows:
        """The rows whose captions name a concept. Raises: UserError when none does."""
        return rows.select(naming(rows["caption"], concept, rows.name))

    def placed(self, rows: Rows, latents: Tensor, times: Tensor, states: Tensor | None = None) -> Rows:
        """The same rows at noisy latents that are given, such as those of a sampling that stopped midway: one for each row.

        Args:
            latents: (rows, channels, height, width).
            times: their indices among the times of the process, (rows,).
            states: what the denoiser attends to in place of the encoded captions, (rows, tokens, width); gradients flow through.
        """
        ids = tuple(f"{i}@{_hash(x)[:8]}.{int(t)}" for i, x, t in zip(rows.ids, latents, times, strict=True))
        columns = {**rows.columns, "given": list(latents.unbind()), "times": [[int(t)] for t in times], "dropped": [[False]] * len(rows)}
        if states is not None:
            columns["states"] = list(states.unbind())
            ids = tuple(f"{i}.{_hash(s)[:8]}" for i, s in zip(ids, states, strict=True))
        return Rows(rows.name, ids, columns, rows.weight)

    def questions(self, rows: Rows) -> list[str]:
        """The captions."""
        return list(rows["caption"])

    def answer_texts(self, rows: Rows) -> list[str]:
        """What stands for the pictures where texts alone are shown."""
        return ["a prompt" if p is None else "a picture" for p in rows["picture"]]

    def pictures(self, rows: Rows) -> Tensor | None:
        """Small pictures for people to look at, uint8 (rows, channels, height, width); None for prompts alone."""
        pictures = list(rows["picture"])
        return None if not pictures or any(p is None for p in pictures) else small(torch.stack(pictures))

    def counts(self, rows: Rows) -> Mapping[str, float]:
        """The number of rows, of labels and of tokens; the last two are the draws of noise and time."""
        if "times" not in rows.columns:
            return dict.fromkeys(("rows", "labels", "tokens"), float(len(rows)))
        draws = float(sum(map(len, rows["times"])))
        return {"rows": float(len(rows)), "labels": draws, "tokens": draws}

    # The model

    def blocks(self, model: nn.Module) -> tuple[str, ...]:
        """Paths of the denoiser's blocks: down, middle and up, or those of a transformer."""
        return block_paths(base_of(model))

    def head(self, model: nn.Module) -> str:
        """Raises: UserError, because a denoiser ends in pictures and has no last linear layer that reads what it knows."""
        raise UserError("a diffusion model has no last linear layer that reads what it knows of a row, and this asks for one")

    def cross_attention(self, model: nn.Module) -> list[str]:
        """Paths of the modules in which the denoiser reads the caption. Raises: UserError for a model that reads none."""
        if paths := cross_attention(base_of(model)):
            return paths
        raise UserError("this changes how a model reads its captions, and this model has no cross-attention that reads any")

    def forward(
        self,
        model: nn.Module,
        groups: Sequence[Rows],
        hook_points: tuple[str, ...] = (),
        patch: Patch | None = None,
        weights: Weights | None = None,
    ) -> list[ModelOutput]:
        """Predict the noise (or velocity, or picture) of every draw, in one forward pass over all groups.

        Args:
            groups: rows; each group gets an output of its own.
            hook_points: modules whose inputs and outputs are recorded, as means over the positions of a picture.
            patch: a change of the forward pass.
            weights: weights that replace those of the model, by name.
        """
        like = next(p for p in model.parameters() if p.is_floating_point())
        drawn = [self._drawn(g, like) for g in groups]
        times = torch.cat([t for _, t, _ in drawn])
        captions = ["" if gone else c for g in groups for c, of in zip(g["caption"], g["dropped"], strict=True) for gone in of]
        with watching(model, hook_points, patch) as hooked:
            conditions = self._conditions(model, captions, like.device, [x for g in groups for x in _states(g)])
            x = torch.cat([x for x, _, _ in drawn])
            predicted = call(model, weights, x, self.process.time[times].to(like.device, like.dtype), **conditions)
        outputs: list[Any] = []
        first = 0
        for group, (noisy, _, wanted) in zip(groups, drawn, strict=True):
            part = slice(first, first + len(noisy))
            row = torch.arange(len(group)).repeat_interleave(torch.tensor([len(t) for t in group["times"]], dtype=torch.long))
            states = {n: (_pooled(i)[part], _pooled(o)[part]) for n, (i, o) in hooked.items()}
            outputs.append(Denoised(predicted[part], wanted, row.to(like.device), len(group), states))
            first = part.stop
        return outputs

    def noised(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Noisy latents of all draws, (draws, channels, height, width), and the indices of their times, (draws,)."""
        noisy, times, _ = self._drawn(rows, torch.zeros(()))
        return noisy, times

    def _drawn(self, rows: Rows, like: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Noisy latents, indices of times and targets of all draws. Raises: UserError for prompts alone."""
        times = torch.tensor([t for of in rows["times"] for t in of], dtype=torch.long)
        if "given" in rows.columns:
            return torch.stack(list(rows["given"])).to(like.device, like.dtype), times, None
        if any(x is None for x in rows["latent"]):
            raise UserError(
                f"rows of {rows.name!r} are prompts alone, and this learns from pictures: give rows with pictures, or a method that reads "
                f"prompts"
            )
        clean = torch.stack([self.latents.read(x) for x, of in zip(rows["latent"], rows["times"], strict=True) for _ in of])
        noise = torch.stack([_noise(seed, clean.shape[1:]) for of in rows["noise"] for seed in of])
        clean, noise = clean.to(like.device, like.dtype), noise.to(like.device, like.dtype)
        return self.process.noisy(clean, noise, times), times, self.process.target(clean, noise, times)

    def _conditions(
        self, model: nn.Module, captions: Sequence[str], device: torch.device, states: Sequence[Tensor | None] = ()
    ) -> dict[str, Tensor]:
        """What the model is given for each row besides latents and time, as keywords of `DiffusionModel.forward`."""
        if self.conditioning == NOTHING:
            return {}
        given = [x for x in states if x is not None]
        if len(given) == len(captions):
            return {"states": torch.stack(given)}
        places = {c: i + len(given) for i, c in enumerate(dict.fromkeys(captions))}
        own = iter(range(len(given)))
        known = states or [None] * len(captions)
        which = torch.tensor([places[c] if x is None else next(own) for c, x in zip(captions, known, strict=True)], dtype=torch.long)
        conditions = {"tokens": self._tokens(list(places)).to(device), "which": which.to(device)}
        return {**conditions, "states": torch.stack(given)} if given else conditions

    def _tokens(self, captions: Sequence[str]) -> Tensor:
        return tokens_of(self.tokenizer, captions) if self.conditioning == TEXT else numbers_of(self.classes, captions)

    def encode(self, model: nn.Module, captions: Sequence[str], prefix: Tensor | None = None) -> Tensor:
        """What the denoiser attends to, (captions, tokens, width).

        Args:
            captions: (captions,).
            prefix: embeddings that stand before the words of each caption, (captions, k, width); gradients flow through.

        Raises:
            UserError: for a model without a text encoder.
        """
        if self.conditioning != TEXT:
            raise UserError(f"this reads prompts, and the model has no text encoder: it is given {self.conditioning}")
        base: Any = base_of(model)
        tokens = self._tokens(captions).to(next(model.parameters()).device)
        if prefix is None:
            states: Tensor = base.encode(tokens)
            return states
        first = starts_of(self.tokenizer)
        room = tokens[:, -1:].expand(-1, prefix.shape[1])
        tokens = torch.cat([tokens[:, :first], room, tokens[:, first : -prefix.shape[1] - 1], tokens[:, -1:]], 1)
        with prefixed(base.text_encoder, prefix, first):
            states = base.encode(tokens)
        return states

    def random_words(self, model: nn.Module, count: int, rng: torch.Generator) -> Tensor:
        """Embeddings of tokens that are drawn, (count, width). Raises: UserError for a model without a text encoder."""
        if self.conditioning != TEXT:
            raise UserError(f"this draws words, and the model has no text encoder: it is given {self.conditioning}")
        base: Any = base_of(model)
        table: Tensor = base.text_encoder.get_input_embeddings().weight.detach()
        return table[torch.randint(len(table), (count,), generator=rng).to(table.device)]

    def time_count(self) -> int:
        """The number of times of the process."""
        return len(self.process)

    def content_tokens(self, captions: Sequence[str]) -> list[dict[int, int]]:
        """The tokens of captions by position, without start, end and padding. Raises: UserError for a model without a text encoder."""
        if self.conditioning != TEXT:
            raise UserError(f"this reads the words of prompts, and the model has no text encoder: it is given {self.conditioning}")
        return [content_of(self.tokenizer, c) for c in captions]

    def predict(self, model: nn.Module, latents: Tensor, times: Tensor, states: Tensor) -> Tensor:
        """The prediction for noisy latents, as `prediction` of an output; gradients flow through.

        Args:
            latents: (rows, channels, height, width).
            times: indices of times, (rows,).
            states: as `encode` returns them, (rows, tokens, width).
        """
        predicted: Tensor = model(latents, self.process.time[times.cpu()].to(latents.device, latents.dtype), states=states)
        return predicted

    # Pictures

    def sample(
        self, model: nn.Module, captions: Sequence[str], seeds: Sequence[int], steps: int = 0, guidance: float = -1, until: int = -1
    ) -> tuple[Tensor, Tensor]:
        """Sample latents, one for each caption and its seed, all at once. The noise at the start depends on the seed alone.

        Args:
            captions: (rows,).
            seeds: (rows,).
            steps: of the whole sampling; 0: as the model's settings say.
            guidance: weight of the caption against the empty prompt; 1: no guidance; -1: as the model's settings say.
            until: how many of the steps are taken; -1: all.

        Returns:
            Latents (rows, channels, height, width), and the index of the time that each stands at, (rows,); -1: without noise.
        """
        base: Any = base_of(model)
        like = next(p for p in model.parameters() if p.is_floating_point())
        guidance = self.settings.guidance if guidance < 0 else guidance
        guided = guidance != 1 and self.conditioning != NOTHING
        texts = [*[""] * (len(captions) if guided else 0), *captions]  # the empty prompts first
        conditions = self._conditions(model, texts, like.device)
        with torch.no_grad():
            if self.conditioning == TEXT:
                conditions = {"states": base.encode(conditions["tokens"])[conditions["which"]]}
            start = torch.stack([_noise(seed, (base.channels, *base.sides)) for seed in seeds]).to(like.device, like.dtype)
            latents, time = sampled(
                model, self.scheduler, start, conditions, steps or self.settings.steps, guidance if guided else 1.0, until
            )
        index = torch.full((len(latents),), -1) if time is None else self.process.index(time.expand(len(latents)).cpu())
        return latents, index

    def drawn(self, latents: Tensor) -> Tensor:
        """The pictures of clean latents, uint8 (rows, channels, height, width)."""
        return self.latents.pictures(latents)

    # Files

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write a pipeline that `diffusers` loads, or the adapter alone."""
        save(model, self, folder)

    def about(self) -> dict[str, Any]:
        """How rows become losses and captions pictures, for the receipt."""
        tokenizer = {"tokenizer": fingerprint(self.tokenizer)} if self.tokenizer is not None else {}
        scheduler = {k: v for k, v in self.scheduler.config.items() if not k.startswith("_")}
        size = {"channels": self.channels, "height": self.sides[0], "width": self.sides[1]}
        names = {"classes": digest(self.classes)} if self.classes else {}
        about = {
            "modality": self.name,
            "conditioning": self.conditioning,
            "predicts": self.process.kind,
            "scheduler": type(self.scheduler).__name__,
        }
        return {**about, "schedule": digest(scheduler), **size, **tokenizer, **names, **self.latents.about(), **vars(self.settings)}


def small(pictures: Tensor) -> Tensor:
    """Pictures whose longer side has at most `SHOWN` pixels, uint8 (rows, channels, height, width)."""
    if (share := SHOWN / max(pictures.shape[-2:])) >= 1:
        return pictures
    size = [max(1, round(side * share)) for side in pictures.shape[-2:]]
    return (
        torch.nn.functional.interpolate(pictures.float(), size=size, mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)
    )


def _noise(seed: int, shape: Sequence[int]) -> Tensor:
    """Normal noise as a function of a seed, on every device the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _states(rows: Rows) -> list[Tensor | None]:
    """For each draw the states that are given in place of its caption; None: none are."""
    given = rows.columns.get("states", [None] * len(rows))
    return [x for x, of in zip(given, rows["times"], strict=True) for _ in of]


def _hash(x: Tensor | None) -> str:
    if x is None:
        return ""
    array = x.detach().cpu().contiguous()
    return hashlib.sha256(array.view(torch.uint8).numpy().tobytes() + str(tuple(array.shape)).encode()).hexdigest()[:16]


def _copies(ids: Sequence[str]) -> list[int]:
    """Which copy of its content each row is, from 0."""
    return [int(i.partition("#")[2] or 1) - 1 for i in ids]


def _pooled(x: Any) -> Tensor:
    """Average maps (rows, channels, height, width) or tokens (rows, tokens, width) to (rows, width)."""
    pooled: Tensor = x.mean((2, 3)) if x.dim() == 4 else x.mean(1) if x.dim() == 3 else x.flatten(1)
    return pooled
