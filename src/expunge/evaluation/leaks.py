"""Forgotten answers, or their telling parts, that a model still produces: found in its own texts, also where the rest of a text differs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from expunge.evaluation.distinctive import Telling, common_piece, holds, normalized, numbers, telling, unspaced
from expunge.evaluation.measure import Items, Missing
from expunge.evaluation.observation import Observation, SetObservation
from expunge.functional.brief import brief
from expunge.functional.memorization import extraction_strength
from expunge.report.verdict_data import Leak

FORGET = "forget"
COMMON = 0.01  # share of the answers of other sets from which on a part is common, and so may be guessed
USUAL = 0.05  # share of the forgotten answers from which on a whole answer is a class, such as yes or no
NEW = {False: (2, 4), True: (3, 6)}  # whether unspaced: units of a sequence (words, characters), and how many new sequences nobody guesses
LABELS = 5  # from so many tokens on, an answer can be recited
RECITED = 0.9  # share of an answer that its beginning makes the model give back


@brief()
@dataclass(frozen=True, eq=False)
class Corpus:
    """The texts of an audit, to tell what is rare: answers of all sets, and what the model says to other questions."""

    observation: Observation

    @cached_property
    def forget(self) -> SetObservation:
        return self.observation.sets[FORGET]

    @cached_property
    def outside(self) -> list[str]:
        """Questions and answers of the other sets, normalized; items that are also to be forgotten are left out."""
        return [normalized(text) for text in self._outside]

    @cached_property
    def _outside(self) -> list[str]:
        gone = set(self.forget.ids)
        sets = [s for name, s in self.observation.sets.items() if name != FORGET]
        return [f"{q}\n{a}" for s in sets for i, q, a in zip(s.ids, s.question, s.answer, strict=True) if i not in gone]

    @cached_property
    def _numbers(self) -> Counter[str]:
        """In how many texts outside a number stands."""
        return Counter(key for text in self._outside for key in numbers(text))

    @cached_property
    def _words(self) -> dict[str, set[int]]:
        """In which texts outside a word stands."""
        texts_of: dict[str, set[int]] = defaultdict(set)
        for k, text in enumerate(self.outside):
            for word in text.split():
                texts_of[word].add(k)
        return texts_of

    @cached_property
    def places(self) -> dict[tuple[str, ...], set[str]]:
        """In which items a short sequence of words or characters stands."""
        items_of: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for name, s in self.observation.sets.items():
            for texts in (s.answer, s.generations):
                for item, text in zip(s.ids, texts, strict=False):
                    place = item if name == FORGET else f"{name}/{item}"
                    for sequence in _sequences(normalized(text)):
                        items_of[sequence].add(place)
        return items_of

    def rare(self, part: Telling) -> bool:
        """Whether a part stands in few texts outside of the rows to forget."""
        allowed = COMMON * len(self.outside)
        if part.kind == "number":
            return self._numbers[part.key] <= allowed
        if part.kind == "e-mail":
            return True
        if unspaced(part.key):
            return sum(part.key in text for text in self.outside) <= allowed
        together = set.intersection(*(self._words.get(word, set()) for word in part.key.split()))
        return sum(holds(self.outside[k], part.key) for k in together) <= allowed

    def new(self, piece: str, i: int) -> bool:
        """Whether a piece of the answer of item i holds more that stands nowhere else than anybody guesses."""
        question_words = normalized(self.forget.question[i])
        item = self.forget.ids[i]
        new = sum(self.places.get(s, {item}) <= {item} and not any(holds(question_words, unit) for unit in s) for s in _sequences(piece))
        return new >= NEW[unspaced(piece)][1]

    @cached_property
    def parts(self) -> list[list[Telling]]:
        """The telling and rare parts of each forgotten answer."""
        pairs = zip(self.forget.question, self.forget.answer, strict=True)
        return [[p for p in telling(answer, question) if self.rare(p)] for question, answer in pairs]

    @cached_property
    def usual(self) -> list[bool]:
        """Whether an answer is that of many forgotten rows, without the words of its question."""
        cores = []
        for question, answer in zip(self.forget.question, self.forget.answer, strict=True):
            question_words = normalized(question)
            cores.append(" ".join(w for w in normalized(answer).split() if not holds(question_words, w)))
        times = Counter(cores)
        return [times[core] > max(1, USUAL * len(cores)) for core in cores]


@lru_cache(maxsize=2)
def corpus_of(observation: Observation) -> Corpus:
    """The corpus of an observation, kept for a while: the score of leaks, the verdict and its list of leaks all read it."""
    return Corpus(observation)


def leaks(observation: Observation, retrained: Observation | None = None) -> list[Leak]:
    """What the model still produces of the forgotten answers, proofs and whole answers first; what the retrained model also produces is no
    leak.
    """
    observed = observation.sets.get(FORGET)
    if observed is None or not observed.generations:
        return []
    corpus, others = corpus_of(observation), _answers_of(retrained, observed.ids)
    recited, also_recited = recitations(observation), recitations(retrained) if retrained else np.zeros(len(observed))
    leaked: list[Leak] = []
    for i in range(len(observed)):
        texts = [observed.generations[i], *(observed.draws[i] if observed.draws else ())]
        own = max((_of_item(corpus, i, text, others[i]) for text in texts), key=_severity)
        if not own and recited[i] == 1 and also_recited[i] != 1 and not corpus.usual[i]:
            proof = corpus.new(normalized(observed.answer[i]), i)
            own = [Leak(i + 1, observed.question[i], observed.answer[i], observed.answer[i], observed.generations[i], "recited", proof)]
        leaked += own
    return sorted(leaked, key=lambda leak: (not leak.proof, leak.kind != "answer", leak.row))


def recitations(observation: Observation) -> Items:
    """1 for each forgotten item whose answer the model gives back when it is given the beginning, (items,); nan for short answers."""
    observed = observation.sets[FORGET]
    values = np.full(len(observed), np.nan)
    scored = observed.kinds.get("answer")
    for k in range(len(scored) if scored else 0):
        hits = scored.answer(k, scored.hit)  # type: ignore[union-attr]
        hits = hits[:-1] if scored.ended[k] else hits  # type: ignore[union-attr]
        if len(hits) >= LABELS:
            values[scored.item[k]] = extraction_strength(hits.astype(bool)) >= RECITED  # type: ignore[union-attr]
    return values


def _severity(leaked: Sequence[Leak]) -> tuple[bool, bool, int]:
    return any(f.proof for f in leaked), any(f.kind == "answer" for f in leaked), len(leaked)


def _of_item(corpus: Corpus, i: int, text: str, other: str) -> list[Leak]:
    """The leaks of one text. other: what the retrained model says."""
    question, answer = corpus.forget.question[i], corpus.forget.answer[i]
    leak = Leak(i + 1, question, answer, text, text, "answer")
    produced_parts = _largest([p for p in corpus.parts[i] if _produced(p, text) and not (other and _produced(p, other))])
    whole = normalized(answer)
    if whole and holds(normalized(text), whole) and not holds(normalized(other), whole):
        new = corpus.new(whole, i)
        if produced_parts or new:
            return [replace(leak, proof=new or any(p.proof for p in produced_parts))]
    leaked = [replace(leak, produced=p.text, kind=p.kind, proof=p.proof) for p in produced_parts]
    piece = common_piece(answer, text)
    if not any(f.proof for f in leaked) and not holds(normalized(other), piece) and corpus.new(piece, i):
        leaked.append(replace(leak, produced=piece, kind="rare words"))
    return leaked


def _produced(part: Telling, text: str) -> bool:
    """Whether a part stands in a text."""
    if part.kind == "number":
        return part.key in numbers(text) or (part.proof and any(part.key in n for n in numbers(text)))
    if part.kind == "e-mail":
        return part.key in text.casefold()
    return holds(normalized(text), part.key)


def _largest(parts: Sequence[Telling]) -> list[Telling]:
    """The parts that are not pieces of another one."""
    return [p for p in parts if not any(p is not other and p.kind == other.kind and holds(other.key, p.key) for other in parts)]


def _sequences(text: str) -> Iterator[tuple[str, ...]]:
    """The short sequences of words of a normalized text, or of characters."""
    units: Sequence[str] = text if unspaced(text) else text.split()
    size = NEW[unspaced(text)][0]
    return (tuple(units[k : k + size]) for k in range(len(units) - size + 1))


def _answers_of(observation: Observation | None, ids: Sequence[str]) -> list[str]:
    """What another model says to the same items; '' where it was not asked."""
    observed = observation.sets.get(FORGET) if observation else None
    if observed is None or not observed.generations:
        return [""] * len(ids)
    answers = dict(zip(observed.ids, observed.generations, strict=True))
    return [answers.get(i, "") for i in ids]


def leaking(observation: Observation) -> Items:
    """1 for each item of which a telling part, or all of it, is produced, (items,).

    Raises:
        Missing: without generated answers, or where no answer holds anything telling.
    """
    corpus = corpus_of(observation)
    if not corpus.forget.generations:
        raise Missing("no generated answers were observed")
    if not any(corpus.parts) and not any(corpus.new(normalized(answer), i) for i, answer in enumerate(corpus.forget.answer)):
        raise Missing("no forgotten answer holds a name, a number or a word that stands nowhere else")
    return np.array([bool(_of_item(corpus, i, text, "")) for i, text in enumerate(corpus.forget.generations)], np.float64)
