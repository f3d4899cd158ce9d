"""Forbidden sequences of token ids as a tree, which tells how far the end of a text has come in one of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Live = tuple[int, ...]  # the nodes that suffixes of a text have reached, in rising order


class ForbiddenTree:
    """Sequences of tokens that must not be completed.

    A text may have begun several sequences at once, so its place in the tree is a set of nodes: `()` at its start, and `advance` after each
    token.

    Args:
        sequences: token ids; empty sequences are left out.
    """

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        self.children: list[dict[int, int]] = [{}]
        self.depth, self.shortest = [0], [0]  # of each node: its tokens, and those of the shortest sequence through it
        for sequence in sequences:
            node = 0
            for token in sequence:
                if token not in self.children[node]:
                    self.children[node][token] = len(self.children)
                    self.children.append({})
                    self.depth.append(self.depth[node] + 1)
                    self.shortest.append(len(sequence))
                node = self.children[node][token]
                self.shortest[node] = min(self.shortest[node], len(sequence))

    def __len__(self) -> int:
        return len(self.children) - 1

    @property
    def first(self) -> frozenset[int]:
        """The first tokens of the sequences."""
        return frozenset(self.children[0])

    def advance(self, live: Live, token: int) -> Live:
        """The place after one more token."""
        return tuple(sorted({self.children[node][token] for node in (0, *live) if token in self.children[node]}))

    def ratio(self, live: Live) -> float:
        """The largest share of a sequence that a suffix of the text matches, 0 to 1."""
        return max((self.depth[node] / self.shortest[node] for node in live), default=0.0)

    def next_ratios(self, live: Live) -> dict[int, float]:
        """The ratio after each next token, by token; tokens that continue no sequence are left out."""
        tokens = {token for node in (0, *live) for token in self.children[node]}
        return {token: self.ratio(self.advance(live, token)) for token in tokens}
