"""The only evaluation pass: what a model says about every set of an audit, seen once and kept on disk by content."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from expunge.core.capabilities import Displayable, Drafting, Generates, offers, require
from expunge.core.errors import UserError
from expunge.core.modality import Modality, ModelOutput
from expunge.core.request import digest
from expunge.core.rows import Rows
from expunge.engine.receipt import hash_weights
from expunge.engine.run_state import evaluating
from expunge.evaluation.gradient_norms import Norms, gradients
from expunge.evaluation.observation import HEAD, PICTURED, Observation, SetObservation, few
from expunge.evaluation.teacher_forced import Kinds, Place, Told, packed, score, score_all

SAID = 200  # tokens of a generation at most, and at most
TIMES = 3  # times the longest true answer of the set
MEMBERS = ("forget", "holdout")  # sets whose true answers membership inference reads: moments and gradient norms
WRITTEN = ("forget", "retain", "real_authors", "world_facts")  # sets that are answered in words

Records = Sequence[Mapping[str, Any]]
Progress = Callable[[int, str], None]  # rows that are done, and what is being done


@dataclass(frozen=True)
class ObservationSpec:
    """What to look at besides log-probs; less is faster (scores during training want no gradients)."""

    generations: bool = True
    moments: bool = True
    gradient_norms: bool = True
    drafts: bool = True  # what was read of a recited answer need not be said again; token by token the same
    features: bool = True  # of classifiers


def observe(
    model: nn.Module,
    modality: Modality,
    sets: Mapping[str, Records],
    *,
    wants: ObservationSpec = ObservationSpec(),
    cache: Path | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Observation:
    """What a model says about the items of some sets.

    sets: by name, records with a question and an answer in any shape that the modality reads and, where there are such, `paraphrased_answer`
    and `perturbed_answer` (a list). cache: a folder of earlier observations, keyed by model, rows, the way from one to the other and
    `wants`; a hit needs no forward.
    """
    rows = {n: _kinds(modality, n, records) for n, records in sets.items() if len(records)}
    asked = {n: {k: [r.ids, r.columns.get("prompt")] for k, (r, _) in ks.items()} for n, ks in rows.items()}
    weights = fingerprint(model)
    key = digest([weights, repr(model), modality.about(), asked, repr(wants)])
    if cache and (cache / key / "observed.json").exists():
        return Observation.load(cache / key)
    started = time.monotonic()
    total = sum(len(r) for ks in rows.values() for r, _ in ks.values())
    look = _spoken if offers(modality, Generates) else _classified
    with evaluating(model), torch.no_grad():
        seen, how = look(model, modality, rows, wants, lambda done, what: progress(done, total, what))
    about = {
        "key": key,
        "weights": weights,
        "modality": modality.about(),
        "rows": total,
        **how,
        "seconds": round(time.monotonic() - started, 3),
    }
    made = Observation(seen, about)
    if cache:
        made.save(cache / key)
    return made


def fingerprint(model: nn.Module) -> str:
    """What tells two models apart: their weights, and the guard around them if there is one."""
    described = getattr(model, "describe", None)
    return hash_weights(model) + (f"-{digest(described())}" if described else "")


def _kinds(modality: Modality, name: str, records: Records) -> dict[str, tuple[Rows, list[int]]]:
    """Rows by kind of answer, with the item that each belongs to."""
    answers = modality.rows(name, records)
    found = {"answer": (answers, list(range(len(answers))))}
    right = [(i, r["paraphrased_answer"]) for i, r in enumerate(records) if r.get("paraphrased_answer")]
    wrong = [(i, text) for i, r in enumerate(records) for text in r.get("perturbed_answer") or ()]
    for kind, given in (("paraphrase", right), ("perturbed", wrong)):
        if given:
            item = [i for i, _ in given]
            found[kind] = (modality.relabel(answers.select(item), [text for _, text in given], name), item)
    return found


def _spoken(
    model: nn.Module, modality: Modality, rows: Mapping[str, Kinds], wants: ObservationSpec, progress: Progress
) -> tuple[dict[str, SetObservation], dict[str, object]]:
    """What a language model says of all answers and by itself, and how that was seen."""
    total = sum(len(r) for kinds in rows.values() for r, _ in kinds.values())
    norms, told = dict[str, Norms](), dict[Place, Told]()
    if wants.gradient_norms and any(n in MEMBERS for n in rows):
        progress(0, "gradients")
        norms, told = gradients(model, modality, {n: rows[n]["answer"][0] for n in MEMBERS if n in rows}, wants.moments)
    scored, reading = score_all(
        model,
        modality,
        rows,
        lambda name, kind: wants.moments and kind == "answer" and name in MEMBERS,
        lambda share: progress(int(share * total), "reading"),
        told,
    )
    how: dict[str, object] = {"read": reading.how} if reading else {}
    said: Mapping[str, tuple[str, ...]] = {}
    if wants.generations:
        progress(total, "asking")
        heard = [(rows[n][k][0], [t["hit"] for t in told[n, k]]) for n, k in told]
        said, how["recited"] = _asked(model, modality, rows, *((reading, heard) if wants.drafts else (None, ())))
    seen = {}
    for name, kinds in rows.items():
        answers, _ = kinds["answer"]
        asked = tuple(modality.questions(answers)), tuple(modality.answer_texts(answers))
        seen[name] = SetObservation(answers.ids, *asked, scored[name], said.get(name, ()), norms.get(name))
    return seen, how


def _asked(
    model: nn.Module, modality: Any, rows: Mapping[str, Kinds], reading: Any, heard: Sequence[Any]
) -> tuple[dict[str, tuple[str, ...]], int]:
    """What the model answers by itself, and how many tokens of that were told before, by a reading of the true answers or where they were
    heard.
    """
    asked = {n: kinds["answer"][0] for n, kinds in rows.items() if n in WRITTEN}
    limits = [min(SAID, int(TIMES * max(modality.counts(r.select([i]))["labels"] for i in range(len(r))))) for r in asked.values()]
    if offers(modality, Drafting):
        answers, known = modality.recite(model, list(asked.values()), limits, reading, heard)
    else:
        answers, known = [modality.generate(model, r, limit).ids for r, limit in zip(asked.values(), limits, strict=True)], 0
    return {n: tuple(modality.decode(a)) for n, a in zip(asked, answers, strict=True)}, known


def _classified(
    model: nn.Module, modality: Modality, rows: Mapping[str, Kinds], wants: ObservationSpec, progress: Progress
) -> tuple[dict[str, SetObservation], dict[str, object]]:
    """What a classifier says of all sets."""
    seen: dict[str, SetObservation] = {}
    for name, kinds in rows.items():
        seen[name] = _classes_of(model, modality, kinds["answer"][0], wants.features)
        progress(sum(map(len, seen.values())), f"reading {name}")
    return seen, {}


def _classes_of(model: nn.Module, modality: Modality, rows: Rows, features: bool) -> SetObservation:
    """A classifier's distributions and features; what it says is its most probable class."""
    hook_points = _hook_points(model, modality) if features else {}
    dist, label = list[torch.Tensor](), list[torch.Tensor]()
    inner: dict[str, list[torch.Tensor]] = {n: [] for n in hook_points.values()}

    def keep(answer: ModelOutput) -> None:  # rows are all of one length, so their order stays
        dist.append(answer.log_probs.values.float().cpu())
        label.append(answer.labels.cpu())
        for hook_point, name in hook_points.items():
            inner[name].append((answer.input(hook_point) if name == HEAD else answer.hidden(hook_point)).values.float().cpu())

    scored = packed(modality, rows, range(len(rows)), score(model, modality, rows, False, tuple(hook_points), keep))
    log = torch.cat(dist)
    return SetObservation(
        rows.ids,
        tuple(modality.questions(rows)),
        tuple(modality.answer_texts(rows)),
        {"answer": scored},
        generations=tuple(modality.decode(log.argmax(-1)[:, None].tolist())),
        log_probs=log.numpy(),
        label=torch.cat(label).numpy(),
        features={n: torch.cat(x).numpy() for n, x in inner.items()},
        pictures=_pictures(modality, rows),
    )


def _pictures(modality: Modality, rows: Rows) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """Small pictures of a few rows, for people to look at; None where rows are no pictures, or of a set that nobody looks at."""
    if not offers(modality, Displayable) or not (many := PICTURED.get(rows.name)):
        return None
    drawn = require(modality, Displayable).pictures(rows.select(few(len(rows), many)))
    return None if drawn is None else drawn.numpy()


def _hook_points(model: nn.Module, modality: Modality) -> dict[str, str]:
    """Where features are looked at, with the names that they get: the blocks, and what the last linear layer reads, where there is one."""
    found = {hook_point: hook_point for hook_point in modality.blocks(model)}
    with suppress(UserError):
        found[modality.head(model)] = HEAD
    return found
