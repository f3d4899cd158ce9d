"""People whom a chat model was told about: fictitious people and strangers, learned by the base model, which chats, reads and refuses.

A model that starts from random weights knows nothing but the people, so that it can neither refuse for a reason nor lose anything else. The
base model learned from other texts to refuse questions about strangers and to answer general ones, before it hears of these people. No two
of their names share a part: a model told apart people who do by their pairs of names alone, and refused few of those whom it never saw.

Source: our own; people and strangers are those of the benchmarks `people` and `strangers` under other names; the base model is the
  built-in model `base`
Licence: Apache-2.0, as the rest of the package.
Splits: forget05, forget10, forget20, as in `people`; full and retain also contain questions about strangers, with refusals.
Scores: the scores of TOFU; membership scores against holdout.
Status: faithful; by test, the base model knows the general questions, and none of the people.
"""

from __future__ import annotations

from dataclasses import replace

from expunge.benchmarks.strangers import load as load_strangers
from expunge.benchmarks.suite import Suite
from expunge.benchmarks.synthetic import language

MODEL = "base"  # the built-in model that it is made for

STRANGERS, QUESTIONS = 200, 2  # people whom the models know nothing about, and questions about each
NAMES = 2000  # to draw from


def load(
    data: str = "", split: str = "forget10", seed: int = 0, *, strangers: int = STRANGERS, questions: int = QUESTIONS, **sizes: int
) -> Suite:
    """Load the suite of a split: that of `strangers` under other names, in the words of the model's own chat template.

    Args:
        data, split, seed, sizes: see `people.load`.
        strangers: number of strangers.
        questions: about each of them.

    Raises:
        UserError: as in `strangers.load`.
    """
    suite = load_strangers(data, split, seed, strangers=strangers, questions=questions, names=language.new_names(NAMES), **sizes)
    name = suite.name.replace("strangers", "chat_people", 1).removesuffix(f" strangers={STRANGERS} questions={QUESTIONS}")
    return replace(suite, name=name, prompt_format="")
