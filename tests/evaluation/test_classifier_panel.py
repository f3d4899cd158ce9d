"""What a report keeps of a classifier: counts by hand, curves against the scores, places, pictures."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import worlds
from classified import a_set, digits, observed, sure
from expunge.evaluation import classifier_panel
from expunge.evaluation.attacks import mia, mia_classifier
from expunge.evaluation.audited_models import judged, picture, report_data
from expunge.evaluation.measure import Evidence
from expunge.evaluation.metrics.representation import linear_cka
from expunge.evaluation.observation import Observation, few
from expunge.evaluation.observe import observe
from expunge.evaluation.profiles.image import SAMPLES
from expunge.evaluation.scoring import score_specs
from expunge.modalities.image.modality import PICTURE
from expunge.report.panels.image import Classes, read


def observation_of(model: str = "original") -> Observation:
    world = worlds.digits()
    return observe(world.model(model), world.modality, digits())


def classes_of(evidence: Evidence) -> Classes:
    classes = classifier_panel.classes(evidence)
    assert classes is not None
    return classes


FORGET = sure([2, 2, 2], [2, 1, 1], "f", p=0.93)
RETAIN = sure([0, 1, 1], [0, 1, 0], "r")
HOLDOUT = sure([0, 2, 2], [0, 2, 0], "h", p=0.62)


def test_counts_by_hand() -> None:
    panel = classes_of(Evidence(observed(forget=FORGET, retain=RETAIN, holdout=HOLDOUT)))
    assert panel.called == {
        "forget": [(2, 1, 2), (2, 2, 1)],
        "retain": [(0, 0, 1), (1, 0, 1), (1, 1, 1)],
        "holdout": [(0, 0, 1), (2, 0, 1), (2, 2, 1)],
    }
    bins = {n: {i: k for i, k in enumerate(b) if k} for n, b in panel.confidence.items()}
    assert bins == {"forget": {0: 2, 18: 1}, "unseen": {3: 1, 12: 1}}  # of 0.035, 0.93; 0.19, 0.62
    assert {n: sum(b) for n, b in panel.entropy.items()} == {"forget": 3, "unseen": 2}, "unseen items of the forgotten classes alone"
    assert panel.names == ["0", "1", "2"]


def test_classes_have_the_names_that_the_modality_gives_them() -> None:
    modality = worlds.digits().modality
    named = observe(worlds.digits().model(), type(modality)(tuple("abcdefghij")), digits())
    assert classes_of(Evidence(named)).names == list("abcdefghij")


def test_without_unseen_items_there_is_nothing_beside_the_forgotten_ones() -> None:
    for sets in ({"forget": FORGET, "retain": RETAIN}, {"forget": FORGET, "holdout": sure([0, 1], [0, 1])}):
        panel = classes_of(Evidence(observed(**sets)))
        assert set(panel.confidence) == set(panel.entropy) == {"forget"}
        assert panel.roc == []


def test_the_area_under_the_curve_is_the_score() -> None:
    got = observation_of()
    forget, holdout = got.sets["forget"], got.sets["holdout"]
    alike = mia_classifier.loss(holdout)[np.isin(holdout.label, forget.label)]
    x, y = np.array(classes_of(Evidence(got)).roc).T
    assert np.trapezoid(y, x) == pytest.approx(mia.auc(mia_classifier.loss(forget), alike), abs=0.01)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    rng = np.random.default_rng(0)
    many = classifier_panel.roc(rng.normal(1, 1, 5000), rng.normal(0, 1, 5000))
    assert len(many) <= classifier_panel.POINTS
    assert np.trapezoid([p[1] for p in many], [p[0] for p in many]) == pytest.approx(0.76, abs=0.01)  # of two normals, one deviation apart


def test_layers_are_compared_with_both_models() -> None:
    original, other = observation_of(), observation_of("retrained")
    layers = {layer.name: layer for layer in classes_of(Evidence(original, retrained=other, original=original)).layers}
    assert list(layers) == list(original.sets["forget"].features)
    assert all(layer.original == pytest.approx(1) for layer in layers.values())
    a, b = (o.sets["forget"].features["head"].astype(np.float64) for o in (original, other))
    assert layers["head"].retrained == pytest.approx(linear_cka(a, b), abs=1e-4)
    assert layers["head"].retrained < 0.99
    assert classes_of(Evidence(original)).layers == [], "nothing to compare with"


def test_places_are_the_same_in_every_run_and_keep_neighbours() -> None:
    panel = classes_of(Evidence(observation_of()))
    assert classes_of(Evidence(observation_of())).places == panel.places
    assert len(panel.places) == 39 + 200, "all forgotten ones, and as many retained ones as are drawn"
    assert {label for *_, label, gone in panel.places if gone} == {3}
    xy = np.array([p[:2] for p in panel.places], float)
    assert np.abs(xy).max() == 1
    far = np.linalg.norm(xy[:, None] - xy, axis=2) + np.eye(len(xy)) * 9
    labels = np.array([p[2] for p in panel.places])
    assert np.mean(labels[far.argmin(1)] == labels) > 0.9, "a trained model's classes stand together"


@pytest.mark.parametrize("features", [np.ones((12, 4)), np.full((12, 4), np.nan), np.zeros((12, 1)), None])
def test_features_that_cannot_be_placed_are_left_out(features: object) -> None:
    sets = {n: a_set(np.full((12, 3), 1 / 3), [i % 3 for i in range(12)], n, features) for n in ("forget", "retain")}
    both = observed(**sets)
    panel = classes_of(Evidence(both, retrained=both, original=both))
    assert panel.places == []
    assert all(layer.retrained is None for layer in panel.layers)


def test_a_broken_model_has_no_pictures() -> None:
    broken = sure([2, 2], [1, 1])
    broken.log_probs[0] = np.nan  # type: ignore[index]
    assert classifier_panel.classes(Evidence(observed(forget=broken, retain=RETAIN))) is None
    assert classifier_panel.classes(Evidence(observed(retain=RETAIN))) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_a_png_of_its_values(channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (channels, 5, 7)).astype(np.uint8)
    again = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture(values)))))
    assert np.array_equal(again if channels == 3 else again[..., None], values.transpose(1, 2, 0))


def test_a_few_pictures_are_kept_with_what_was_seen(tmp_path: Path) -> None:
    got = observation_of()
    assert {n: None if s.pictures is None else len(s.pictures) for n, s in got.sets.items()} == {**SAMPLES, "holdout": None}
    records = digits()["forget"]
    at = few(len(records), SAMPLES["forget"])
    assert len(at) == SAMPLES["forget"]
    for k, i in enumerate(at):
        assert np.array_equal(got.sets["forget"].pictures[k][0], np.round(records[i]["image"] * 255).astype(np.uint8))  # type: ignore[index]
    got.save(tmp_path)
    assert np.array_equal(Observation.load(tmp_path).sets["forget"].pictures, got.sets["forget"].pictures)  # type: ignore[arg-type]


def test_large_pictures_are_shrunk_and_odd_values_brought_into_range() -> None:
    from expunge.evaluation.profiles.image import _pictures
    from expunge.modalities.image.modality import classifier_modality

    modality = classifier_modality(2)
    large = [{"image": np.full((3, 200, 100), 100 + 50 * i, np.uint8), "label": i} for i in range(2)]
    pictures = _pictures(modality, modality.rows("forget", large))
    assert pictures is not None
    assert pictures.shape == (2, 3, PICTURE, PICTURE // 2)
    assert (pictures[0] == 100).all()
    assert (pictures[1] == 150).all()
    odd = _pictures(modality, modality.rows("forget", [{"image": np.array([[-2.0, 0.0], [1.0, 2.0]]), "label": 0}]))
    assert odd is not None
    assert odd[0, 0].tolist() == [[0, 128], [191, 255]]
    assert _pictures(modality, modality.rows("holdout", large)) is None


@pytest.mark.slow
def test_a_story_of_classifiers_shows_pictures_and_says_what_scores_mean() -> None:
    original, retrained = observation_of(), observation_of("retrained")
    audited_models = [
        judged(original, "original", "original", retrained),
        judged(original, "audited", "method", retrained, original, method="npo"),
        judged(observation_of("random"), "random weights", "random", retrained),
    ]
    report = report_data(audited_models, "digits")
    assert [s.set for s in report.samples] == ["forget"] * SAMPLES["forget"] + ["retain"] * SAMPLES["retain"]
    assert all(s.picture and set(s.model_answers) == {"original", "audited", "random weights"} for s in report.samples)
    assert all(s.answer == "3" for s in report.samples if s.set == "forget")
    meanings = {n: spec.meaning for n, spec in score_specs("image").items()}
    for model in report.models:
        scores = {n: s for n, s in model.scores.items() if not s.missing}
        assert len(scores) > 10
        assert {n: s.meaning for n, s in scores.items()} == {n: meanings[n] for n in scores}
        assert all(scores[n].shows for n in ("forget_accuracy", "forget_confidence"))
    classes = [read(m) for m in report.models]
    assert [c is not None for c in classes] == [True, True, False], "random weights are not drawn"
    assert classes[1].layers[0].original == pytest.approx(1)  # type: ignore[union-attr]
    assert classes[0] == classes_of(audited_models[0].evidence)  # type: ignore[arg-type]
