"""The only evaluation pass: what a model says about every set of an audit, seen once and kept on disk by content."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from expunge.core.errors import UserError
from expunge.core.parts import Answer, Modality, Need, Rows
from expunge.core.receipt import hash_weights
from expunge.core.request import digest
from expunge.core.stats import example_gradients, mean_norm
from expunge.core.step import evaluating

from .observed import HEAD, PICTURED, Observed, Scored, SetSeen, few

BUDGET = 4096  # positions in one forward
IMAGES = 256  # rows in one forward of a classifier
PICTURE = 64  # longer side of the pictures that are kept, in pixels
SAID = 200  # tokens of a generation at most, and at most
TIMES = 3  # times the longest true answer of the set
VARIANCE = 1e-6  # smallest variance of a position's log-probability
MEMBERS = ("forget", "holdout")  # sets whose true answers membership inference reads: moments and gradient norms
WRITTEN = ("forget", "retain", "real_authors", "world_facts")  # sets that are answered in words

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Wants:
    """What to look at besides log-probs; less is faster (scores during training want no gradients)."""

    said: bool = True
    moments: bool = True
    gradnorm: bool = True
    features: bool = True  # of classifiers


def observe(
    model: nn.Module,
    port: Modality,
    sets: Mapping[str, Records],
    *,
    wants: Wants = Wants(),
    cache: Path | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Observed:
    """What a model says about the items of some sets.

    sets: by name, records with a question and an answer in any shape that the port reads and, where there are such, `paraphrased_answer`
    and `perturbed_answer` (a list). cache: a folder of earlier observations, keyed by model, rows, the way from one to the other and
    `wants`; a hit needs no forward.
    """
    rows = {n: _kinds(port, n, records) for n, records in sets.items() if len(records)}
    classifies = Need.GENERATE not in port.offers
    asked = {n: {k: [r.ids, r.cols.get("prompt")] for k, (r, _) in ks.items()} for n, ks in rows.items()}
    key = digest([fingerprint(model), repr(model), port.about(), asked, repr(wants)])
    if cache and (cache / key / "observed.json").exists():
        return Observed.load(cache / key)
    started = time.monotonic()
    total = sum(len(r) for ks in rows.values() for r, _ in ks.values())
    done = 0
    seen = {}
    with evaluating(model), torch.no_grad():
        for name, kinds in rows.items():
            answers, _ = kinds["answer"]
            if classifies:
                seen[name] = _classified(model, port, answers, wants.features)
                done += len(answers)
                progress(done, total, f"reading {name}")
                continue
            scored = {}
            for kind, (some, item) in kinds.items():
                moments = wants.moments and kind == "answer" and name in MEMBERS
                scored[kind] = _score(model, port, some, item, moments)
                done += len(some)
                progress(done, total, f"reading {name}")
            said: tuple[str, ...] = ()
            if wants.said and name in WRITTEN:
                progress(done, total, f"asking {name}")
                longest = max(port.counts(answers.take([i]))["labels"] for i in range(len(answers)))
                said = tuple(port.decode(port.generate(model, answers, min(SAID, int(TIMES * longest)))))
            norm = None
            if wants.gradnorm and name in MEMBERS:
                progress(done, total, f"gradients of {name}")
                norm = gradient_norms(model, port, answers)
            seen[name] = SetSeen(answers.ids, tuple(port.question(answers)), tuple(port.said(answers)), scored, said, norm)
    about = {
        "key": key,
        "weights": fingerprint(model),
        "port": port.about(),
        "rows": total,
        "seconds": round(time.monotonic() - started, 3),
    }
    made = Observed(seen, about)
    if cache:
        made.save(cache / key)
    return made


def fingerprint(model: nn.Module) -> str:
    """What tells two models apart: their weights, and the guard around them if there is one."""
    described = getattr(model, "describe", None)
    return hash_weights(model) + (f"-{digest(described())}" if described else "")


def _kinds(port: Modality, name: str, records: Records) -> dict[str, tuple[Rows, list[int]]]:
    """Rows by kind of answer, with the item that each belongs to."""
    answers = port.rows(name, records)
    found = {"answer": (answers, list(range(len(answers))))}
    right = [(i, r["paraphrased_answer"]) for i, r in enumerate(records) if r.get("paraphrased_answer")]
    wrong = [(i, text) for i, r in enumerate(records) for text in r.get("perturbed_answer") or ()]
    for kind, given in (("paraphrase", right), ("perturbed", wrong)):
        if given:
            item = [i for i, _ in given]
            found[kind] = (port.relabel(answers.take(item), [text for _, text in given], name), item)
    return found


def _batches(port: Modality, rows: Rows) -> Iterator[list[int]]:
    """Places of rows of similar length, so many that a padded batch stays within the budget."""
    lengths = [port.counts(rows.take([i]))["tokens"] for i in range(len(rows))]
    order = sorted(range(len(rows)), key=lambda i: -lengths[i])
    most = IMAGES if Need.GENERATE not in port.offers else len(order)
    at = 0
    while at < len(order):
        size = max(1, min(most, int(BUDGET / lengths[order[at]])))
        yield order[at : at + size]
        at += size


def _score(
    model: nn.Module,
    port: Modality,
    rows: Rows,
    item: Sequence[int],
    moments: bool,
    taps: tuple[str, ...] = (),
    keep: Callable[[Answer], None] = lambda answer: None,
) -> Scored:
    """What a model says of rows. keep: what else to do with the answers of each forward, which see `taps`."""
    parts: dict[str, list[Any]] = {
        "logp": [None] * len(rows),
        "hit": [None] * len(rows),
        "mean": [None] * len(rows),
        "std": [None] * len(rows),
    }
    for places in _batches(port, rows):
        answer = port.forward(model, [rows.take(places)], taps)[0]
        keep(answer)
        for name, values in _read(answer, moments).items():
            for place, value in zip(places, values, strict=True):
                parts[name][place] = value
    lengths = [len(x) for x in parts["logp"]]
    packed = {n: np.concatenate(v) if v and v[0] is not None else None for n, v in parts.items()}
    return Scored(
        item=np.array(item, dtype=np.int64),
        start=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ended=np.array(port.ended(rows), dtype=bool),
        text=tuple(port.said(rows)),
        **packed,
    )


def _read(answer: Answer, moments: bool) -> dict[str, list[Any]]:
    """Per row: log-probs, hits and, if asked for, mean and deviation of log p under the model's own distribution."""
    scores, logp = answer.scores.values, answer.logp
    best = scores.amax(-1)
    hit = scores.gather(-1, answer.labels[:, None])[:, 0] >= best
    if (tied := hit & ((scores == best[:, None]).sum(-1) > 1)).any():  # a model that says nothing says everything equally
        hit[tied] = scores[tied].argmax(-1) == answer.labels[tied]
    found = {"logp": logp.values, "hit": hit}
    if moments:
        log = answer.dist.values
        p = log.exp()
        mean = (p * log).sum(-1)
        variance = (p * log.square()).sum(-1) - mean.square()
        found |= {"mean": mean, "std": variance.clamp_min(VARIANCE).sqrt()}
    lengths = logp.lengths.tolist()
    return {
        n: [x.numpy() for x in v.float().cpu().split(lengths)] if n != "hit" else [x.numpy() for x in v.cpu().split(lengths)]
        for n, v in found.items()
    }


