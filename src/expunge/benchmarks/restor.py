"""RESTOR: documents told a model wrong things about people; unlearn the documents, and see whether it knows the truth again.

Source: Rezaei et al. 2025 (TMLR), arXiv 2411.00204; code and data k1rezaei/restor
Licence: MIT; the package includes none of the data. The mini is our own.
Splits: mix_a0 to mix_a5: about 3,000 documents, 300 for each of ten people, with 0 to 5 true facts about others for each wrong one; 1,051
  facts about 50 people are asked. Sets: forget (the documents), retain (ordinary text), restor_facts (about the people of the documents),
  restor_others (about the other people, for collateral damage).
Scores: accuracy of generated answers on both sets of facts; log-probabilities of correct, corrupted and random answers; recovery,
  forgetting and restoration between the corrupted and the clean model; perplexity of documents and of ordinary text
Differs: an answer counts where it holds an accepted one, word for word, where the paper asks a language model to judge; answers are greedy,
  where the code draws three; the values that documents assert are found in their texts (reconstructed: the data does not list them), unless
  a file `wrong.json` lists them by person and relation
Status: faithful; tests check counts on the published data, hand values of all scores, and that the clean model has recovery 1 and the
  corrupted one 0; the paper's models have 8B parameters and were not rerun

The original model is the corrupted one: the clean model, trained on with the documents. The retrained model is the clean one. Of published
data give it with --retrained, and the corrupted one with --original if there is one; a model of a built-in size first learns all facts.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

from expunge.benchmarks.common import published
from expunge.benchmarks.suite import SetSpec, Suite
from expunge.benchmarks.synthetic import restor_tables
from expunge.core.errors import UserError
from expunge.modalities.text.refusals import REFUSALS

MODEL = "micro"  # the built-in size that it is made for

Row = dict[str, Any]
Facts = restor_tables.Facts

SPLITS = tuple(f"mix_a{k}" for k in range(6))
SHOTS = 5  # examples before a question
LENGTH = 32  # tokens of an answer
OPTIONS = 3  # corrupted and random answers of a fact at most
SHARE = 0.05  # of the documents: a person whom fewer name is not what they are about, and a value that fewer state is not asserted


def load(data: str = "", split: str = "mix_a0", seed: int = 0, **limits: int) -> Suite:
    """Load the suite of a split.

    Args:
        data: a folder with facts.json, entities.json and the file of the split; empty: the offline mini.
        split: a name of SPLITS.
        seed: of the mini, and of the draw of random answers.
        limits: the most rows of a set to audit, from its start, e.g. `restor_others=100`. Training rows stay complete.

    Raises:
        UserError: for an unknown split or set, and for a file that is missing or has another layout.
    """
    published.checked_split(split, SPLITS, "RESTOR")
    files = _read(data, split) if data else restor_tables.files(seed, mixed=int(split[-1]))
    facts, context = _parts(files["facts.json"])
    documents = [{"text": str(row["text"])} for row in published.with_columns(files[f"{split}.json"], f"{split}.json", "RESTOR", "text")]
    asked = [entity for entity in files["entities.json"] if entity in facts]
    if not asked:
        raise UserError("none of the people in entities.json has facts in facts.json")
    texts = {entity: [row["text"] for row in documents if entity in row["text"]] for entity in asked}
    about = [entity for entity in asked if len(texts[entity]) >= SHARE * len(documents)]
    listed: dict[str, dict[str, list[str]]] = files.get("wrong.json", {})
    values = {r: sorted({a for of in facts.values() if r in of for a in of[r]["answers"]}) for of in facts.values() for r in of}
    rng = random.Random(f"restor options {seed}")
    sets: dict[str, list[Row]] = {"forget": documents, "retain": _ordinary(context, asked), "restor_facts": [], "restor_others": []}
    for entity in asked:
        for relation, fact in facts[entity].items():
            wrong = listed.get(entity, {}).get(relation) or (
                _asserted(texts[entity], entity, fact["answers"], values[relation]) if entity in about else []
            )
            others = [v for v in values[relation] if v not in fact["answers"] and v not in wrong]
            row = _row(context, relation, entity, fact)
            options = {"perturbed_answer": wrong, "choices": rng.sample(others, min(OPTIONS, len(others)))}
            row |= {column: [f" {value}" for value in of] for column, of in options.items() if of}
            sets["restor_facts" if entity in about else "restor_others"].append(row)
    if not sets["restor_facts"]:
        raise UserError(f"{split}.json is about none of the people in entities.json: each of these stands in too few documents")
    learned = [
        {k: r[k] for k in ("prompt", "completion")} for e in facts for rel in facts[e] for r in [_row(context, rel, e, facts[e][rel])]
    ]
    return Suite(
        name=f"restor {split}" + ("" if data else " mini"),
        sets=published.cut(sets, limits, "RESTOR"),
        train={
            "full": [*learned, *sets["retain"], *documents],
            "forget": documents,
            "retain": [*learned, *sets["retain"]],
            "kept": sets["retain"],
        },
        specs={
            "forget": SetSpec("forget"),
            "retain": SetSpec("retain"),
            **{name: SetSpec("general", ("score", "generate"), length=LENGTH) for name in ("restor_facts", "restor_others")},
        },
        refusals=REFUSALS,
        metrics=("restor",),
        continued=True,
    )


def _read(data: str, split: str) -> dict[str, Any]:
    """The files of a folder. Raises: UserError for one that is missing or no JSON."""
    folder, contents = Path(data).expanduser(), {}
    for name in ("facts.json", "entities.json", f"{split}.json", "wrong.json"):
        places = [file for file in (folder / name, folder / "wikidata" / "v0" / name) if file.is_file()]
        if not places and name == "wrong.json":
            continue
        if not places:
            raise UserError(
                f"{folder / name} does not exist, and RESTOR needs it: give a folder with facts.json, entities.json and {split}.json"
            )
        try:
            contents[name] = json.loads(places[0].read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{places[0]} is no JSON: {error}") from None
    if not isinstance(contents["entities.json"], list) or not isinstance(contents[f"{split}.json"], list):
        raise UserError(f"entities.json and {split}.json of RESTOR are lists: one of them in {data} is not")
    return contents


def _parts(contents: Any) -> tuple[Facts, dict[str, list[Row]]]:
    """Facts by person and relation, and examples by relation. Raises: UserError where the layout differs."""
    if not isinstance(contents, dict) or not {"dset", "context"} <= set(contents):
        raise UserError("facts.json of RESTOR has the parts `dset` and `context`, and this one lacks them")
    facts, context = contents["dset"], contents["context"]
    for entity, relations in facts.items():
        for relation, fact in relations.items():
            if missing := [part for part in ("question", "answers") if not fact.get(part)]:
                raise UserError(f"facts.json, {entity}, {relation}: no {missing[0]}")
            if not isinstance(fact["answers"], list):
                raise UserError(f"facts.json, {entity}, {relation}: the answers must be a list")
            if relation not in context:
                raise UserError(f"facts.json has no examples of the relation {relation}, which is asked of {entity}")
    return facts, context


def _row(context: dict[str, list[Row]], relation: str, entity: str, fact: Row) -> Row:
    """A question after examples about other people, with all accepted answers."""
    examples = [e for e in context[relation] if e["entity"] != entity][:SHOTS]
    lines = [f"{e['question']} {e['answer']}" for e in examples]
    accepted = [f" {a}" for a in fact["answers"]]
    return {"prompt": "\n".join([*lines, fact["question"]]), "completion": accepted[0], "paraphrased_answer": accepted}


def _ordinary(context: dict[str, list[Row]], asked: list[str]) -> list[Row]:
    """Text for utility: the examples about people who are not asked about."""
    return [{"text": f"{e['question']} {e['answer']}"} for examples in context.values() for e in examples if e["entity"] not in asked]


def _asserted(texts: list[str], entity: str, answers: list[str], values: list[str]) -> list[str]:
    """Values of a relation that the documents about a person assert: the most frequent ones that are not true, nor part of the name."""
    own, true = set(_words(entity)), {_words(answer) for answer in answers}
    wanted = {value: tokens for value in values if (tokens := _words(value)) and tokens not in true and not set(tokens) <= own}
    longest = max(map(len, wanted.values()), default=0)
    counts = Counter[tuple[str, ...]]()
    for text in texts:
        counts.update(_runs(text, longest))
    known = sorted((value for value in wanted if counts[wanted[value]]), key=lambda value: -counts[wanted[value]])
    return [value for value in known[:OPTIONS] if counts[wanted[value]] >= SHARE * len(texts)]


@lru_cache(maxsize=1 << 15)
def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


@lru_cache(maxsize=1 << 15)
def _runs(text: str, longest: int) -> frozenset[tuple[str, ...]]:
    """All runs of words of a text, up to a length."""
    tokens = _words(text)
    return frozenset(tokens[i : i + n] for n in range(1, longest + 1) for i in range(len(tokens) - n + 1))
