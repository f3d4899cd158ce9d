"""UA, IRA, CRA and the Fréchet distance of drawn pictures, by hand and in limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import denoisers
from expunge import UserError
from expunge.benchmarks.common.judges import Judge, Judged
from expunge.benchmarks.synthetic import scenes
from expunge.evaluation import judging
from expunge.evaluation.measure import Evidence, Measure, Missing
from expunge.evaluation.metrics import erasure
from expunge.evaluation.observation import Observation, SetObservation
from expunge.functional.frechet import frechet_distance
from expunge.modalities.image.modality import classifier_modality
from expunge.modalities.image.models import vision

DOMAINS = {"object": ("circle", "square", "cross"), "style": ("flat", "night")}


class Labeled(Judge):
    """A judge that reads the classes from the first two pixels of a picture."""

    def judged(self, pictures: NDArray[np.uint8]) -> Judged:
        numbers = {d: pictures[:, 0, 0, k].astype(np.int64) for k, d in enumerate(self.domains)}
        return Judged(numbers, pictures.reshape(len(pictures), -1).astype(np.float32))


@pytest.fixture(autouse=True)
def _judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "judge_of", lambda name: Labeled(DOMAINS, {}))


def drawn(prompts: list[str], shown: list[list[tuple[int, int]]]) -> SetObservation:
    """A set with pictures that show these classes of object and style."""
    pictures = np.zeros((len(prompts), len(shown[0]), 1, 1, 2), np.uint8)
    for i, of_prompt in enumerate(shown):
        for k, pair in enumerate(of_prompt):
            pictures[i, k, 0, 0] = pair
    ids = tuple(map(str, range(len(prompts))))
    return SetObservation(ids, tuple(prompts), ("",) * len(ids), {}, draws=tuple((p,) for p in prompts), samples=pictures)


FORGET = ["a circle in flat style", "a circle in night style"]
KEPT = ["a square in flat style", "a square in night style", "a cross in flat style", "a cross in night style"]


def values(forget: SetObservation, kept: SetObservation, **fields: Observation) -> dict[str, float]:
    evidence = Evidence(Observation({"forget": forget, "prompts": kept}), variants={"*": "labels"}, **fields)
    return {n: m.value() for n, m in erasure.scores(evidence).items() if isinstance(m, Measure)}


def test_scores_by_hand() -> None:
    forget = drawn(FORGET, [[(0, 0), (1, 0)], [(2, 1), (2, 0)]])
    kept = drawn(KEPT, [[(1, 0), (1, 0)], [(1, 1), (0, 1)], [(2, 1), (2, 0)], [(1, 1), (2, 1)]])
    result = values(forget, kept)
    assert result["forget_drawn"] == pytest.approx(1 / 4)
    assert result["ua"] == pytest.approx(3 / 4)
    assert result["ira"] == pytest.approx(6 / 8)
    assert result["cra"] == pytest.approx((3 + 7) / 12), "styles of all prompts, those with the concept included"
    assert result["kept_drawn"] == pytest.approx((6 / 8 + 7 / 8) / 2)


def test_a_perfect_model_and_one_that_always_draws_one_class() -> None:
    exact = [[(DOMAINS["object"].index(p.split()[1]), DOMAINS["style"].index(p.split()[3]))] for p in (*FORGET, *KEPT)]
    perfect = values(drawn(FORGET, exact[:2]), drawn(KEPT, exact[2:]))
    assert (perfect["ua"], perfect["ira"], perfect["cra"]) == (0, 1, 1)
    squares = values(drawn(FORGET, [[(1, 0)]] * 2), drawn(KEPT, [[(1, 0)]] * 4))
    assert (squares["ua"], squares["ira"], squares["cra"]) == (1, 1 / 2, 1 / 2)


def test_pictures_that_did_not_change_have_no_shift() -> None:
    forget, kept = drawn(FORGET, [[(0, 0)]] * 2), drawn(KEPT, [[(1, 0)]] * 4)
    original = Observation({"forget": forget, "prompts": kept})
    assert values(forget, kept, original=original)["sample_shift"] == 0
    moved = drawn(KEPT, [[(1, 255)]] * 4)
    assert values(forget, moved, original=original)["sample_shift"] == pytest.approx(1 / 2)


def test_a_concept_that_no_class_names_is_said() -> None:
    evidence = Evidence(
        Observation({"forget": drawn(["a dog"], [[(0, 0)]]), "prompts": drawn(KEPT, [[(1, 0)]] * 4)}), variants={"forget_drawn": "labels"}
    )
    missing = erasure.scores(evidence)["ua"]
    assert isinstance(missing, Missing)
    assert "no class of the classifiers is named by all prompts to forget and by no other prompt" in str(missing)
    nobody = erasure.scores(Evidence(evidence.model))["forget_drawn"]
    assert str(nobody) == "no classifiers of drawn pictures were named: give --variant forget_drawn=FOLDER"


def test_a_caption_names_its_classes_as_words() -> None:
    judge = Judge(scenes.DOMAINS, {}, {"mark": "plain"})
    expected = judge.expected(["a stamped red circle in night style", "A Blue Cross", "crossed circles"])
    assert expected["object"].tolist() == [0, 3, -1]
    assert expected["mark"].tolist() == [1, 0, 0]
    assert expected["style"].tolist() == [1, -1, -1]


def test_the_distance_of_normal_sets_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(x, x + np.array([3, 0, 4])) == pytest.approx(25)
    scaled = x.mean(0) + 2 * (x - x.mean(0))
    assert frechet_distance(x, scaled) == pytest.approx(np.trace(np.cov(x.T)))
    from scipy.linalg import sqrtm

    y = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 3))
    a, b = np.cov(x.T), np.cov(y.T)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(x, y) == pytest.approx(expected)


def test_a_classifier_of_your_own_judges(tmp_path: Path) -> None:
    labels = ("red", "green", "blue")
    model, modality = vision.build("resnet-nano", (3, 8, 8), labels), classifier_modality(labels)
    modality.save(model, tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    judge = judging.judge_of(str(tmp_path))
    assert judge.domains == {"class": labels}
    judged = judge.judged(pictures)
    rows = modality.rows("pictures", [{"image": p.transpose(1, 2, 0), "label": 0} for p in pictures])
    assert judged.classes["class"].tolist() == modality.forward(model, [rows])[0].logits.values.argmax(-1).tolist()
    assert judged.features.shape == (5, 32)
    assert judge.expected(["a Green bar", "a bar"])["class"].tolist() == [1, -1]


def test_what_is_no_judge_is_refused(tmp_path: Path) -> None:
    denoisers_model, denoisers_modality = denoisers.built()
    denoisers_modality.save(denoisers_model, tmp_path)
    with pytest.raises(UserError, match="is no image classifier, and drawn pictures are judged by one"):
        judging.judge_of(str(tmp_path))
    with pytest.raises(UserError, match="the benchmark 'taste' has no classifiers of drawn pictures"):
        judging.judge_of("taste")
