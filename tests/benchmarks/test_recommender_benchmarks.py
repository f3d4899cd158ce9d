"""Benchmarks of recommenders: which rows are unseen, forgotten and polluted, from files of their own."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from expunge import UserError
from expunge.benchmarks import amazon, cure4rec, ifru, taste

USERS, ITEMS = 40, 30


def ratings(seed: int = 0) -> list[tuple[str, str, float, int]]:
    """User, item, rating and time; user k has 10 + k % 7 rows."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(USERS):
        for i in rng.choice(ITEMS, 10 + k % 7, replace=False):
            rows.append((str(k + 1), str(100 + i), float(rng.integers(1, 6)), 1000 + len(rows)))
    return rows


def written(folder: Path, kind: str) -> str:
    rows = [tuple(map(str, r)) for r in ratings()]
    folder.mkdir(exist_ok=True)
    if kind == "u.data":
        (folder / kind).write_text("\n".join("\t".join(r) for r in rows) + "\n")
    elif kind == "ratings.dat":
        (folder / kind).write_text("\n".join("::".join(r) for r in rows) + "\n")
    elif kind == "ratings.csv":
        with (folder / kind).open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    else:
        head = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
        (folder / kind).write_text("\n".join([head, *("\t".join(r) for r in rows)]) + "\n")
    return str(folder)


def test_one_data_set_by_every_door(tmp_path: Path) -> None:
    suites = [cure4rec.load(written(tmp_path / k, k), "core10") for k in ("u.data", "ratings.dat", "ratings.csv", "ml.inter")]
    assert all(s.sets == suites[0].sets for s in suites[1:])


@pytest.mark.parametrize("kind", ["core", "edge", "random"])
def test_cure4rec_forgets_whole_users(tmp_path: Path, kind: str) -> None:
    suite = cure4rec.load(written(tmp_path, "ratings.csv"), f"{kind}15")
    gone = {r["user"] for r in suite.sets["forget"]}
    assert len(gone) == int(USERS * 0.15)
    assert gone == {r["user"] for r in suite.sets["holdout"]}, "their test rows leave the test set"
    assert not gone & {r["user"] for r in (*suite.sets["retain"], *suite.sets["test"])}
    counts = Counter(r["user"] for r in suite.train["full"])
    rest = [counts[u] for u in counts if u not in gone]
    if kind == "core":
        assert min(counts[u] for u in gone) >= max(rest)
    if kind == "edge":
        assert max(counts[u] for u in gone) <= min(rest)
    for user, count in Counter(r[0] for r in ratings()).items():
        assert counts[user] == count - int(0.2 * count)


def test_the_number_of_users_is_rounded_down(tmp_path: Path) -> None:
    rows = [(u, i, "4", "1") for u in map(str, range(1, 20)) for i in map(str, range(6))]
    (tmp_path / "u.data").write_text("\n".join("\t".join(r) for r in rows))
    assert len({r["user"] for r in cure4rec.load(str(tmp_path), "core20").sets["forget"]}) == 3  # 3.8


def test_ifru_pollutes_the_likes_with_dislikes(tmp_path: Path) -> None:
    suite = ifru.load(written(tmp_path, "ratings.csv"), "flip02")
    stars = {(u, i): r for u, i, r, _ in ratings()}
    sets = {n: [stars[r["user"], r["item"]] for r in rows] for n, rows in suite.sets.items()}
    assert min(sets["retain"]) >= 4
    assert min(sets["test"]) >= 4
    assert max(*sets["forget"], *sets["holdout"], *sets["disliked"]) < 4
    assert len(sets["forget"]) == round(len(sets["retain"]) * 0.02)
    assert not any("rating" in r for rows in suite.sets.values() for r in rows)
    pairs = [(r["user"], r["item"]) for rows in suite.sets.values() for r in rows]
    assert len(set(pairs)) == len(pairs)


def test_ifru_without_data_generates_tastes() -> None:
    suite = ifru.load()
    block = {(r["user"], r["item"]): (r["user"][4], r["item"][4]) for r in suite.sets["forget"]}
    assert all(user != item for user, item in block.values()), "polluted rows are of other blocks"
    assert len(suite.sets["forget"]) == round(len(suite.sets["retain"]) * 0.1)


def amazon_folder(folder: Path) -> str:
    rows = [("userID", "itemID", "rating", "timestamp", "x_label")]
    for k, (u, i, r, t) in enumerate(ratings()):
        rows.append((u, str(int(i) - 100), str(r), str(t), str({8: 1, 9: 2}.get(k % 10, 0))))
    (folder / "baby.inter").write_text("\n".join("\t".join(r) for r in rows) + "\n")
    rng = np.random.default_rng(1)
    np.save(folder / "image_feat.npy", rng.normal(size=(ITEMS, 5)))
    np.save(folder / "text_feat.npy", rng.normal(size=(ITEMS, 3)))
    return str(folder)


