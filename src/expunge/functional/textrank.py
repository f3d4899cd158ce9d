"""TextRank: the words of a text that hold it together, by PageRank on words that stand side by side.

Source: Mihalcea and Tarau 2004, TextRank: bringing order into texts (EMNLP)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

DAMPING = 0.85
ROUNDS = 100


def textrank(words: Sequence[str], candidates: Collection[str], window: int = 2) -> dict[str, float]:
    """The rank of each candidate word of a text; ranks add up to the number of ranked words.

    Args:
        words: the text.
        candidates: words that may be keywords.
        window: two candidates are linked where they stand within so many words of each other.
    """
    names = [w for w in dict.fromkeys(words) if w in candidates]
    place = {w: i for i, w in enumerate(names)}
    links = np.zeros((len(names), len(names)))
    for i, word in enumerate(words):
        for other in words[i + 1 : i + window]:
            if word != other and word in place and other in place:
                links[place[word], place[other]] = links[place[other], place[word]] = 1
    degree, rank = links.sum(1), np.ones(len(names))
    for _ in range(ROUNDS):
        rank = (1 - DAMPING) + DAMPING * links @ np.divide(rank, degree, out=np.zeros_like(rank), where=degree > 0)
    return dict(zip(names, rank.tolist(), strict=True))
