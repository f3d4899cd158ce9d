"""Trees from which rows are taken out: worked examples, equality with trees grown without the rows, and laws over seeds."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare, kstest
from sklearn.datasets import load_iris
from sklearn.tree import DecisionTreeClassifier

from expunge.functional.packed_trees import complete, packed, unpacked
from expunge.functional.random_trees import Tree, TreeGrowth, drawn_threshold, grow, hashes, impurity, key_of
from expunge.functional.tree_removal import Effort, remove

IRIS_X, IRIS_Y = (np.asarray(a) for a in load_iris(return_X_y=True))


def grown(x: Any, y: Any, how: TreeGrowth, seed: int = 0, rows: Any = None) -> Tree:
    tree = Tree(seed)
    grow(tree, np.asarray(x, np.float32), np.asarray(y), np.arange(len(x)) if rows is None else np.asarray(rows), how)
    return tree


def without(tree: Tree, x: Any, y: Any, gone: Any, how: TreeGrowth, rows: Any = None) -> Effort:
    effort, gone = Effort(), np.asarray(gone)
    kept = np.setdiff1d(np.arange(len(x)) if rows is None else rows, gone)
    remove(tree, np.asarray(x, np.float32), np.asarray(y), kept, gone, how, effort)
    return effort


def assert_same(a: Tree, b: Tree) -> None:
    """All splits and all cached statistics are equal."""
    assert a.nodes.keys() == b.nodes.keys()
    for place, node in a.nodes.items():
        other = b.nodes[place]
        assert (node.attribute, node.threshold, len(node.candidates)) == (other.attribute, other.threshold, len(other.candidates))
        assert np.array_equal(node.counts, other.counts)
        for c, d in zip(node.candidates, other.candidates, strict=True):
            assert c.attribute == d.attribute
            for name in ("at", "above", "left", "of_at", "of_above"):
                assert np.array_equal(getattr(c, name), getattr(d, name)), name


def test_the_threshold_moves_down_when_the_value_at_it_leaves() -> None:
    """x = 1, 2, 3 with classes 1, 1, 0: the split is at 2; without x = 2 it is at 1, where the authors' code keeps 2."""
    x, y, how = [[1.0], [2.0], [3.0]], [1, 1, 0], TreeGrowth(2, 3)
    tree = grown(x, y, how)
    assert tree.nodes[1].threshold == 2
    assert set(tree.nodes[1].candidates[0].at.tolist()) == {2.0}, "1 and 2 are both of class 1, so nothing lies between them"
    without(tree, x, y, [1], how)
    assert tree.nodes[1].threshold == 1
    assert_same(tree, grown(x, y, how, rows=[0, 2]))


def test_statistics_of_a_node_by_hand() -> None:
    x, y = [[0.0], [0.0], [1.0], [2.0], [2.0]], [0, 1, 1, 0, 0]
    (c,) = grown(x, y, TreeGrowth(2, 3)).nodes[1].candidates
    at = {float(c.at[k]): (float(c.above[k]), *(n[k].tolist() for n in (c.left, c.of_at, c.of_above))) for k in range(len(c))}
    assert at == {0.0: (1.0, [1, 1], [1, 1], [0, 1]), 1.0: (2.0, [1, 2], [0, 1], [2, 0])}


@pytest.mark.parametrize("criterion", ["gini", "entropy"])
def test_the_impurity_of_the_best_split_is_that_of_scikit_learn(criterion: Any) -> None:
    how = TreeGrowth(3, 1, attributes=4, thresholds=1000, criterion=criterion)
    tree = grown(IRIS_X, IRIS_Y, how)
    theirs = DecisionTreeClassifier(max_depth=1, criterion=criterion).fit(IRIS_X.astype(np.float32), IRIS_Y).tree_
    ours = tree.nodes[1]
    left = IRIS_X.astype(np.float32)[:, ours.attribute] <= ours.threshold
    assert sorted([int(left.sum()), int((~left).sum())]) == sorted(theirs.n_node_samples[1:].tolist())
    weighed = (theirs.impurity[1:] * theirs.n_node_samples[1:]).sum()
    least = min(float(impurity(c, ours.counts, criterion).min()) for c in ours.candidates)
    assert (len(IRIS_X) + least if criterion == "gini" else least / np.log(2)) == pytest.approx(weighed)


