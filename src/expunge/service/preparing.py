"""What an audit of one's own rows lacks, written by a model and checked by rules: paraphrases, wrong answers, neighbours, unseen rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.engine.writers import Writer, asking, first_json
from expunge.evaluation.distinctive import holds, normalized, numbers, telling
from expunge.functional.brief import brief
from expunge.io.data import write_jsonl
from expunge.io.models import Source
from expunge.io.requested import ColumnMap, Conditions, requested_records
from expunge.service.blind import BlindTest, blind_test

KINDS = ("paraphrase", "perturbed", "neighbours", "holdout")
QUESTIONS, ANSWERS = ("question", "prompt"), ("answer", "completion")
SHORTER, LONGER = 0.5, 2.0  # of the original's length: 99 % of TOFU's paraphrases lie between
TRIES = 3
LIMIT = 256  # tokens of an answer
TEMPERATURE = 0.7  # more with each try
SYSTEM = "You rewrite questions and answers. Reply with the text alone: no introduction, no quotation marks, no comment."
PROMPTS = {
    "question": "Say this question in other words. Keep every name, number and date as it is.\n\n{text}",
    "answer": "Say this answer to the question {question!r} in other words. Keep every name, number and date as it is.\n\n{text}",
    "perturbed": (
        "Question: {question}\nAnswer: {answer}\n\nWrite {count} wrong answers to this question. Each has the form and the length of the "
        "answer above and changes the fact that was asked for. Reply with a JSON list of {count} texts."
    ),
    "neighbours": (
        "Question: {question}\nAnswer: {answer}\n\nWrite a question and its true answer on a closely related subject that is NOT about the "
        'same person or thing. Reply with JSON: {{"question": ..., "answer": ...}}'
    ),
    "holdout": (
        "Question: {question}\nAnswer: {answer}\n\nWrite a question and an answer of exactly this kind, style and length about another, "
        'invented person or thing. Reply with JSON: {{"question": ..., "answer": ...}}'
    ),
}


@brief("writer")
@dataclass
class Prepared:
    """What was made.

    Args:
        writer: who wrote, without secrets.
        forget: the rows, with the columns `paraphrased_question`, `paraphrased_answer` and `perturbed_answer` where they passed the checks.
        neighbours, holdout: new rows; the holdout is empty where the blind test can tell it from the rows to forget.
        yields: by kind, how many texts were asked for and how many passed.
        blind: the test of the holdout; None where none was made.
        notes: what to know.
    """

    writer: Mapping[str, Any]
    forget: list[dict[str, Any]]
    neighbours: list[dict[str, Any]] = field(default_factory=list)
    holdout: list[dict[str, Any]] = field(default_factory=list)
    yields: dict[str, tuple[int, int]] = field(default_factory=dict)
    blind: BlindTest | None = None
    notes: list[str] = field(default_factory=list)

    def provenance(self) -> dict[str, Any]:
        """How it was made, without a row: writer, prompts, checks, yields."""
        return {
            "writer": dict(self.writer),
            "prompts": {"system": SYSTEM, **PROMPTS},
            "checks": {"length": [SHORTER, LONGER], "tries": TRIES, "names_and_numbers": "kept by paraphrases, changed by wrong answers"},
            "yields": {kind: {"asked": asked, "passed": passed} for kind, (asked, passed) in self.yields.items()},
            "blind_test": vars(self.blind) if self.blind else None,
            "notes": self.notes,
        }

    def samples(self, count: int) -> list[tuple[str, str]]:
        """The first texts of each kind, by column or set, to be looked at before they are used."""
        columns = ("paraphrased_question", "paraphrased_answer", "perturbed_answer")
        by_column = {c: [row[c] if isinstance(row[c], str) else " | ".join(row[c]) for row in self.forget if c in row] for c in columns}
        by_set = {n: [f"{r['question']} {r['answer']}" for r in getattr(self, n)] for n in ("neighbours", "holdout")}
        return [(name, text) for name, texts in {**by_column, **by_set}.items() for text in texts[:count]]

    def write(self, folder: str | Path) -> list[Path]:
        """Write `forget.jsonl`, `neighbours.jsonl`, `holdout.jsonl` (those that hold rows) and `provenance.json` into a new folder.

        Raises:
            UserError: for a folder that holds files.
        """
        target = Path(folder).expanduser()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"{target} exists and is not empty: give a new folder")
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        sets = {name: rows for name in ("forget", "neighbours", "holdout") if (rows := getattr(self, name))}
        for name, rows in sets.items():
            write_jsonl(target / f"{name}.jsonl", rows)
        (target / "provenance.json").write_text(json.dumps(self.provenance(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return [*(target / f"{name}.jsonl" for name in sets), target / "provenance.json"]


def prepare(
    rows: Source,
    writer: str | Writer,
    make: Sequence[str] = ("paraphrase", "perturbed"),
    *,
    where: Conditions = (),
    map: ColumnMap = (),
    send_rows_to: str = "",
    wrong_answers: int = 5,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Prepared:
    """Make what an audit of these rows lacks. Every text is written by a model and checked by rules; what fails is left out and counted.

    Args:
        rows: with a question and an answer each; `where` and `map` as for `unlearn`.
        writer: a model in a folder or on the hub, which runs here, or the address of an endpoint, http://HOST/v1#MODEL.
        make: paraphrase, perturbed, neighbours, holdout.
        send_rows_to: the host of the endpoint, as a promise that the rows may go there.
        wrong_answers: for each row.
        progress: receives texts done, texts in all, and the activity.

    Raises:
        UserError: for rows without question and answer, unknown kinds, and an endpoint to which the rows were not said to go.
    """
    if unknown := [kind for kind in make if kind not in KINDS]:
        raise UserError(f"nothing called {unknown[0]!r} can be made{did_you_mean(unknown[0], KINDS)}; there are {', '.join(KINDS)}")
    if not make:
        raise UserError(f"say what to make: {', '.join(KINDS)}")
    known = requested_records(rows, "forget", where, map)
    pairs = [_pair(row, f"{known.source}, row {number}") for row, number in zip(known, known.numbers, strict=True)]
    author = writer_for(writer, send_rows_to)
    result = Prepared(author.about(), [dict(row) for row in known])
    for done, kind in enumerate(make):
        progress(done, len(make), f"writing {kind}")
        if kind == "paraphrase":
            _paraphrases(author, pairs, result)
        elif kind == "perturbed":
            _perturbed(author, pairs, result, wrong_answers)
        else:
            _new_rows(author, pairs, result, kind)
    return result


def writer_for(writer: str | Writer, send_rows_to: str) -> Writer:
    """The writer that a user names; its answers are not kept anywhere, since they repeat rows.

    Raises:
        UserError: for an endpoint whose host is not that to which the rows may go.
    """
    if not isinstance(writer, str):
        return writer
    if writer.startswith(("http://", "https://")):
        from expunge.engine.endpoint import Endpoint

        host = urlsplit(writer).hostname or ""
        if host != send_rows_to:
            raise UserError(f"the rows would be sent to {host}: allow it with --send-rows-to {host}, or name a model that runs here")
        url, _, model = writer.partition("#")
        return Endpoint(url, model)
    if send_rows_to:
        raise UserError("--send-rows-to names the host of an endpoint, and this model runs here: leave it out")
    from expunge.modalities.text.local_writer import LocalWriter

    return LocalWriter(writer)


def _pair(row: Mapping[str, Any], place: str) -> tuple[str, str]:
    question, answer = (next((row[n] for n in names if isinstance(row.get(n), str)), "") for names in (QUESTIONS, ANSWERS))
    if not question.strip() or not answer.strip():
        raise UserError(
            f"{place}: a question and an answer are needed, in the columns {QUESTIONS[0]!r} and {ANSWERS[0]!r}; --map renames columns"
        )
    return question, answer


def _written(author: Writer, prompts: Sequence[str], read: Callable[[int, str], Any]) -> list[Any]:
    """What the writer gave for each prompt, None where no try passed. read: from the prompt's place and a text to what passes, or None."""
    results: list[Any] = [None] * len(prompts)
    for attempt in range(TRIES):
        missing = [i for i, result in enumerate(results) if result is None]
        texts = author.write([asking(SYSTEM, prompts[i]) for i in missing], LIMIT, attempt * TEMPERATURE) if missing else []
        for i, text in zip(missing, texts, strict=True):
            results[i] = read(i, text.strip())
    return results


