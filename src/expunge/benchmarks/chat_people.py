"""People whom a chat model was told about: the fictitious people and strangers, learned by the base model, which chats, reads and refuses.

A model that starts from random weights knows nothing but the people, so that it can neither refuse for a reason nor lose anything else. The
base model learned from other texts to refuse questions about strangers and to answer general ones, before it hears of these people.

Source: our own; people and strangers are those of the benchmark `strangers`, the base model is the built-in model `base`
Licence: Apache-2.0, as the rest of the package.
Splits: forget05, forget10, forget20, as in `people`; full and retain also contain questions about eight strangers, with refusals.
Scores: the scores of TOFU; membership scores against holdout.
Status: faithful; by test, the base model knows the general questions, and none of the people.
"""

from __future__ import annotations

from dataclasses import replace

from expunge.benchmarks import strangers
from expunge.benchmarks.suite import Suite

MODEL = "base"  # the built-in model that it is made for


def load(data: str = "", split: str = "forget10", seed: int = 0, *, strangers_known: int = strangers.STRANGERS, **sizes: int) -> Suite:
    """Load the suite of a split: the suite of `strangers` in the words of the model's own chat template, without the general questions
    among the training rows, which the model knows.

    Args:
        data, split, seed, sizes: see `people.load`.
        strangers_known: number of strangers.

    Raises:
        UserError: as in `strangers.load`.
    """
    suite = strangers.load(data, split, seed, strangers=strangers_known, **sizes)
    general = {row["question"] for name in ("real_authors", "world_facts") for row in suite.sets.get(name, ())}
    train = {name: [row for row in rows if row["question"] not in general] for name, rows in suite.train.items()}
    return replace(suite, name=suite.name.replace("strangers", "chat_people", 1), train=train, prompt_format="")
