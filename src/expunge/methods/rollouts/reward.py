"""What a reward is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from expunge.core.parts import Part
from expunge.core.rows import Rows
from expunge.core.view import View


class Reward(Part):
    """A rule that says what a sampled answer is worth. It may keep a state, as every part."""

    @abstractmethod
    def score(self, rows: Rows, texts: Sequence[str], view: View) -> list[float]:
        """The reward of each answer.

        Args:
            rows: the row that asked, for each answer.
            texts: the answers, without special tokens.
            view: what the reward may look at.
        """