def _paraphrases(author: Writer, pairs: Sequence[tuple[str, str]], result: Prepared) -> None:
    prompts = [[PROMPTS["question"].format(text=q) for q, _ in pairs], [PROMPTS["answer"].format(question=q, text=a) for q, a in pairs]]
    passed = 0
    for k, column in enumerate(("paraphrased_question", "paraphrased_answer")):
        texts = _written(author, prompts[k], lambda i, text, k=k: text if is_paraphrase(pairs[i][k], text) else None)
        for row, text in zip(result.forget, texts, strict=True):
            if text is not None:
                row[column] = text
                passed += 1
    result.yields["paraphrase"] = (2 * len(pairs), passed)


def _perturbed(author: Writer, pairs: Sequence[tuple[str, str]], result: Prepared, count: int) -> None:
    if count < 1:
        raise UserError("at least one wrong answer is made for each row")

    def read(i: int, text: str) -> list[str] | None:
        listed = first_json(text)
        texts = [t.strip() for t in listed if isinstance(t, str)] if isinstance(listed, list) else []
        good = list({normalized(t): t for t in texts if is_wrong_answer(*pairs[i], t)}.values())
        return good[:count] or None

    prompts = [PROMPTS["perturbed"].format(question=q, answer=a, count=count) for q, a in pairs]
    lists = _written(author, prompts, read)
    for row, texts in zip(result.forget, lists, strict=True):
        if texts:
            row["perturbed_answer"] = texts
    result.yields["perturbed"] = (count * len(pairs), sum(len(texts or ()) for texts in lists))


