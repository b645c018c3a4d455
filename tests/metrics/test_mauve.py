"""MAUVE against its published definition, and against sets of texts whose order is known."""

import dataclasses
import itertools
import math
import sys

import numpy as np
import pytest

from dbjax.errors import SettingError
from dbjax.metrics import TfidfFeatures, mauve_score, require_comparable
from dbjax.metrics.mauve import mauve_from_features
from dbjax.metrics.text_features import TextFeatures
from tests.metrics.text_sources import ANIMALS, METALS, sentences


def published(p: np.ndarray, q: np.ndarray, scaling_factor: float) -> float:
    """Area under the divergence curve of two histograms (arXiv 2102.01454, section 2)."""

    def divergence(a, b):
        some = a > 0
        return float(np.sum(a[some] * np.log(a[some] / b[some])))

    curve = [(1.0, 0.0)]
    for w in np.linspace(1e-6, 1 - 1e-6, 25):
        mixture = w * p + (1 - w) * q
        curve.append(tuple(math.exp(-scaling_factor * divergence(a, mixture)) for a in (q, p)))
    x, y = np.array([*curve, (0.0, 1.0)]).T
    # From one end of the curve to the other, so that the steps have one sign.
    return float((abs(np.trapezoid(y, x)) + abs(np.trapezoid(x, y))) / 2)


def clustered(counts: list[int], seed: int) -> np.ndarray:
    """Points closely around as many orthogonal directions as there are counts."""
    points = np.repeat(np.eye(len(counts)), counts, axis=0)
    return points + 0.01 * np.random.default_rng(seed).standard_normal(points.shape)


@pytest.mark.parametrize("scaling_factor", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("counts", [[50, 50, 0], [20, 30, 50], [90, 5, 5]])
def test_the_score_is_the_published_one(counts, scaling_factor):
    reference = np.array([40, 40, 20])
    found = mauve_from_features(
        clustered(reference.tolist(), 0),
        clustered(counts, 1),
        features="directions",
        num_clusters=3,
        scaling_factor=scaling_factor,
    )
    expected = published(reference / 100, np.array(counts) / 100, scaling_factor)
    assert found.score == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scaling_factor, floor", [(1.0, 0.5000), (2.0, 0.1672), (5.0, 0.0041)])
def test_sets_that_share_nothing_score_what_the_scaling_factor_says(scaling_factor, floor):
    found = mauve_from_features(
        clustered([100, 0], 0),
        clustered([0, 100], 1),
        features="directions",
        num_clusters=2,
        scaling_factor=scaling_factor,
    )
    assert found.score == pytest.approx(floor, abs=1e-4)


@pytest.fixture(scope="module")
def features():
    return TfidfFeatures(sentences(ANIMALS + METALS, 300, 9), dim=16)


def test_the_score_falls_as_generated_texts_leave_the_reference(features):
    reference = sentences(ANIMALS, 400, 0)
    scores = []
    for strangers in (0, 100, 200, 300, 400):
        generated = sentences(ANIMALS, 400 - strangers, 1) + sentences(METALS, strangers, 2)
        scores.append(mauve_score(reference, generated, features, scaling_factor=5.0).score)
    assert scores[0] > 0.95
    assert scores[-1] < 0.01
    assert all(a > b + 0.02 for a, b in itertools.pairwise(scores))


def test_a_score_says_what_it_depends_on(features):
    reference, generated = sentences(ANIMALS, 120, 0), sentences(ANIMALS, 200, 1)
    found = mauve_score(reference, generated, features, unequal=True)
    assert found.settings == {
        "num_reference": 120,
        "num_generated": 200,
        "features": features.name,
        "scaling_factor": 2.0,
        "num_clusters": 12,
        "seed": 25,
    }
    assert found == mauve_score(reference, generated, features, unequal=True)


def test_scores_with_different_settings_do_not_compare(features):
    reference, generated = sentences(ANIMALS, 100, 0), sentences(ANIMALS, 100, 1)
    found = mauve_score(reference, generated, features, num_clusters=5)
    require_comparable(found, dataclasses.replace(found, score=0.5))
    other = dataclasses.replace(found, features="gpt2-large")
    with pytest.raises(SettingError, match=r"features 'tfidf-svd-16 .*' and 'gpt2-large' do not"):
        require_comparable(found, found, other)
    with pytest.raises(SettingError, match=r"scaling_factor 2\.0 and 5\.0"):
        require_comparable(found, dataclasses.replace(found, scaling_factor=5.0))


def test_texts_that_cannot_be_measured_are_refused(features):
    texts = sentences(ANIMALS, 40, 0)
    with pytest.raises(SettingError, match="number of reference texts is 19; allowed: 20 or more"):
        mauve_score(texts[:19], texts, features)
    with pytest.raises(SettingError, match="number of generated texts is 0"):
        mauve_score(texts, [], features)
    with pytest.raises(SettingError, match="number 3 of generated texts is ''"):
        mauve_score(texts, [*texts[:3], "", *texts[4:]], features)
    with pytest.raises(SettingError, match="40 reference and 30 generated texts"):
        mauve_score(texts, texts[:30], features)


def test_features_and_settings_out_of_range_are_refused():
    points = clustered([20, 20], 0)
    with pytest.raises(SettingError, match="num_clusters is 41; allowed: 2 to 40"):
        mauve_from_features(points, points, features="points", num_clusters=41)
    with pytest.raises(SettingError, match=r"scaling_factor is 0\.0; allowed: above 0"):
        mauve_from_features(points, points, features="points", scaling_factor=0.0)
    with pytest.raises(SettingError, match="'points' are not finite"):
        mauve_from_features(points, np.full_like(points, np.nan), features="points")
    with pytest.raises(SettingError, match="'points' are the same for all texts"):
        mauve_from_features(np.ones((20, 3)), np.ones((20, 3)), features="points")
    with pytest.raises(SettingError, match="number of generated texts is 3"):
        mauve_from_features(points, points[:3], features="points", unequal=True)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    points = clustered([20, 20], 0)
    with pytest.raises(SettingError, match=r"MAUVE needs .* pip install 'dbjax\[text\]'"):
        mauve_from_features(points, points, features="points")


def test_tfidf_features(features):
    assert isinstance(features, TextFeatures)
    found = features([*sentences(ANIMALS, 3, 5), "0123"])
    assert found.shape == (4, 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 1, 1, 0])
    np.testing.assert_array_equal(found[1], features(sentences(ANIMALS, 3, 5)[1:2])[0])


def test_tfidf_features_are_named_a_proxy_and_by_the_texts_they_were_fitted_to():
    texts = sentences(ANIMALS, 30, 0)
    first = TfidfFeatures(texts, dim=4)
    assert first.name.startswith("tfidf-svd-4 (proxy, 30 texts ")
    assert TfidfFeatures(texts, dim=4).name == first.name
    assert TfidfFeatures([*texts[1:], "an eel"], dim=4).name != first.name


def test_tfidf_features_need_texts_that_vary():
    with pytest.raises(SettingError, match="dim is 64; allowed: 1 to 30, what 30 texts"):
        TfidfFeatures(sentences(ANIMALS, 30, 0))
    with pytest.raises(SettingError, match="number 1 of texts to fit features to is ''"):
        TfidfFeatures(["one", ""], dim=1)
    with pytest.raises(SettingError, match="number 0 of texts is ''"):
        TfidfFeatures(sentences(ANIMALS, 30, 0), dim=2)([""])
