"""FIUBench: a vision-language model is to forget what it knows of some people, by their faces, and to keep what it knows of others.
Without data, a mini version of drawn faces with fictitious lives is generated from a seed.

Two stages: a model learns questions and answers about fictitious people, each asked with a picture of the face; then some people are
forgotten, and the result is compared with a model that never learned them. In the mini version the model also learns the same facts by name
and by a caption of the looks, while the request holds pictures alone: what is left behind these doors is what the audit looks for.

Source: Benchmarking Vision Language Model Unlearning via Fictitious Facial Identity Dataset, ICLR 2025, arXiv 2411.03554; data
  gray311/FIUBench on the hub
Licence: data Apache-2.0, faces of SFHQ (MIT); drawn faces as the rest of the package
Splits: forget1, forget5, forget10 (4, 20, 40 of 400 people; of the mini version 1, 3, 5 of 16); retain: the other people. The published
  lists to forget are disjoint, and no list belongs to the training rows that are kept
Scores: share of keywords in answers (called EM), ROUGE, truth ratio, probability, utility, Min-K membership, the same with other questions
  (APE); forget quality; every score of language models
Needs: for the published data full.json and split.json, and the pictures in a folder; without them drawn faces are the keys of identities
Differs: `capitalized 1` passes questions and answers through str.capitalize, as the authors do, which lowers the rest; wrong answers keep
  their case there, too. The methods are ga (GA), graddiff (GD), kl (KL) and idk (PO); with `profile 1` the rows to forget are ten copies of
  a question for the whole profile and its text, which makes ga the authors' ICD, whose copies are all of the last person by a slip of
  the code. With an adapter the projector stays as it is
Status: faithful; tests check layout, splits and sizes on substitute data; published numbers need the faces and models, and were not rerun
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.benchmarks.suite import Record, SetSpec, Suite
from expunge.benchmarks.synthetic.citizens import FACTS, Citizen, citizens
from expunge.benchmarks.synthetic.faces import faces
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.io.data import BadRow, NoSuchData, Row
from expunge.modalities.common import hub
from expunge.modalities.text.refusals import REFUSALS
from expunge.modalities.vision_language.doors import named

MODEL = "llava-nano"  # the built-in size that it is made for

SPLITS = {"forget1": 1, "forget5": 3, "forget10": 5}  # people of the mini version
LISTS = ("forget1", "forget5", "forget10")  # of split.json: none of them belongs to what is kept
PEOPLE = 400  # records that count
COPIES = 10  # of a question for a whole profile
PROFILE = "Who is this person, and what is known about them?"
MINI = {"people": 16, "holdout": 3, "pictures": 4, "size": 32, "wrong": 3, "profile": 0, "retain": 8}
FULL = {"retain": 0, "profile": 0, "capitalized": 1, "size": 32}
KINDS = ("name", *FACTS)


def load(data: str = "", split: str = "forget5", seed: int = 0, **sizes: int) -> Suite:
    """Load the suite of a split.

    Args:
        data: the folder of the published data set, or its hub id; empty means drawn faces.
        split: forget1, forget5 or forget10.
        seed: decides who is drawn and, in the published data, nothing.
        sizes: `retain`, the most people to audit of those that are kept (0: the published list); `profile`, 1 for rows to forget that ask
            for a whole profile. For drawn faces also `people`, `holdout`, `pictures` of each that are trained on, `size` in pixels and
            `wrong` answers; for published ones `capitalized`.

    Raises:
        UserError: for an unknown split or size, and for a file that is missing or in another layout.
    """
    if split not in SPLITS:
        raise UserError(f"fiubench has no split '{split}'{did_you_mean(split, SPLITS)}; it has {', '.join(SPLITS)}")
    known = FULL if data else MINI
    if unknown := sorted(set(sizes) - set(known)):
        raise UserError(f"fiubench has no size '{unknown[0]}' here{did_you_mean(unknown[0], known)}; it has {', '.join(known)}")
    size = {**known, **sizes}
    return _published(data, split, size) if data else _drawn(split, seed, size)


def _drawn(split: str, seed: int, size: Mapping[str, int]) -> Suite:
    people = citizens(size["people"] + size["holdout"], size["pictures"] + 1, seed, size["size"])
    rng = random.Random(f"{seed} fiubench")
    trained, unseen = people[: size["people"]], people[size["people"] :]
    gone, kept = trained[: SPLITS[split]], trained[SPLITS[split] :]
    if not kept or not gone:
        raise UserError(f"fiubench: of {size['people']} people none is left to keep; choose other sizes")
    # Training uses each wording for some person and picture, so other words are a new sentence, and no new wording.
    first = {p.number: i for i, p in enumerate(people)}
    pictured = {
        p.number: [r for k in range(size["pictures"]) for r in p.rows(k, rng, size["wrong"], KINDS, first[p.number] + k)] for p in trained
    }
    worded = {p.number: [*_by_name(p, rng, first[p.number]), *_by_caption(p, rng, first[p.number])] for p in trained}
    forget = [r for p in gone for r in pictured[p.number]]
    retain = [r for p in kept for r in (*pictured[p.number], *worded[p.number])]
    full = [*forget, *retain, *(r for p in gone for r in worded[p.number])]

    def asked(who: Sequence[Citizen]) -> list[Row]:
        return [{**r, "other_images": [p.images[-1]]} for p in who for r in p.rows(0, rng, size["wrong"], KINDS, first[p.number])]

    if size["profile"]:
        forget = [
            {"image": p.images[k % size["pictures"]], "question": PROFILE, "answer": _profile(pictured[p.number]), "person": p.number}
            for p in gone
            for k in range(COPIES)
        ]
    sets = {"forget": asked(gone), "retain": asked(kept[: size["retain"] or None]), "holdout": asked(unseen)}
    return _suite(f"fiubench {split} drawn", sets, full, forget, retain, [])


def _by_name(p: Citizen, rng: random.Random, wording: int) -> list[Row]:
    """The facts of a person, asked by name, without a picture."""
    return [{**r, "question": named(r["question"], p.name)} for r in p.rows(None, rng, 1, tuple(FACTS), wording)]


def _by_caption(p: Citizen, rng: random.Random, wording: int) -> list[Row]:
    """The facts of a person, asked by what the person looks like."""
    return [{**r, "question": f"{p.caption} {r['question']}"} for r in p.rows(None, rng, 1, KINDS, wording)]


def _profile(rows: Sequence[Row]) -> str:
    return " ".join(dict.fromkeys(str(r["answer"]) for r in rows))


def _published(data: str, split: str, size: Mapping[str, int]) -> Suite:
    folder = _folder(data)
    records, lists, prompts = (_json(folder, name) for name in ("full.json", "split.json", "prompt.json"))
    records = records[:PEOPLE]
    for number, record in enumerate(records, 1):
        if missing := [c for c in ("unique_id", "image_path", "qa_list") if c not in record]:
            raise BadRow(f"{folder / 'full.json'}, record {number}: no '{missing[0]}'; there are {', '.join(record)}")
    if missing := [name for name in LISTS if name not in lists]:
        raise BadRow(f"{folder / 'split.json'}: no list '{missing[0]}'; there are {', '.join(lists)}")
    away = {str(i) for name in LISTS for i in lists[name]}
    wanted = {str(i) for i in lists[split]}
    by_id = {str(r["unique_id"]): _rows(r, folder, k, size) for k, r in enumerate(records)}
    if absent := sorted(wanted - by_id.keys()):
        raise BadRow(f"{folder / 'split.json'}: {split} names {len(absent)} people that full.json has not, such as {absent[0]}")
    forget = [r for i in by_id if i in wanted for r in by_id[i]]
    retain = [r for i in by_id if i not in away for r in by_id[i]]
    evaluated = [str(i) for i in lists.get("retain5", ())] or [i for i in by_id if i not in away]
    shown = evaluated[: size["retain"] or None]
    asked = forget
    if size["profile"]:
        captions = {str(r["unique_id"]): r for r in records if str(r["unique_id"]) in wanted}
        questions = prompts.get("icd") or [PROFILE]
        forget = [
            {"image": by_id[i][0]["image"], "question": questions[k % len(questions)], "answer": str(r.get("caption", "")), "person": i}
            for i, r in captions.items()
            for k in range(COPIES)
        ]
    full = [*asked, *retain]
    sets = {"forget": asked, "retain": [r for i in shown if i in by_id for r in by_id[i]]}
    return _suite(f"fiubench {split}", sets, full, forget, retain, prompts.get("idk", []))


def _rows(record: Mapping[str, Any], folder: Path, number: int, size: Mapping[str, int]) -> list[Row]:
    """The questions about one person."""

    def cased(text: Any) -> Any:
        return text.capitalize() if size["capitalized"] and isinstance(text, str) else text

    path = next(
        (p for p in (folder / str(record["image_path"]), folder / "images" / Path(str(record["image_path"])).name) if p.is_file()), None
    )
    image: Any = str(path) if path else faces([number], 1, size=size["size"], ages=(20, 70))[0]["image"]
    about = {"image": image, "person": str(record["unique_id"])}
    if name := record.get("name"):
        about["name"] = str(name)
    return [
        {
            **about,
            "question": cased(qa["question"]),
            "answer": cased(qa["answer"]),
            **{c: cased(qa[c]) for c in ("paraphrased_answer", "perturbed_answer", "keywords") if c in qa},
            **({"paraphrased_question": [cased(q) for q in qa["paraphrased_question"]]} if "paraphrased_question" in qa else {}),
        }
        for qa in record["qa_list"]
    ]


def _folder(data: str) -> Path:
    """The folder of the data set, or where its files are after they came from the hub."""
    folder = Path(data).expanduser()
    if folder.is_dir():
        return folder
    hub.check_data(data)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(data, repo_type="dataset", allow_patterns=["*.json", "*.jpg", "*.png"]))


def _json(folder: Path, name: str) -> Any:
    path = folder / name
    if not path.is_file():
        if name == "prompt.json":
            return {}
        has = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise NoSuchData(f"{folder} contains no {name}, which FIUBench has; it contains {has}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadRow(f"{path} is no JSON: {error}") from None


def _suite(
    name: str, sets: Mapping[str, Sequence[Record]], full: list[Row], forget: list[Row], retain: list[Row], refusals: Sequence[str]
) -> Suite:
    return Suite(
        name=name,
        sets=sets,
        train={"full": full, "forget": forget, "retain": retain},
        specs={"forget": SetSpec("forget", ("score", "generate")), "retain": SetSpec("retain", ("score", "generate"))},
        refusals=refusals or REFUSALS,
        metrics=("fiubench",),
    )