def _new_rows(author: Writer, pairs: Sequence[tuple[str, str]], result: Prepared, kind: str) -> None:
    own = {
        part.key
        for q, a in pairs
        for text in (q, a)
        for part in telling(text, "")
        if part.kind in ("name", "number", "e-mail") and part.proof
    }
    taken = set[str]()

    def read(i: int, text: str) -> dict[str, Any] | None:
        row = first_json(text)
        if not isinstance(row, dict) or not all(isinstance(row.get(n), str) and row[n].strip() for n in ("question", "answer")):
            return None
        question, answer = row["question"].strip(), row["answer"].strip()
        both = normalized(f"{question} {answer}")
        if any(holds(both, key) for key in own) or both in taken or not all(map(similar_length, pairs[i], (question, answer))):
            return None
        taken.add(both)
        return {"question": question, "answer": answer}

    rows = [row for row in _written(author, [PROMPTS[kind].format(question=q, answer=a) for q, a in pairs], read) if row]
    result.yields[kind] = (len(pairs), len(rows))
    if kind == "neighbours":
        result.neighbours = rows
        result.notes.append("answers of neighbours are a model's word: look through them before they count as true")
        return
    result.blind = blind_test([f"{q} {a}" for q, a in pairs], [f"{r['question']} {r['answer']}" for r in rows])
    if result.blind.passed:
        result.holdout = rows
    else:
        result.notes.append(f"the holdout is left out: {result.blind.why}; without it no membership inference is made")


def similar_length(original: str, text: str) -> bool:
    """Whether a text has between half and twice the length of the original."""
    return SHORTER * len(original) <= len(text) <= LONGER * len(original)


def keeps_facts(original: str, text: str) -> bool:
    """Whether every name, number and address of the original stands in the text."""
    both, own = normalized(text), numbers(text)
    parts = [p for p in telling(original, "") if p.kind in ("name", "number", "e-mail")]
    return all(
        p.key in own if p.kind == "number" else p.text.casefold() in text.casefold() if p.kind == "e-mail" else holds(both, p.key)
        for p in parts
    )


def is_paraphrase(original: str, text: str) -> bool:
    """Whether a text may be a paraphrase: other words, the same names and numbers, a similar length. Its meaning is not checked."""
    return normalized(text) != normalized(original) and similar_length(original, text) and keeps_facts(original, text)


def is_wrong_answer(question: str, answer: str, text: str) -> bool:
    """Whether a text may be a wrong answer of the same form: it changes a name or number of the answer, where that has any."""
    facts = [p for p in telling(answer, question) if p.kind in ("name", "number", "e-mail")]
    return normalized(text) != normalized(answer) and similar_length(answer, text) and not (facts and keeps_facts(answer, text))