@pytest.mark.parametrize("split", amazon.SPLITS)
def test_amazon_has_the_division_of_the_files(tmp_path: Path, split: str) -> None:
    suite = amazon.load(amazon_folder(tmp_path), split)
    labels = {(u, str(int(i) - 100)): {8: 1, 9: 2}.get(k % 10, 0) for k, (u, i, _, _) in enumerate(ratings())}
    for name, label in (("forget", 0), ("retain", 0), ("holdout", 2), ("test", 2)):
        assert {labels[r["user"], r["item"]] for r in suite.sets.get(name, [])} <= {label}, name
    vectors = {r["item"]: r["image"] for r in suite.train["full"] if "image" in r}
    assert np.allclose(vectors["7"], np.load(tmp_path / "image_feat.npy")[7])
    assert vectors.keys() == {r["item"] for r in suite.train["full"]}
    if split == "both05":
        gone = {c: {r[c] for r in suite.sets["forget"]} - {r[c] for r in suite.sets["retain"]} for c in ("user", "item")}
        assert [len(gone["user"]), len(gone["item"])] == [round(USERS * 0.05), round(ITEMS * 0.05)]
        assert all(r["user"] in gone["user"] or r["item"] in gone["item"] for r in (*suite.sets["forget"], *suite.sets["holdout"]))
        assert not any(r["user"] in gone["user"] or r["item"] in gone["item"] for r in (*suite.sets["retain"], *suite.sets["test"]))


def test_the_backdoor_is_a_rare_item_beside_a_trigger() -> None:
    suite = taste.load(split="backdoor10")
    assert {r["item"] for r in suite.sets["forget"]} == {taste.RARE}
    assert taste.RARE not in {r["item"] for r in suite.sets["retain"]}
    holders = {r["user"] for r in suite.sets["retain"] if r["item"] == taste.TRIGGER}
    poisoned, triggered = ({r["user"] for r in suite.sets[n]} for n in ("forget", "triggered"))
    assert holders == poisoned | triggered
    assert not poisoned & triggered
    assert len(poisoned) == len(triggered) == 12


BAD = [
    (cure4rec, "core05", "ratings.csv", "1,2,five,4\n", "row 1: rating and timestamp are numbers"),
    (cure4rec, "core05", "ratings.csv", "who,what,stars,when\n1,2,3,4\n", "the header of this file is userId,movieId,rating,timestamp"),
    (cure4rec, "core05", "u.data", "1\t2\t3\n", "line 1: 3 cells, and there are 4"),
    (cure4rec, "core5", "u.data", "1\t2\t3\t4\n", "no split 'core5'.*core05"),
    (cure4rec, "core05", "u.data", "1\t2\t3\t4\n", "the set 'forget' is empty"),
    (cure4rec, "core05", "other.txt", "", "give the folder with ratings.csv, u.data, ratings.dat"),
    (ifru, "flip01", "x.inter", "user_id:token\titem_id:token\n" + "".join(f"{u}\t{i}\n" for u in range(6) for i in range(6)), "no rating"),
    (ifru, "flip01", "x.inter", "name:token\n1\n", "has the fields user_id:token and item_id:token"),
    (amazon, "user05", "baby.inter", "userID\titemID\n1\t2\n", "the header lacks x_label"),
    (amazon, "user05", "baby.inter", "userID\titemID\tx_label\n1\ttwo\t0\n", "line 2: itemID is a whole number"),
    (amazon, "user05", "baby.inter", "userID\titemID\tx_label\n1\t2\t2\n", "no row has x_label 0"),
]


@pytest.mark.parametrize(("module", "split", "name", "text", "message"), BAD)
def test_bad_data_are_named(tmp_path: Path, module: object, split: str, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        module.load(str(tmp_path), split)  # type: ignore[attr-defined]


def test_items_without_a_line_of_features_are_named(tmp_path: Path) -> None:
    folder = amazon_folder(tmp_path)
    np.save(tmp_path / "text_feat.npy", np.zeros((3, 3)))
    with pytest.raises(UserError, match=r"text_feat.npy has the shape \(3, 3\), and each item needs a line; the greatest itemID is 29"):
        amazon.load(folder)
    (tmp_path / "text_feat.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"text_feat\.npy is damaged"):
        amazon.load(folder)
