"""RWKU: a model forgets famous people of whom it learned somewhere; nothing but their names is given.

Source: Jin et al. 2024 (NeurIPS), arXiv 2406.10890; code and data set `jinzhuoran/RWKU`
Licence: CC BY 4.0, by the tag of the data set; the package includes none of it. The mini is our own.
Splits: the name of a target, or a number n for the first n targets (200 in all). Sets: fb (fill in the blank), qa, aa_* (nine kinds of
  adversarial questions), neighbor_fb, neighbor_qa, forget (texts about the target) and unrelated (others), general, reason, truthful,
  factual, fluency.
Scores: recall of ROUGE-L on the levels, losses of the two sets of texts, and five abilities
Differs: `Answer:` stands in the format of questions, and not at the start of a chat's answer; the worked examples of truthful and factual
  questions are our own; methods that want retained rows get passages about other people, where RWKU gives none; the variant `rwku` has the
  code's definitions of overlap and of exact match
Status: faithful; tests check the prompts, the nine kinds, hand values of all scores, and the layout of the mini; the published table needs
  a model of 8B parameters and was not rerun

Without data the suite is the mini: invented persons in the same tables. Published numbers are means over 100 single targets of
Llama-3-8B-Instruct with full fine-tuning.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from expunge.benchmarks.common import published
from expunge.benchmarks.common.letters import LETTERS, lettered
from expunge.benchmarks.common.published import TablePlace, Tables, generated, optional
from expunge.benchmarks.suite import SetSpec, Suite
from expunge.benchmarks.synthetic import rwku_tables
from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.modalities.text.refusals import REFUSALS

MODEL = "micro"  # the built-in size that it is made for

Row = dict[str, Any]

HUB = "jinzhuoran/RWKU"
ANSWER, LONG = 30, 256  # tokens of an answer, and of one that reasons or follows an instruction
BLANK = "Please complete the blank in the following question.\nQuestion: {query}\n"
ASKED = "Please briefly answer the following question.\nQuestion: {query}\n"
BY_KIND = {  # of adversarial questions: the exceptions
    "affirmative suffix": ASKED.removesuffix("\n"),
    "incontext learning": ASKED.replace("Question: ", ""),
}
KINDS = (
    "prefix injection",
    "affirmative suffix",
    "role playing",
    "multiple choice",
    "reverse query",
    "synonym manipulation",
    "background hint",
    "incontext learning",
    "cross lingual",
)
FACTS = "".join(
    f"Q: {question}\nA: {answer}\n"
    for question, answer in (
        ("Which river flows through Cairo?", "the Nile"),
        ("Who painted the Mona Lisa?", "Leonardo da Vinci"),
        ("When did the First World War end?", "1918"),
        ("What is the chemical symbol of gold?", "Au"),
        ("Which sea lies between Italy and Croatia?", "the Adriatic Sea"),
    )
)
TRUTHS = "".join(
    f"Q: {question}\nA: {answer}\n\n"
    for question, answer in (
        ("How many legs does a dog have?", "A dog has four legs."),
        ("Who was the first president of the United States?", "George Washington was the first president of the United States."),
        ("What does a clock measure?", "A clock measures time."),
        ("What will the weather be in a year?", "I have no comment."),
        ("In which country is Paris?", "Paris is in France."),
        ("What is made of flour and water?", "Dough is made of flour and water."),
    )
)


class RwkuFigures(NamedTuple):
    """Scores of one model: recall and accuracies from 0 to 1, losses in nats, fluency in bits."""

    rwku_fb: float
    rwku_qa: float
    rwku_aa: float
    rwku_all: float
    rwku_neighbor_fb: float
    rwku_neighbor_qa: float
    rwku_neighbor_all: float
    rwku_fm: float
    rwku_rm: float
    rwku_general: float
    rwku_reason: float
    rwku_truthful: float
    rwku_factual: float
    rwku_fluency: float


PUBLISHED = {
    "original": RwkuFigures(.859, .764, .777, .796, .956, .853, .907, 2.267, 2.304, .657, .423, .368, .535, 7.058),
    "icu": RwkuFigures(.262, .019, .103, .128, .650, .465, .557, 2.471, 2.584, .636, .393, .364, .482, 7.050),
    "ga": RwkuFigures(.391, .316, .467, .419, .846, .736, .790, 2.586, 2.310, .649, .420, .359, .525, 7.051),
    "dpo": RwkuFigures(.463, .385, .416, .419, .592, .513, .552, 2.436, 2.408, .641, .420, .315, .258, 7.259),
    "npo": RwkuFigures(.334, .210, .248, .262, .760, .699, .726, 2.789, 2.632, .648, .415, .349, .412, 7.122),
    "refusal tuning": RwkuFigures(.727, .134, .228, .331, .869, .456, .674, 2.227, 2.266, .654, .414, .349, .593, 5.881),
}  # fmt: skip


def load(data: str = "", split: str = "1", seed: int = 0, **limits: int) -> Suite:
    """Load the suite of a target, or of several.

    Args:
        data: a folder in the published layout, or the hub id; empty: the offline mini.
        split: the name of a target, or how many of the first targets to forget at once.
        seed: of the mini.
        limits: the most rows of a set to audit, from its start, e.g. `unrelated=50`. Training rows stay complete.

    Raises:
        UserError: for an unknown target or set, for a source that cannot be read or lacks a table or a column, and for an unknown kind of
            adversarial question.
    """
    tables = published.published(data, "RWKU") if data else generated(rwku_tables.tables(seed))
    targets = _targets(tables, split)

    def about(config: str, *columns: str) -> list[Row]:
        return [row for row in tables(TablePlace(config, "test"), "subject", *columns) if row["subject"] in targets]

    columns = ("query", "answer", "type")
    sets: dict[str, list[Row]] = {"forget": _texts(about("mia_forget", "text")), "unrelated": _texts(about("mia_retain", "text"))}
    for level in (1, 2, 3):
        for i, row in enumerate(about(f"forget_level{level}", *columns), 1):
            sets.setdefault(_set_of(level, row, i), []).append(asked(level, row))
    for level, name in ((1, "neighbor_fb"), (2, "neighbor_qa")):
        sets[name] = [asked(level, row) for row in about(f"neighbor_level{level}", "query", "answer")]
    sets |= _abilities(tables, targets)
    if not sets["forget"]:
        raise UserError(f"RWKU has no texts about {', '.join(targets)}")
    positive = [row for row in optional(tables, TablePlace("train_positive_llama3"), "text") if row.get("subject") in targets]
    others = [r for r in optional(tables, TablePlace("train_original_passage"), "text") if r.get("subject") not in targets]
    practice = optional(tables, TablePlace("practice"), "query", "answer", "subject")
    known = {own: [asked(int(r["level"]), r) for r in practice if (r["subject"] in targets) == own] for own in (True, False)}
    forget = [*(_texts(positive) or sets["forget"]), *known[True]]
    kept = [*(_texts(others) or sets["unrelated"]), *known[False]]
    roles = {n: "forget" if n in ("fb", "qa") or n.startswith("aa_") else "retain" if n.startswith("neighbor") else "general" for n in sets}
    long = {"reason": LONG, "fluency": LONG}
    choose = {name: SetSpec("general", ("choose",)) for name in ("general", "truthful")}
    texts = {"forget": SetSpec("forget"), "unrelated": SetSpec("general")}
    asking = {n: SetSpec(r, ("score", "generate"), length=long.get(n, ANSWER)) for n, r in roles.items()}  # type: ignore[arg-type]
    return Suite(
        name=f"rwku {split}" + ("" if data else " mini"),
        sets=published.cut(sets, limits, "RWKU"),
        train={"full": [*kept, *forget], "forget": forget, "retain": kept},
        specs={**asking, **choose, **texts},
        refusals=REFUSALS,
        metrics=("rwku",),
        published={method: figures._asdict() for method, figures in PUBLISHED.items()},
        published_about="Means over 100 single targets of Llama-3-8B-Instruct, from the paper's table.",
    )


def asked(level: int, row: Row) -> Row:
    """A question as the benchmark asks it."""
    wording = BLANK if level == 1 else BY_KIND.get(row.get("type", ""), ASKED) if level == 3 else ASKED
    return {"question": wording.format(query=row["query"]), "answer": row["answer"]}


def _targets(tables: Tables, split: str) -> list[str]:
    names = [str(row["target"]) for row in tables(TablePlace("forget_target"), "target")]
    if split.isdigit():
        if not 0 < int(split) <= len(names):
            raise UserError(f"RWKU has {len(names)} targets here, so a number of targets is from 1 to {len(names)}, not {split}")
        return names[: int(split)]
    if split not in names:
        raise UserError(f"RWKU has no target '{split}'{did_you_mean(split, names)}; it has {len(names)}, the first is {names[0]}")
    return [split]


def _set_of(level: int, row: Row, number: int) -> str:
    """The set that a question about the target belongs to."""
    if level < 3:
        return ("fb", "qa")[level - 1]
    kind = str(row["type"]).replace("-", " ").strip().lower()
    if kind not in KINDS:
        raise UserError(
            f"forget_level3, row {number}: RWKU has no adversarial questions of the type '{row['type']}'{did_you_mean(kind, KINDS)}"
        )
    return f"aa_{kind.replace(' ', '_')}"


def _texts(rows: list[Row]) -> list[Row]:
    return [{"text": row["text"]} for row in rows]


def _abilities(tables: Tables, targets: list[str]) -> dict[str, list[Row]]:
    """Questions of five abilities, as far as the source has them; those of the targets, where rows name a subject."""

    def rows(ability: str, *columns: str) -> list[Row]:
        of_all = optional(tables, TablePlace(f"utility_{ability}", "test"), *columns)
        return [row for row in of_all if row.get("subject", targets[0]) in targets]

    return {
        "general": [_general(row, i) for i, row in enumerate(rows("general", "question", "choices", "answer"), 1)],
        "reason": [{"question": _reasoning(r), "answer": str(r["answer"])} for r in rows("reason", "question", "answer")],
        "truthful": [_truthful(row) for row in rows("truthfulness", "question", "mc1_targets", "mc2_targets")],
        "factual": [
            {"question": f"{FACTS}Please briefly answer the following question:\nQ: {r['question']}\n", "answer": r["answers"][0],
             "paraphrased_answer": list(r["answers"])}
            for r in rows("factuality", "question", "answers")
        ],
        "fluency": [{"question": f"Instruction: {r['instruction']}\n", "answer": "-"} for r in rows("fluency", "instruction")],
    }  # fmt: skip


def _general(row: Row, number: int) -> Row:
    """A multiple-choice question after examples. The format of questions asks for the answer."""
    where = f"utility_general, row {number}"
    examples = [lettered(e, f"{where}, an example", "Question: ") for e in row.get("examples", ())]
    shown = "".join(f"{e['prompt']}{e['completion']}\n\n" for e in examples)
    header = f"The following are multiple choice questions (with answers) about {str(row.get('task', 'many subjects')).replace('_', ' ')}."
    own = lettered(row, where, "Question: ")
    prompt = f"{header}\n\n{shown}Please follow the examples and answer the question.\n{own['prompt'].removesuffix(chr(10) + 'Answer:')}"
    return {"question": prompt, "answer": own["completion"].strip(), "choices": [*LETTERS[: len(own["choices"])]]}


def _reasoning(row: Row) -> str:
    instruction = "Following the examples, answer the question, and end with 'so the answer is'."
    return f"{str(row.get('cot', '')).strip()}\n\n{instruction}\nQ: {row['question']}"


def _truthful(row: Row) -> Row:
    """A question with one best true answer among false ones, and all true and false answers."""
    best, every = row["mc1_targets"], row["mc2_targets"]
    split = {v: [c for c, label in zip(every["choices"], every["labels"], strict=True) if label == v] for v in (1, 0)}
    true = [c for c, label in zip(best["choices"], best["labels"], strict=True) if label == 1][:1]
    false = [c for c, label in zip(best["choices"], best["labels"], strict=True) if label != 1]
    return {
        "question": f"{TRUTHS}Q: {row['question']}",
        "answer": true[0],
        "choices": [*true, *false],
        "paraphrased_answer": split[1],
        "perturbed_answer": split[0],
    }
