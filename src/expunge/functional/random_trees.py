"""Decision trees whose random choices are functions of the place in the tree, so that a tree is a function of its rows and a seed.

Of the attributes and thresholds that a node may ask for, those with the smallest hashes are its sample. That sample is uniform, and while
rows leave it stays as it is as long as it can: what becomes impossible drops out, and the next smallest hash takes its place. So a tree
without some rows need not be grown again to be known; see `tree_removal`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from expunge.functional.brief import brief

Array = np.ndarray[Any, Any]
Criterion = Literal["gini", "entropy"]
STEP, FIRST, SECOND, LAST = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 2**64 - 1
THRESHOLD, ATTRIBUTE, RANGE = 1, 2, 3  # what a hash is for
ROOT = 1  # node h has the children 2h and 2h + 1


def key_of(*numbers: int) -> int:
    """A hash of whole numbers, 64 bits, as of the generator splitmix64."""
    x = 0
    for number in numbers:
        x = ((x ^ number) + STEP) & LAST
        x = ((x ^ (x >> 30)) * FIRST) & LAST
        x = ((x ^ (x >> 27)) * SECOND) & LAST
        x ^= x >> 31
    return x


def hashes(key: int, values: Array) -> Array:
    """Hashes of whole numbers under a key, (values,) uint64: `key_of` with one number more."""
    x = (values.astype(np.uint64) ^ np.uint64(key)) + np.uint64(STEP)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
    return np.asarray(x ^ (x >> np.uint64(31)))


def bits(values: Array) -> Array:
    """Numbers in float32 as whole numbers, for hashes."""
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


@dataclass(frozen=True)
class TreeGrowth:
    """How trees grow.

    Args:
        classes: how many there are.
        depth: of the deepest leaves.
        random_depth: nodes above this depth ask at random.
        attributes: how many a node samples; 0: the root of the number of inputs.
        thresholds: how many a node samples of each attribute.
        criterion: what the best of them makes least.
    """

    classes: int
    depth: int
    random_depth: int = 0
    attributes: int = 0
    thresholds: int = 25
    criterion: Criterion = "gini"

    def sampled(self, width: int) -> int:
        """How many attributes of so many inputs a node samples."""
        return min(self.attributes or max(1, math.isqrt(width)), width)


@brief("attribute", "at")
@dataclass(frozen=True)
class Candidates:
    """Sampled thresholds of an attribute at a node, by their hashes. A threshold is a value `at`; the next value is `above`.

    Counts of classes are (thresholds, classes): of the rows on the left, with the value `at`, and with the value `above`.
    """

    attribute: int
    at: Array
    above: Array
    left: Array
    of_at: Array
    of_above: Array

    def __len__(self) -> int:
        return len(self.at)


@brief("counts", "attribute")
@dataclass(frozen=True)
class Node:
    """A node with its statistics. attribute: -1 in a leaf; candidates: of a node that asks for the best, in the order of sampling."""

    counts: Array  # (classes,) rows of each class
    attribute: int = -1
    threshold: float = math.inf
    candidates: tuple[Candidates, ...] = ()


@brief("nodes")
@dataclass
class Tree:
    """Nodes by number, and the seed of their choices."""

    seed: int
    nodes: dict[int, Node] = field(default_factory=dict)


def depth_of(place: int) -> int:
    """How far a node is from the root."""
    return place.bit_length() - 1


def counted(y: Array, classes: int) -> Array:
    """Rows of each class, (classes,)."""
    return np.bincount(y, minlength=classes)


def sampled_thresholds(x: Array, y: Array, attribute: int, how: TreeGrowth, seed: int, place: int) -> Candidates | None:
    """The sample of an attribute's valid thresholds; None where all values are one.

    A threshold is valid unless it separates two values whose rows are all of one and the same class.

    Args:
        x: values of the rows of a node, (rows,).
        y: their classes.
    """
    values, group = np.unique(x, return_inverse=True)
    if len(values) < 2:
        return None
    of_value = np.bincount(group * how.classes + y, minlength=len(values) * how.classes).reshape(-1, how.classes)
    valid = np.flatnonzero(~alike(of_value[:-1], of_value[1:]))
    order = hashes(key_of(seed, place, THRESHOLD, attribute), bits(values[valid])).argsort(kind="stable")[: how.thresholds]
    chosen = valid[order]
    left = of_value.cumsum(0)[chosen]
    return Candidates(attribute, values[chosen], values[chosen + 1], left, of_value[chosen], of_value[chosen + 1])


def alike(a: Array, b: Array) -> Array:
    """Where two groups of rows are all of one and the same class, (groups,). a, b: counts (groups, classes)."""
    return np.asarray(((a > 0) | (b > 0)).sum(1) == 1)


def impurity(candidates: Candidates, counts: Array, criterion: Criterion) -> Array:
    """What a split at each threshold leaves, (thresholds,): impurity of both sides, each weighed by its rows, up to a constant."""
    sides = (candidates.left, counts - candidates.left)
    if criterion == "gini":
        return np.asarray(-sum((side * side).sum(1) / side.sum(1) for side in sides))
    return np.asarray(sum(_times_log(side.sum(1)) - sum(_times_log(side[:, k]) for k in range(len(counts))) for side in sides))


def _times_log(counts: Array) -> Array:
    return np.asarray(counts * np.log(np.maximum(counts, 1)))


def best(candidates: tuple[Candidates, ...], counts: Array, criterion: Criterion) -> tuple[int, float]:
    """The attribute and the threshold of the split that leaves least impurity; the first in the order of sampling where several do."""
    scores = np.concatenate([impurity(c, counts, criterion) for c in candidates])
    first = int(scores.argmin())
    for c in candidates:
        if first < len(c):
            return c.attribute, float(c.at[first])
        first -= len(c)
    raise AssertionError("no threshold")


def drawn_threshold(low: float, high: float, attribute: int, seed: int, place: int) -> float:
    """A threshold from a uniform distribution on [low, high), which stays while it is within, as far as low and high fix one grid.

    It is the first of a sequence that lies within. The sequence covers two cells of a grid, whose width is the power of two above the
    range and which begin with the cell of `low`.
    """
    width = 2.0 ** math.ceil(math.log2(high - low))
    cell = math.floor(low / width)
    key = key_of(seed, place, RANGE, attribute, int(math.log2(width)) & LAST, cell & LAST)
    for k in range(1 << 20):
        share = (key_of(key, k) >> 11) / 2**53
        drawn = width * (cell + 2 * share)
        if low <= drawn < high:
            rounded = np.float32(drawn)
            return float(rounded if rounded <= drawn else np.nextafter(rounded, np.float32(-np.inf)))
    return low


def decided(x: Array, y: Array, counts: Array, how: TreeGrowth, seed: int, place: int) -> Node:
    """What a node asks for, from all of its rows. x: (rows, inputs)."""
    depth = depth_of(place)
    if depth >= how.depth or (counts > 0).sum() < 2:
        return Node(counts)
    attributes = hashes(key_of(seed, place, ATTRIBUTE), np.arange(x.shape[1])).argsort(kind="stable")
    if depth < how.random_depth:
        for j in attributes.tolist():
            low, high = float(x[:, j].min()), float(x[:, j].max())
            if low < high:
                return Node(counts, j, drawn_threshold(low, high, j, seed, place))
        return Node(counts)
    chosen: list[Candidates] = []
    for j in attributes.tolist():
        if (candidates := sampled_thresholds(x[:, j], y, j, how, seed, place)) is not None:
            chosen.append(candidates)
        if len(chosen) == how.sampled(x.shape[1]):
            break
    return asking(Node(counts), tuple(chosen), how)


def asking(node: Node, candidates: tuple[Candidates, ...], how: TreeGrowth) -> Node:
    """The node with these candidates, asking for the best of them; a leaf where there are none."""
    if not candidates:
        return Node(node.counts)
    attribute, threshold = best(candidates, node.counts, how.criterion)
    return replace(node, attribute=attribute, threshold=threshold, candidates=candidates)


def grow(tree: Tree, x: Array, y: Array, rows: Array, how: TreeGrowth, place: int = ROOT) -> int:
    """Grow the part of a tree below a node, in place.

    Args:
        x: points, (all rows, inputs) float32.
        y: classes, (all rows,).
        rows: the rows of the node.

    Returns:
        How many rows the nodes read, together.
    """
    own = x[rows]
    node = tree.nodes[place] = decided(own, y[rows], counted(y[rows], how.classes), how, tree.seed, place)
    read = len(rows)
    if node.attribute >= 0:
        goes_left = own[:, node.attribute] <= node.threshold
        for side, child in ((goes_left, 2 * place), (~goes_left, 2 * place + 1)):
            read += grow(tree, x, y, rows[side], how, child)
    return read
