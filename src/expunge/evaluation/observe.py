"""The only evaluation pass: `observe` runs a model on every set of an audit once and keeps the observation on disk by content."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from expunge.benchmarks.suite import Specs, spec_of
from expunge.core.capabilities import Categorical, Denoises, Generates, Ranks, offers, require
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.random import seed_of
from expunge.core.request import digest
from expunge.core.rows import Rows
from expunge.engine import identity
from expunge.engine.run_state import evaluating
from expunge.engine.secret import sealed, sealed_ids
from expunge.evaluation.observation import Array, Observation, SetObservation
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.profiles.profile import AskedSet, profile_of
from expunge.evaluation.teacher_forced import batches
from expunge.modalities.common.records import kind_of, listed, present

DRAWS = 4  # sampled answers of an item that is asked to `draw`
DOCUMENT = "document"  # column that names the document of a row
OTHERS = {"paraphrase": "paraphrased_answer", "perturbed": "perturbed_answer", "choice": "choices"}  # columns of other answers, by kind
DRAWN = 64  # tokens of a sampled answer at most

Records = Sequence[Mapping[str, Any]]
Memory = dict[str, Observation]  # observations of a process, by key


def observe(
    model: nn.Module,
    modality: Modality,
    sets: Mapping[str, Records],
    *,
    specs: Specs | None = None,
    wants: ObservationSpec = ObservationSpec(),  # noqa: B008 - frozen
    cache: Path | None = None,
    memory: Memory | None = None,
    progress: Callable[[int, int, str], None] = lambda done, total, activity: None,
) -> Observation:
    """Observe a model on the items of several sets.

    Args:
        sets: by name, records in any shape that the modality reads and, where there are such, `paraphrased_answer`, `perturbed_answer`
            and `choices` (which hold the answer): each one value or a list, in a cell of text a list as JSON.
        specs: how to ask sets that differ from the default.
        cache: a folder of earlier observations, keyed by everything that an answer depends on: model (weights, configurations, adapters),
            rows, modality, specs, `wants`, versions and device; a hit needs no forward pass.
        memory: earlier observations in memory, by the same key; this one is added.
        progress: receives rows done, rows in all, and the activity.

    Raises:
        UserError: where a set is to be asked in a way that the modality does not know.
    """
    profile = profile_of(modality.name)
    asked_sets = {name: AskedSet(_kinds(modality, name, records), spec_of(name, specs)) for name, records in sets.items() if len(records)}
    model_identity = identity.of_model(model)
    rows = {n: {k: [identity.of_rows(r), item] for k, (r, item) in asked_set.kinds.items()} for n, asked_set in asked_sets.items()}
    set_specs = {n: repr(asked_set.spec) for n, asked_set in asked_sets.items()}
    documents = {n: documents_of(asked_set.answers, sets[n]) for n, asked_set in asked_sets.items()}
    known_documents = {n: places.tolist() for n, places in documents.items() if places is not None}
    about_documents = [known_documents] if known_documents else []
    key = digest([model_identity, identity.of_setting(model), modality.about(), rows, set_specs, repr(wants), *about_documents])
    if memory is not None and key in memory:
        return memory[key]
    if cache and (cache / key / "observed.json").exists():
        return Observation.load(cache / key)
    started = time.monotonic()
    total = sum(map(len, asked_sets.values()))
    with evaluating(model), torch.no_grad():
        observations, details = profile.look(model, modality, asked_sets, wants, lambda done, activity: progress(done, total, activity))
        for name, asked_set in asked_sets.items():
            observations[name] = _with_other_answers(model, modality, observations[name], asked_set, sets[name], wants)
            observations[name] = replace(observations[name], document=documents[name])
    about = {
        "key": key,
        "weights": model_identity["weights"],
        "modality": modality.about(),
        "rows": total,
        **details,
        "seconds": round(time.monotonic() - started, 3),
    }
    sealed_sets = {n: replace(o, ids=sealed_ids(o.ids)) for n, o in observations.items()}
    observation = Observation(sealed_sets, {**about, "key": sealed(key)})
    if cache:
        observation.save(cache / key)
    if memory is not None:
        memory[key] = observation
    return observation


def documents_of(rows: Rows, records: Records) -> NDArray[np.int64] | None:
    """Which document each row is a piece of, (rows,): by the column `document`, else by the record, where long ones fill several rows.

    None where no two rows are of one document.
    """
    of_row = rows.columns.get("record", range(len(rows)))
    names = [str(present(r)[DOCUMENT]) if DOCUMENT in present(r) else f"record {i}" for i, r in enumerate(records)]
    places = {name: k for k, name in enumerate(dict.fromkeys(names))}
    documents = np.array([places[names[i]] for i in of_row], np.int64)
    return documents if len(set(documents.tolist())) < len(documents) else None


def _kinds(modality: Modality, name: str, records: Records) -> dict[str, tuple[Rows, list[int]]]:
    """Rows by kind of answer, with the item that each belongs to."""
    answers = modality.rows(name, records)
    kinds = {"answer": (answers, list(range(len(answers))))}
    row_of = dict(zip(answers.columns.get("record", range(len(answers))), range(len(answers)), strict=True))  # the last row of each record
    if not offers(modality, Categorical):
        return kinds
    other_answers = {
        kind: [(i, a) for i, r in enumerate(records) for a in listed(r, column, f"{name}, row {i + 1}")] for kind, column in OTHERS.items()
    }
    for kind, pairs in other_answers.items():
        if pairs:
            item = [row_of[i] for i, _ in pairs]
            labels = [_labeled(modality, a, f"{name}, row {i + 1}, column {OTHERS[kind]!r}") for i, a in pairs]
            kinds[kind] = (require(modality, Categorical).relabel(answers.select(item), labels, name), item)
    return kinds


def _labeled(modality: Modality, answer: Any, place: str) -> Any:
    """An answer, checked. Raises: UserError where the model answers in words and this is no text."""
    if offers(modality, Generates) and not isinstance(answer, str):
        raise UserError(f"{place}: an answer is a text, and this is {kind_of(answer)}")
    return answer


def _with_other_answers(
    model: nn.Module, modality: Modality, observation: SetObservation, asked_set: AskedSet, records: Records, wants: ObservationSpec
) -> SetObservation:
    """The observation with choices, ranks and sampled answers, where the set asks for them."""
    name = asked_set.answers.name
    if "choose" in asked_set.spec.ask:
        if "choice" not in asked_set.kinds:
            raise UserError(f"the set {name!r} is asked by choices, and its rows have none: give each row a list `choices`")
        if len(asked_set.answers) > len(records):
            raise UserError(f"the set {name!r} is asked by choices, and a row of it has several answers, or one too long for the model")
        observation = replace(observation, correct=np.array([_right(r, f"{name}, row {i}") for i, r in enumerate(records, 1)]))
    if "rank" in asked_set.spec.ask:
        observation = replace(observation, ranks=require(modality, Ranks).ranks(model, asked_set.answers).cpu().numpy())
    if "predict" in asked_set.spec.ask:
        observation = replace(observation, predicted=_predicted(model, modality, asked_set.answers))
    if "draw" in asked_set.spec.ask and wants.generations and not offers(modality, Denoises):  # its profile draws pictures
        observation = replace(observation, draws=_draws(model, modality, asked_set.answers))
    return observation


def _right(record: Mapping[str, Any], row_name: str) -> int:
    """Which of a record's choices is its answer. Raises: UserError where none is."""
    answer = present(record).get("answer", record.get("completion"))
    choices = listed(record, OTHERS["choice"], row_name)
    if answer not in choices:
        raise UserError(f"{row_name}: the answer is none of the choices")
    return choices.index(answer)


def _predicted(model: nn.Module, modality: Modality, rows: Rows) -> Array:
    """Log-probabilities of all classes at the first label of each row, (rows, classes)."""
    require(modality, Categorical)
    predictions: dict[int, Array] = {}
    for places in batches(modality, rows):
        log_probs = modality.forward(model, [rows.select(places)])[0].log_probs
        first = log_probs.lengths.cumsum(0) - log_probs.lengths
        predictions |= dict(zip(places, log_probs.values[first].float().cpu().numpy(), strict=True))
    return np.stack([predictions[i] for i in range(len(rows))])


def _draws(model: nn.Module, modality: Modality, rows: Rows) -> tuple[tuple[str, ...], ...]:
    """Sampled answers of each row, from seeds that depend on the draw alone."""
    speaker = require(modality, Generates)
    draws = []
    for k in range(DRAWS):
        generator = torch.Generator().manual_seed(seed_of("draw", k))
        draws.append(speaker.decode(speaker.generate(model, rows, DRAWN, generator).ids))
    return tuple(zip(*draws, strict=True))
