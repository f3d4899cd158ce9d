"""Ranks of given tokens among all that a model could say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def ranks_of(log_probs: NDArray[Any], tokens: Sequence[int]) -> NDArray[np.int64]:
    """The rank of token j at step j, 1 for the likeliest one, (steps,); the worst rank where several are as likely.

    Args:
        log_probs: (steps, vocabulary).
        tokens: ids, as many as there are steps or more, or fewer; what stands beside nothing is left out.
    """
    steps = min(len(log_probs), len(tokens))
    own = log_probs[np.arange(steps), np.asarray(tokens[:steps], np.int64)]
    return np.asarray((log_probs[:steps] >= own[:, None]).sum(1), np.int64)
