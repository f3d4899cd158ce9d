"""Words of the field, explained where they stand: the sentences of the glossary, and marks that go with the first use of each word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

TERMS = {
    "retrained model": "A model trained from the same start without the rows to forget: what unlearning tries to reach.",
    "original": "The model before unlearning.",
    "row": "One training example.",
    "unseen row": "A row like those to forget that was never in the training data. A set of them is called a holdout.",
    "margin": "The difference from the retrained model, in units of the score, that is too small to matter.",
    "deciding check": "A measured question that must be answered well before a verdict says “removed”. Other checks are for information.",
    "confidence": "How often a statement that was made in this way is true: with 95 % confidence, in 95 of 100 audits.",
    "guess": "What a model can say without having seen the row: a common name, a year, a plain yes.",
    "attack": "A deliberate attempt to bring back what was forgotten.",
    "relearning": "An attack: fine-tune the unlearned model on some of the rows, and see whether the others come back.",
    "membership": "Whether a row was in the training data. To tell it from the behavior of the model is membership inference.",
    "guard": "Something around a model that stops answers at inference time. The weights are untouched, so this is no removal.",
    "weights": "The numbers inside a model that training sets.",
    "checkpoint": "A copy of the model that was stored during training.",
    "adapter": "A small set of weights that is trained beside the model and stored apart from it. It can be merged into the model.",
    "quantized": "Stored with weights of few bits, which makes a model smaller.",
    "distilled": "Trained to imitate another model.",
    "fine-tuned": "Trained further on other rows.",
    "utility": "The ability on everything that was not to be forgotten.",
    "prompt format": "The words and marks around a question as the model reads it.",
}
FORMS = {  # what else of a text is the term; "row" stands in nearly every sentence and is explained once
    "retrained model": r"retrained models?",
    "unseen row": r"unseen rows?|holdout",
    "quantized": r"quanti[sz]ed",
    "guess": r"guess(?:es|ed)?",
    "utility": r"utility",
    "membership": r"membership(?: inference)?",
    "weights": r"weights",
    "relearning": r"relearning",
}


@dataclass(frozen=True)
class Glossed:
    """A text with marks at the words that it explains.

    Args:
        html: the escaped text; the first use of each word carries its explanation.
        terms: the words with their explanations, in the order of the text.
    """

    html: Markup
    terms: tuple[tuple[str, str], ...] = ()


class Glossary:
    """Explains each word once, where it stands first."""

    def __init__(self, more: Mapping[str, str] | None = None) -> None:
        """Args: more: words of this page alone with their explanations; where a sentence explains one in parentheses, that is enough."""
        self._sentences = {**TERMS, **(more or {})}
        forms = {term: FORMS.get(term, f"{re.escape(term)}s?") for term in TERMS}
        forms |= {term: rf"{re.escape(term)}(?! \()" for term in more or {}}
        longest_first = sorted(forms.items(), key=lambda item: len(item[0]), reverse=True)
        self._open = {term: re.compile(rf"(?<![\w-])(?:{form})(?![\w-])", re.IGNORECASE) for term, form in longest_first}

    def gloss(self, text: str) -> Glossed:
        """Escape a text, and explain the words in it that were not explained before."""
        html, terms, at = Markup(), [], 0
        while matches := [(match, term) for term, pattern in self._open.items() if (match := pattern.search(text, at))]:
            match, term = min(matches, key=lambda item: item[0].start())  # of several at one place, the longest term
            sentence = self._sentences[term]
            html += text[at : match.start()] + Markup('<abbr title="{}">{}</abbr>').format(sentence, match[0])
            terms.append((term, sentence))
            del self._open[term]
            at = match.end()
        return Glossed(html + text[at:], tuple(terms))
