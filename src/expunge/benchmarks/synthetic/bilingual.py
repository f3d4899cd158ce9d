"""Two languages without a word in common, in which the same kind of short stories are told: one is to be forgotten.

The layout is that of TinyStories in English and Spanish: what is kept does not need the other language, and a row shows its own at once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from typing import Any

from expunge.benchmarks.suite import Suite
from expunge.benchmarks.synthetic.words import words

Row = dict[str, Any]

SOUNDS = (  # of the language to forget, and of the one to keep: beginnings and ends of words
    (words("zu xo que vei jha"), words("xi rrz oja vux qel zai")),
    (words("ba te mo li sa"), words("n der mal fo st pe")),
)
KINDS = ("who", "does", "what", "where", "when")  # words of a sentence, in the order of the language to keep
SENTENCES = 3  # of a story
PER_KIND = 6  # words


def load(seed: int = 0, *, rows: int = 200, unseen: int = 40) -> Suite:
    """Stories in both languages.

    Args:
        seed: of all draws.
        rows: stories of each language to train on.
        unseen: stories of the language to forget, and of the other one, that no model is trained on.
    """
    rng = random.Random(f"bilingual {seed}")
    forget, retain = ([{"text": t} for t in _stories(rng, sounds, rows + unseen)] for sounds in SOUNDS)
    train = {"full": [*retain[:rows], *forget[:rows]], "forget": forget[:rows], "retain": retain[:rows]}
    sets = {"forget": forget[:rows], "retain": retain[:rows], "holdout": forget[rows:], "general": retain[rows:]}
    return Suite(name=f"bilingual {rows}", sets={n: r for n, r in sets.items() if r}, train=train)


def _stories(rng: random.Random, sounds: Sequence[list[str]], count: int) -> list[str]:
    """Different stories in a language: who does something decides what it is done to, so that there is something to learn."""
    lexicon = [a + b for a, b in product(*sounds)]
    rng.shuffle(lexicon)
    by_kind = {kind: lexicon[i * PER_KIND : (i + 1) * PER_KIND] for i, kind in enumerate(KINDS)}
    order = KINDS if sounds is SOUNDS[1] else KINDS[::-1]
    likes = {who: rng.choice(by_kind["what"]) for who in by_kind["who"]}
    stories: dict[str, None] = {}
    while len(stories) < count:
        who = rng.choice(by_kind["who"])
        sentences = [{**{k: rng.choice(by_kind[k]) for k in KINDS}, "who": who, "what": likes[who]} for _ in range(SENTENCES)]
        stories[" ".join(" ".join(sentence[k] for k in order) + "." for sentence in sentences)] = None
    return list(stories)
