"""The trees of `random_trees` as a few arrays: with all statistics, to keep them, and without, to predict with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from expunge.functional.random_trees import Array, Candidates, Node, Tree, depth_of

COUNTS = ("left", "of_at", "of_above")


def packed(trees: Sequence[Tree], classes: int) -> dict[str, Array]:
    """Arrays with one entry for each node, and with one for each candidate."""
    nodes = [(t, place, node) for t, tree in enumerate(trees) for place, node in sorted(tree.nodes.items())]
    sampled = [(k, c) for k, (_, _, node) in enumerate(nodes) for c in node.candidates]

    def joined(name: str, like: Array) -> Array:
        return np.concatenate([like, *(getattr(c, name) for _, c in sampled)])

    lengths = [len(c) for _, c in sampled]
    none, no_values = np.zeros((0, classes), np.int32), np.zeros(0, np.float32)
    return {
        "tree": np.array([t for t, _, _ in nodes], np.int32),
        "place": np.array([p for _, p, _ in nodes], np.int32),
        "counts": np.array([n.counts for _, _, n in nodes], np.int32).reshape(-1, classes),
        "attribute": np.array([n.attribute for _, _, n in nodes], np.int32),
        "threshold": np.array([n.threshold for _, _, n in nodes], np.float32),
        "of_node": np.repeat(np.array([k for k, _ in sampled], np.int32), lengths),
        "of_attribute": np.repeat(np.array([c.attribute for _, c in sampled], np.int32), lengths),
        **{name: joined(name, no_values).astype(np.float32) for name in ("at", "above")},
        **{name: joined(name, none).astype(np.int32) for name in COUNTS},
    }


def unpacked(arrays: Mapping[str, Array], seeds: Sequence[int]) -> list[Tree]:
    """The trees in arrays. seeds: of their choices, in order."""
    trees = [Tree(seed) for seed in seeds]
    of_node, of_attribute = arrays["of_node"], arrays["of_attribute"]
    starts = np.flatnonzero(np.diff(of_node, prepend=-1) | np.diff(of_attribute, prepend=-1))
    candidates: dict[int, list[Candidates]] = {}
    for a, b in zip(starts.tolist(), [*starts[1:].tolist(), len(of_node)], strict=True):
        counts = (arrays[name][a:b].astype(np.int64) for name in COUNTS)
        own = Candidates(int(of_attribute[a]), arrays["at"][a:b], arrays["above"][a:b], *counts)
        candidates.setdefault(int(of_node[a]), []).append(own)
    entries = zip(*(arrays[n].tolist() for n in ("tree", "place", "attribute", "threshold")), arrays["counts"], strict=True)
    for k, (t, place, attribute, threshold, counts) in enumerate(entries):
        trees[t].nodes[place] = Node(counts.astype(np.int64), attribute, threshold, tuple(candidates.get(k, ())))
    return trees


def complete(trees: Sequence[Tree], depth: int, classes: int) -> dict[str, Array]:
    """Complete trees of this depth, to predict with.

    Returns:
        `feature` and `threshold` of each node by its number, (trees, 2^depth), and `leaves`, shares of the classes on the last level,
        (trees, 2^depth, classes). A leaf above the last level has the threshold infinity, so that all rows go to its left.
    """
    size = 2**depth
    feature, threshold = np.zeros((len(trees), size), np.int32), np.full((len(trees), size), np.inf, np.float32)
    leaves = np.full((len(trees), size, classes), 1 / classes, np.float32)
    for t, tree in enumerate(trees):
        for place, node in tree.nodes.items():
            if node.attribute >= 0:
                feature[t, place], threshold[t, place] = node.attribute, node.threshold
            else:
                leaves[t, (place << (depth - depth_of(place))) - size] = node.counts / node.counts.sum()
    return {"feature": feature, "threshold": threshold, "leaves": leaves}
