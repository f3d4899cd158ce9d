"""Taking rows out of the trees of `random_trees`: what stays as it is, is told from cached statistics; the rest is grown again.

The result is the tree that grows from the rows that are left, node by node, statistics included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from expunge.functional.random_trees import (
    ROOT,
    THRESHOLD,
    Array,
    Candidates,
    Node,
    Tree,
    TreeGrowth,
    alike,
    asking,
    bits,
    counted,
    decided,
    depth_of,
    drawn_threshold,
    grow,
    hashes,
    key_of,
    sampled_thresholds,
)

MANY = 32  # values that leave a node at once, beyond which its samples are drawn again without a look at each


@dataclass
class Effort:
    """What a removal cost: nodes whose statistics were updated, samples of thresholds drawn again, nodes grown again, and rows that any of
    these nodes read, together."""

    updated: int = 0
    sampled: int = 0
    grown: int = 0
    rows_read: int = 0


def remove(tree: Tree, x: Array, y: Array, kept: Array, gone: Array, how: TreeGrowth, effort: Effort, place: int = ROOT) -> None:
    """Take rows out of the part of a tree below a node, in place.

    Args:
        x: points, (all rows, inputs) float32.
        y: classes, (all rows,).
        kept, gone: rows of the node that stay, and that leave; at least one stays.
        effort: is added to.
    """
    before = tree.nodes[place]
    effort.updated += 1
    effort.rows_read += len(kept) + len(gone)
    node = _updated(tree, before, x, y, kept, gone, how, effort, place)
    if (node.attribute, node.threshold) != (before.attribute, before.threshold):
        _cut(tree, place)
        tree.nodes[place] = node
        if node.attribute >= 0:
            left = x[kept, node.attribute] <= node.threshold
            for side, child in ((left, 2 * place), (~left, 2 * place + 1)):
                effort.rows_read += grow(tree, x, y, kept[side], how, child)
                effort.grown += sum(1 for _ in _below(tree, child))
        return
    tree.nodes[place] = node
    if node.attribute < 0:
        return
    kept_left, gone_left = (x[rows, node.attribute] <= node.threshold for rows in (kept, gone))
    for stay, leave, child in ((kept_left, gone_left, 2 * place), (~kept_left, ~gone_left, 2 * place + 1)):
        if leave.any():
            remove(tree, x, y, kept[stay], gone[leave], how, effort, child)


def _updated(tree: Tree, node: Node, x: Array, y: Array, kept: Array, gone: Array, how: TreeGrowth, effort: Effort, place: int) -> Node:
    """A node without some rows: as it was where its statistics allow it, else decided anew."""
    counts = node.counts - counted(y[gone], how.classes)
    if node.attribute < 0 or (counts > 0).sum() < 2:
        return Node(counts)
    if depth_of(place) < how.random_depth:
        low, high = (float(bound(x[kept, node.attribute])) for bound in (np.min, np.max))
        if low < high:
            return replace(node, counts=counts, threshold=drawn_threshold(low, high, node.attribute, tree.seed, place))
        return decided(x[kept], y[kept], counts, how, tree.seed, place)
    candidates = []
    for old in node.candidates:
        remaining, leaving = x[kept, old.attribute], x[gone, old.attribute]
        left = _counted_down(old, leaving, y[gone], how.classes)
        new: Candidates | None = left
        if _changes(left, remaining, leaving, how, tree.seed, place):
            effort.sampled += 1
            new = sampled_thresholds(remaining, y[kept], old.attribute, how, tree.seed, place)
        if new is None:  # all values are one, so that another attribute takes its place
            return decided(x[kept], y[kept], counts, how, tree.seed, place)
        candidates.append(new)
    return asking(replace(node, counts=counts), tuple(candidates), how)


def _counted_down(old: Candidates, leaving: Array, y: Array, classes: int) -> Candidates:
    """Candidates with the counts that are left. leaving, y: values and classes of the rows that leave."""
    classes_of = np.eye(classes, dtype=old.left.dtype)[y]
    left = old.left - (leaving <= old.at[:, None]) @ classes_of
    of_at = old.of_at - (leaving == old.at[:, None]) @ classes_of
    of_above = old.of_above - (leaving == old.above[:, None]) @ classes_of
    return replace(old, left=left, of_at=of_at, of_above=of_above)


def _changes(candidates: Candidates, remaining: Array, leaving: Array, how: TreeGrowth, seed: int, place: int) -> bool:
    """Whether the sample of thresholds may be another one without the rows.

    It is the same unless a value of a candidate vanished, a candidate separates nothing any more, or a value vanished between two others
    that now are neighbors with a smaller hash than one of the sample.
    """
    of_at, of_above = candidates.of_at, candidates.of_above
    if not (of_at.any(1) & of_above.any(1)).all() or alike(of_at, of_above).any():
        return True
    if len(candidates) < how.thresholds:  # the sample holds all valid thresholds, so the value and its neighbors are of one class
        return False
    left = np.unique(leaving)
    if len(left) > MANY:
        return True
    vanished = [v for v in left if not (remaining == v).any()]
    below = [remaining[remaining < v] for v in vanished if remaining.max() > v]
    before = np.array([values.max() for values in below if len(values)], np.float32)
    if not len(before):
        return False
    key = key_of(seed, place, THRESHOLD, candidates.attribute)
    return bool(hashes(key, bits(before)).min() < hashes(key, bits(candidates.at)).max())


def _below(tree: Tree, place: int) -> list[int]:
    """Numbers of a node and of all below it."""
    places, i = [place], 0
    while i < len(places):
        places += [child for child in (2 * places[i], 2 * places[i] + 1) if child in tree.nodes]
        i += 1
    return places


def _cut(tree: Tree, place: int) -> None:
    for below in _below(tree, place):
        tree.nodes.pop(below, None)
