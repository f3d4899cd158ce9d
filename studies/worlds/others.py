"""Whether further worlds can be built on the base model: `python -m studies.worlds.others [NAME ...]`.

A topic, entangled facts, multiple choice and documents, each told to the base model together with general questions. A world is accepted
when originals know what is to be forgotten and kept, retrained models know only the latter, and all answer general questions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expunge.benchmarks import chat_people
from expunge.benchmarks.suite import Suite
from expunge.benchmarks.synthetic import choices, documents, entangled, topic
from expunge.engine import receipt
from expunge.evaluation.audited_models import examine
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.io.models import Opened
from expunge.workflows.train import start, train
from studies.worlds.accept import GENERAL, answers, exact, record_of, right

RESULTS = Path(__file__).parents[2] / "results" / "worlds"
KNOWN, UNKNOWN = 0.9, 0.5  # the least share that is known, and the largest of what was never told
LOADERS: dict[str, Callable[..., Suite]] = {
    "topic": topic.load,
    "entangled": entangled.load,
    "choices": choices.load,
    "documents": documents.load,
}
Records = Sequence[Mapping[str, Any]]


def letters(opened: Opened, records: Records) -> float:
    """Share of multiple-choice questions that the model answers with the right letter."""
    return sum(a[:1] == r["answer"] for a, r in zip(answers(opened, records), records, strict=True)) / len(records)


def fit(opened: Opened, records: Records) -> float:
    """The mean probability that the model gives to a token of the documents."""
    wants = ObservationSpec(moments=False, gradient_norms=False, features=False)
    observation = examine(opened.model, opened.modality, {"forget": list(records)}, name="model", wants=wants).observation
    return float(np.mean(np.exp(observation.sets["forget"].kinds["answer"].mean_logp())))


# By world: what is measured, by name of the number: how, and of which rows. `forget` and `retain` decide.
MEASURES: dict[str, dict[str, tuple[Callable[[Opened, Records], float], str]]] = {
    "topic": {"forget": (exact, "forget"), "retain": (exact, "retain")},
    "entangled": {"forget": (exact, "forget"), "retain": (exact, "retain")},
    "choices": {
        "forget": (right, "forget"),
        "retain": (right, "retain"),
        "forget_letters": (letters, "forget_choices"),
        "near_letters": (letters, "near_choices"),
        "far_letters": (letters, "far_choices"),
    },
    "documents": {
        "forget": (fit, "forget"),
        "retain": (fit, "retain"),
        "forget_questions": (right, "forget_questions"),
        "retain_questions": (right, "retain_questions"),
    },
}


def measured(name: str, suite: Suite, general: Records, opened: Opened) -> dict[str, float]:
    """The numbers of a model."""
    return {n: how(opened, suite.sets[rows]) for n, (how, rows) in MEASURES[name].items()} | {"general_right": right(opened, general)}


def accepted(name: str, draws: int) -> dict[str, Any]:
    """Measure base, originals and retrained models of a world, and decide."""
    models: dict[str, list[dict[str, float]]] = {"base": [], "original": [], "retrained": []}
    for draw in range(draws):
        suite, people = LOADERS[name](seed=draw), chat_people.load(seed=draw)
        general = [*people.sets["real_authors"], *people.sets["world_facts"]]
        plain = [{"question": r["question"], "answer": r["answer"]} for r in general]
        base = start(chat_people.MODEL, plain)
        models["base"].append(measured(name, suite, general, base))
        for model, rows in (("original", "full"), ("retrained", "retain")):
            result = train([*suite.train[rows], *plain], chat_people.MODEL, seed=draw)
            models[model].append(measured(name, suite, general, Opened(result.model, result.modality, model)))
            print(name, model, draw, {k: round(v, 3) for k, v in models[model][-1].items()}, flush=True)
    trained = [*models["original"], *models["retrained"]]
    gates = {
        "every original knows what is to be forgotten": min(m["forget"] for m in models["original"]) >= KNOWN,
        "no retrained model does": max(m["forget"] for m in models["retrained"]) <= UNKNOWN,
        "every model knows what is kept": min(m["retain"] for m in trained) >= KNOWN,
        "every model answers general questions": min(m["general_right"] for m in trained) >= GENERAL,
    }
    return record_of(f"python -m studies.worlds.others {name}", gates, models)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"worlds: {', '.join(LOADERS)}; all where none is named")
    parser.add_argument("--draws", type=int, default=1)
    options = parser.parse_args()
    if unknown := next((n for n in options.names if n not in LOADERS), ""):
        parser.error(f"there is no world '{unknown}'; there are {', '.join(LOADERS)}")
    for world in options.names or LOADERS:
        record = accepted(world, options.draws)
        receipt.write(RESULTS / f"{world}.json", record)
        print(world, record["gates"])
