"""The benchmark of E2URec: cuts, forgotten users and prompts by hand in both layouts of folders, and its scores from real models."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

import worlds
from expunge import UserError
from expunge.benchmarks import e2urec
from expunge.evaluation.measure import Evidence, Measure, Missing
from expunge.evaluation.metrics import preference
from expunge.evaluation.observation import Observation, SetObservation
from expunge.evaluation.observe import observe
from expunge.evaluation.scoring import measured

RATINGS = [(u, 100 + (7 * u + 3 * k) % 40, 1 + (u + k) % 5, 1000 * k + u) for u in range(1, 21) for k in range(20)]
FILMS = {100 + k: f"Film {k}'s end (19{50 + k})" if k % 3 else f"Film {k} (19{50 + k})" for k in range(40)}


def folder(path: Path, layout: str) -> str:
    path.mkdir(exist_ok=True)
    if layout == "csv":
        for name, head, rows in (
            ("ratings", ("userId", "movieId", "rating", "timestamp"), RATINGS),
            ("movies", ("movieId", "title", "genres"), [(k, t, "Drama") for k, t in FILMS.items()]),
        ):
            with (path / f"{name}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([head, *rows])
    else:
        people = [(u, "FM"[u % 2], (1, 18, 56)[u % 3], u, "00000") for u in range(1, 21)]
        for name, lines in (("ratings", RATINGS), ("movies", [(k, t, "Drama|War") for k, t in FILMS.items()]), ("users", people)):
            (path / f"{name}.dat").write_text("".join("::".join(map(str, x)) + "\n" for x in lines), encoding="latin-1")
    return str(path)


@pytest.mark.parametrize("layout", ["csv", "dat"])
def test_rows_are_cut_and_users_drawn_as_published(layout: str, tmp_path: Path) -> None:
    suite = e2urec.load(folder(tmp_path, layout))
    in_time = sorted((t, u, f, s) for u, f, s, t in RATINGS)
    rated: dict[int, int] = {}
    kept = []
    for _, user, _, rating in in_time:
        kept += [(str(user), "Yes." if rating > 3 else "No.")] if rated.get(user, 0) >= 5 else []
        rated[user] = rated.get(user, 0) + 1
    late = kept[int(0.8 * len(kept)) :]
    train = late[: int(0.6 * len(late))]
    assert [(r["user"], r["answer"]) for r in suite.train["full"]] == train
    users = list(dict.fromkeys(u for u, _ in train))
    random.Random(42).shuffle(users)
    gone = set(users[: int(0.2 * len(users))])
    assert {r["user"] for r in suite.train["forget"]} == gone
    assert not gone & {r["user"] for r in suite.train["retain"]}
    assert len(suite.train["forget"]) + len(suite.train["retain"]) == len(train)
    assert [(r["user"], r["answer"]) for r in suite.sets["test"]] == late[int(0.8 * len(late)) :]


def test_a_prompt_by_hand(tmp_path: Path) -> None:
    row = e2urec.load(folder(tmp_path / "dat", "dat")).train["full"][0]
    user = int(row["user"])
    own = sorted((t, f, s) for u, f, s, t in RATINGS if u == user)
    place = next(k for k, (_, film, _) in enumerate(own) if f"***{FILMS[film]}***" in row["question"])
    history = [f"{k}. {FILMS[f]} ({s} star{'s' if s > 1 else ''})" for k, (_, f, s) in enumerate(own[place - 10 : place])]
    lines = row["question"].split("\n")
    assert len(lines) == 5
    assert lines[1].endswith(str(history))
    assert ("female" in lines[0]) == (user % 2 == 0)
    assert lines[4] == "Answer with yes or no only."
    without = e2urec.load(folder(tmp_path / "csv", "csv")).train["full"][0]["question"].split("\n")
    assert without[1:] == lines[2:]
    assert without[0] == f"The user's ratings of films so far, the oldest first: {history}"


def test_a_folder_that_is_none_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ml-1m or ml-latest-small"):
        e2urec.load("")
    with pytest.raises(UserError, match=r"neither ratings\.dat"):
        e2urec.load(str(tmp_path))
    folder(tmp_path, "csv")
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,100,five,7\n")
    with pytest.raises(UserError, match=r"ratings\.csv, line 2: user, film, rating and time are numbers"):
        e2urec.load(str(tmp_path))
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,100,5\n")
    with pytest.raises(UserError, match=r"line 2: 3 cells, and there are 4"):
        e2urec.load(str(tmp_path))


def observed(log_probs: np.ndarray) -> Observation:
    ids = tuple(map(str, range(len(log_probs))))
    return Observation({"forget": SetObservation(ids, ids, ids, {}, predicted=log_probs.astype(np.float32))})


def test_distances_of_answers_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    p, q = (rng.dirichlet(np.full(6, 0.5), 9) for _ in range(2))
    measures = preference.scores(Evidence(observed(np.log(p)), retrained=observed(np.log(q))))
    by_hand = {
        "answer_jsd": np.mean([jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)]),
        "answer_jeffreys_half": np.mean(rel_entr(p, q).sum(1) / 2 + rel_entr(q, p).sum(1) / 2),
        "answer_l2": np.mean(np.sqrt(((p - q) ** 2).sum(1))),
    }
    for name, value in by_hand.items():
        measure = measures[name]
        assert isinstance(measure, Measure)
        assert measure.value() == pytest.approx(value, rel=1e-4)
    same = preference.scores(Evidence(observed(np.log(p)), retrained=observed(np.log(p))))
    assert all(isinstance(m, Measure) and abs(m.value()) < 1e-9 for m in same.values())
    alone = preference.scores(Evidence(observed(np.log(p))))["answer_jsd"]
    assert isinstance(alone, Missing)


@pytest.mark.slow
@pytest.mark.parametrize("make", [worlds.text, worlds.dialogue])
def test_scores_of_a_model_are_those_of_its_logits(make) -> None:
    """Of a decoder and of an encoder-decoder; the right values come from sklearn and the modality's own logits."""
    world = make()
    model, modality = world.model(), world.modality
    records = [
        {"question": f"Will user {k} like film {3 * k}?", "answer": ("Yes.", "No.")[k % 2], "choices": ["Yes.", "No."]} for k in range(8)
    ]
    specs = {"forget": e2urec.SetSpec("forget", ("score", "choose", "predict"))}
    observation = observe(model, modality, {"forget": records}, specs=specs)
    other = observe(world.model("random"), modality, {"forget": records}, specs=specs)
    measures = {n: m.own for n, m in measured(Evidence(observation, retrained=other), specs).items()}
    first = {}
    for answer in ("Yes.", "No."):
        rows = modality.rows("forget", [{**r, "answer": answer} for r in records])
        for i in range(len(rows)):
            output = modality.forward(model, [rows.select([i])])[0]
            first[answer, i] = (output.logits.values[0].detach(), int(output.labels[0]))
    p = []
    for i in range(8):
        logits, label = first["Yes.", i]
        p.append(float(logits[[label, first["No.", i][1]]].double().softmax(0)[0]))
        own = first[records[i]["answer"], i][0].log_softmax(-1)
        assert np.allclose(observation.sets["forget"].predicted[i], own.numpy(), atol=1e-4)  # type: ignore[index]
    right = [k % 2 == 0 for k in range(8)]
    by_hand = {"yes_auc": roc_auc_score(right, p), "yes_log_loss": log_loss(right, p)}
    by_hand["yes_accuracy"] = accuracy_score(right, np.array(p) > 0.5)
    for name, value in by_hand.items():
        measure = measures[name]
        assert isinstance(measure, Measure)
        assert measure.value() == pytest.approx(value, rel=1e-3)
    assert isinstance(measures["answer_jsd"], Measure)