@pytest.mark.parametrize(
    "how",
    [
        TreeGrowth(3, 6, attributes=4, thresholds=1000),
        TreeGrowth(3, 5, thresholds=3),
        TreeGrowth(3, 6, random_depth=2, thresholds=2, attributes=3),
        TreeGrowth(3, 4, random_depth=4),
        TreeGrowth(3, 5, thresholds=2, criterion="entropy"),
    ],
)
def test_what_is_left_is_the_tree_grown_without_the_rows(how: TreeGrowth) -> None:
    """Split by split and statistic by statistic, over a stream of single rows and batches."""
    random, rows = np.random.default_rng(1), np.arange(len(IRIS_X))
    tree = grown(IRIS_X, IRIS_Y, how, seed=5)
    for size in (1, 1, 7, 1, 40, 1, 1, 30, 1, 20):
        gone = random.choice(rows, size, replace=False)
        without(tree, IRIS_X, IRIS_Y, gone, how, rows)
        rows = np.setdiff1d(rows, gone)
        assert_same(tree, grown(IRIS_X, IRIS_Y, how, 5, rows))


@pytest.mark.slow
def test_values_that_repeat_and_values_that_vanish_between_others() -> None:
    random, how = np.random.default_rng(0), TreeGrowth(2, 5, attributes=2, thresholds=2)
    for seed in range(30):
        x, y = random.integers(0, 9, (30, 2)).astype(float), random.integers(0, 2, 30)
        tree, rows = grown(x, y, how, seed), np.arange(30)
        for _ in range(8):
            gone = random.choice(rows, 1 + seed % 3, replace=False)
            without(tree, x, y, gone, how, rows)
            rows = np.setdiff1d(rows, gone)
            assert_same(tree, grown(x, y, how, seed, rows))


def test_a_row_that_decides_nothing_costs_its_path_alone() -> None:
    """Two far heaps: a row inside one of them is counted down along its path, and nothing grows again."""
    x = np.concatenate([np.linspace(0, 1, 50), np.linspace(9, 10, 50)])[:, None]
    y = np.repeat([0, 1], 50)
    how = TreeGrowth(2, 4)
    tree = grown(x, y, how)
    assert without(tree, x, y, [10], how) == Effort(updated=2, rows_read=100 + 50)
    assert tree.nodes[1].counts.tolist() == [49, 50]


def test_samples_of_thresholds_are_uniform_before_and_after_a_row_left() -> None:
    """Over seeds, each of the valid thresholds is as likely as the others to be among the two that are sampled."""
    x, y, how = np.arange(6.0)[:, None], np.array([0, 1, 0, 1, 0, 1]), TreeGrowth(2, 1, thresholds=2)
    before, after = Counter[float](), Counter[float]()
    for seed in range(600):
        tree = grown(x, y, how, seed)
        before.update(tree.nodes[1].candidates[0].at.tolist())
        without(tree, x, y, [3], how)
        after.update(tree.nodes[1].candidates[0].at.tolist())
    assert set(before) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert set(after) == {0.0, 1.0, 4.0}, "2 and 4 are neighbors of one class now"
    assert chisquare(list(before.values())).pvalue > 1e-3
    assert chisquare(list(after.values())).pvalue > 1e-3


def test_random_thresholds_are_uniform_and_stay_while_they_can() -> None:
    drawn = np.array([drawn_threshold(0.3, 1.7, 0, seed, 1) for seed in range(800)])
    assert kstest(drawn, "uniform", args=(0.3, 1.4)).pvalue > 1e-3
    smaller = np.array([drawn_threshold(0.5, 1.6, 0, seed, 1) for seed in range(800)])
    inside = (drawn >= 0.5) & (drawn < 1.6)
    assert (smaller[inside] == drawn[inside]).all()
    assert kstest(smaller, "uniform", args=(0.5, 1.1)).pvalue > 1e-3


def test_hashes_of_arrays_are_those_of_single_numbers() -> None:
    key = key_of(3, 1)
    assert hashes(key, np.array([0, 7, 2**31])).tolist() == [key_of(3, 1, n) for n in (0, 7, 2**31)]


def test_packed_trees_come_back_and_predict_by_a_walk() -> None:
    how, x = TreeGrowth(3, 4, random_depth=1, thresholds=3), IRIS_X.astype(np.float32)
    trees = [grown(IRIS_X, IRIS_Y, how, seed) for seed in (1, 2)]
    for tree, back in zip(trees, unpacked(packed(trees, 3), [1, 2]), strict=True):
        assert_same(tree, back)
    flat = complete(trees, 4, 3)
    for t, tree in enumerate(trees):
        for row in x[::15]:
            walk = place = 1
            while (node := tree.nodes[walk]).attribute >= 0:
                walk = 2 * walk + int(row[node.attribute] > node.threshold)
            for _ in range(4):
                place = 2 * place + int(row[flat["feature"][t, place]] > flat["threshold"][t, place])
            assert flat["leaves"][t, place - 16] == pytest.approx(node.counts / node.counts.sum())
