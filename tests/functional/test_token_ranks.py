"""Ranks of tokens by hand: the likeliest is first, equal ones share the worst rank, and what stands beside nothing is left out."""

import numpy as np

from expunge.functional.token_ranks import ranks_of

STEPS = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.4, 0.2]]))


def test_ranks_by_hand() -> None:
    assert ranks_of(STEPS, [0, 0, 1]).tolist() == [1, 3, 2]
    assert ranks_of(STEPS, [2]).tolist() == [3]
    assert ranks_of(STEPS[:1], [1, 0, 0]).tolist() == [2]