def _classified(model: nn.Module, port: Modality, rows: Rows, features: bool) -> SetSeen:
    """A classifier's distributions and features; what it says is its most probable class."""
    taps = _taps(model, port) if features else {}
    dist, label = list[torch.Tensor](), list[torch.Tensor]()
    inner: dict[str, list[torch.Tensor]] = {n: [] for n in taps.values()}

    def keep(answer: Answer) -> None:  # rows are all of one length, so their order stays
        dist.append(answer.dist.values.float().cpu())
        label.append(answer.labels.cpu())
        for tap, name in taps.items():
            inner[name].append((answer.input(tap) if name == HEAD else answer.hidden(tap)).values.float().cpu())

    scored = _score(model, port, rows, range(len(rows)), False, tuple(taps), keep)
    log = torch.cat(dist)
    return SetSeen(
        rows.ids,
        tuple(port.question(rows)),
        tuple(port.said(rows)),
        {"answer": scored},
        said=tuple(port.decode(log.argmax(-1)[:, None].tolist())),
        dist=log.numpy(),
        label=torch.cat(label).numpy(),
        features={n: torch.cat(x).numpy() for n, x in inner.items()},
        pictures=_pictures(rows),
    )


def _pictures(rows: Rows) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """Small pictures of a few rows, for people to look at; None where rows are no images, or of a set that nobody looks at."""
    if "pixels" not in rows.cols or not (many := PICTURED.get(rows.name)):
        return None
    found = torch.stack([rows["pixels"][i] for i in few(len(rows), many)])
    x = found.float() / (255 if found.dtype == torch.uint8 else 1)
    low, high = min(0.0, float(x.min())), max(1.0, float(x.max()))  # values that were normalised before they came here
    if (share := PICTURE / max(x.shape[-2:])) < 1:
        size = [max(1, round(side * share)) for side in x.shape[-2:]]
        x = torch.nn.functional.interpolate(x, size=size, mode="bilinear", antialias=True)
    return ((x - low) / (high - low) * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def _taps(model: nn.Module, port: Modality) -> dict[str, str]:
    """Where features are looked at, with the names that they get: the blocks, and what the last linear layer reads, where there is one."""
    found = {tap: tap for tap in port.blocks(model)}
    with suppress(UserError):
        found[port.head(model)] = HEAD
    return found


def gradient_norms(model: nn.Module, port: Modality, rows: Rows) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of each row, the mean over weight tensors of the L2 norm of the gradient of its average loss, an end label left out, (rows,)."""
    ended = port.ended(rows)

    def loss_of(place: int) -> Callable[[Answer], torch.Tensor]:
        return lambda answer: -(answer.logp.values[:-1] if ended[place] and len(answer.labels) > 1 else answer.logp.values).mean()

    norms = [example_gradients(model, port, rows.take([i]), mean_norm, loss_of(i)) for i in range(len(rows))]
    return torch.cat(norms).numpy() if norms else np.zeros(0, np.float32)
