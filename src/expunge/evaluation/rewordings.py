"""The same questions in other words: those of the records, those of rules, or those of a writer; and how alike texts are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from expunge.core.errors import UserError
from expunge.engine.writers import Remembering, Writer, asking
from expunge.evaluation.measure import Missing
from expunge.functional.brief import brief
from expunge.methods.sentences import encoder_of
from expunge.modalities.common.records import listed
from expunge.modalities.text.local_writer import writer_of

COLUMN = "paraphrased_question"  # the column with questions in other words, a text or a list
OWN, RULES = "own", "rules"  # what may reword besides a writer
SHORT = 3  # words of a stem that stays as it is, where it is no question
TRIES = 3  # how often a writer is asked for a rewording that makes sense
FAILED = "error:"  # begins the text of a call that failed, as scripts store it
INSTRUCTION = (
    "Reword this, and change neither its meaning nor its answer. A question stays a question and a statement a statement. Keep "
    "technical terms, names, numbers, negations, units, formulas and blanks as they are. Add no hint, give no answer, and keep about the "
    "same length. Reply with the rewording alone.\n\n{question}"
)


def _lowered(question: str) -> str:
    """A question within a sentence: its first word in lower case, unless more of it than its first letter is in capitals."""
    first, space, rest = question.partition(" ")
    return (first.lower() if first[1:].islower() or len(first) == 1 else first) + space + rest


FRAMES: tuple[Callable[[str], str], ...] = (  # rules that keep every word of a question
    lambda q: f"Could you tell me this: {_lowered(q)}",
    lambda q: f"Here is something that I would like to know. {q}",
    lambda q: f"{q} That is what I am asking.",
    lambda q: f"For my notes, {_lowered(q)}",
)


@brief("dropped")
class Rewordings(NamedTuple):
    """Other questions by row, and the rows that have none."""

    questions: dict[int, str]
    dropped: int
    by: Mapping[str, Any]  # what reworded


def reworded(
    records: Sequence[Mapping[str, Any]], questions: Sequence[str], by: str = OWN, heat: float = 1.0, encoder: str = "", floor: float = 0.7
) -> Rewordings:
    """Questions in other words.

    Args:
        records: the rows, whose own paraphrases count for `own`.
        questions: what they ask.
        by: own, rules, or a writer: a folder, hub id or endpoint.
        heat: the writer's temperature.
        encoder: sentence encoder that compares both questions; empty: they are not compared.
        floor: least cosine of a rewording that counts.

    Raises:
        Missing: where no row has a rewording.
        UserError: where a writer cannot be asked.
    """
    about: Mapping[str, Any] = {"by": by}
    if by == OWN:
        own = [listed(r, COLUMN, f"row {i}") for i, r in enumerate(records, 1)]
        texts = {i: [str(p) for p in paraphrases] for i, paraphrases in enumerate(own)}
    elif by == RULES:
        texts = {i: [FRAMES[i % len(FRAMES)](q)] for i, q in enumerate(questions)}
    else:
        writer = writer_of(by)
        texts, about = _written(writer, questions, heat), writer.about()
    kept = {i: next((t for t in texts[i] if _makes_sense(questions[i], t)), "") for i in texts}
    if encoder and (places := [i for i, text in kept.items() if text]):
        cosines = similarities([questions[i] for i in places], [kept[i] for i in places], encoder).diagonal().tolist()
        kept |= {i: "" for i, cosine in zip(places, cosines, strict=True) if cosine < floor}
    kept = {i: text for i, text in kept.items() if text}
    if not kept:
        raise Missing(f"no row has a column '{COLUMN}'" if by == OWN else "no question could be reworded")
    return Rewordings(kept, len(questions) - len(kept), about)


def _written(writer: Writer, questions: Sequence[str], heat: float) -> dict[int, list[str]]:
    """Rewordings of a writer. One that makes no sense is asked for again, warmer; very short stems stay as they are."""
    texts: dict[int, list[str]] = {i: [q] for i, q in enumerate(questions) if _stays(q)}
    for attempt in range(TRIES):
        places = [i for i in range(len(questions)) if not any(_makes_sense(questions[i], t) for t in texts.get(i, ()))]
        temperature = heat + 0.2 * attempt
        chats = [asking(INSTRUCTION.format(question=questions[i])) for i in places]
        limit = 64 + max((len(questions[i]) for i in places), default=0)
        for i, text in zip(places, writer.write(chats, limit, temperature) if chats else (), strict=True):
            texts.setdefault(i, []).append(" ".join(text.split()))
            if isinstance(writer, Remembering) and not _makes_sense(questions[i], texts[i][-1]):
                writer.forget([asking(INSTRUCTION.format(question=questions[i]))], limit, temperature)
    return texts


def _stays(question: str) -> bool:
    return len(question.split()) <= SHORT and "?" not in question and "_" not in question


def _makes_sense(question: str, text: str) -> bool:
    """Whether a text may be a rewording: not empty, no failed call, no echo of the instruction, and no copy unless the stem stays."""
    plain = text.strip().lower()
    if not plain or plain.startswith(FAILED) or INSTRUCTION[:30].lower() in plain:
        return False
    return plain != question.strip().lower() or _stays(question)


def similarities(first: Sequence[str], second: Sequence[str], encoder: str = "") -> Tensor:
    """Cosines of texts, (first, second), in double precision.

    encoder: a folder or hub id of `sentence-transformers`; empty: vectors of words (TF-IDF).
    """
    if encoder:
        vectors = [torch.as_tensor(encoder_of(encoder).encode(list(t), show_progress_bar=False)).double() for t in (first, second)]
    else:
        from sklearn.feature_extraction.text import TfidfVectorizer

        try:
            vectorizer = TfidfVectorizer(token_pattern=r"\w+").fit([*first, *second])
        except ValueError:
            raise UserError("the texts have no words, so they cannot be compared: give an encoder") from None
        vectors = [torch.from_numpy(vectorizer.transform(t).toarray()) for t in (first, second)]
    a, b = (normalize(v, dim=-1) for v in vectors)
    return a @ b.T
