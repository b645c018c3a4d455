"""What `--features` and `--autoencoder` ask for, and what they refuse."""

import dataclasses
import json
import types
from pathlib import Path

import numpy as np
import pytest

from dbjax.build import build
from dbjax.config import load_config
from dbjax.data import DataConfig, load_dataset, write_latents
from dbjax.errors import SettingError
from dbjax.metrics import quantise
from dbjax.metrics.image_features import Features
from experiments import evaluate, evaluate_images, image_features, report, sample
from experiments.image_features import FeatureRequest, open_network, real_summary, sample_summary
from experiments.sweep_run import DEFAULTS
from tests.experiments.test_report import write_run

CONFIGS = Path(__file__).parents[2] / "configs"


class Corners:
    """A network that sees four corners, and counts what it looked at."""

    name, size = "corners (weights 0123abcd)", 4

    def __init__(self):
        self.seen = 0

    def features(self, images):
        assert images.dtype == np.uint8
        self.seen += len(images)
        corners = images[:, ::7, ::7, 0].reshape(len(images), 4) / 255
        return Features(corners, logits=corners)


class Doubled:
    """Stands in for an autoencoder: each number is eight by eight pixels."""

    def __init__(self, model):
        self.name = f"{model}, doubled"

    def decode(self, latents):
        shown = (127.5 + 50 * latents[..., :3].astype(np.float32)).clip(0, 255)
        return np.rint(shown).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture(scope="module")
def digits():
    return build(load_config(CONFIGS / "dit_digits.py"))


SIZE = 1797
"""Of all digits, which that config trains on."""


@pytest.fixture
def latents(tmp_path):
    """The overrides of a small model of 20 latents."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(20, 32, 32, 4)).astype(np.float16)
    write_latents(tmp_path / "data" / "train.array_record", drawn, np.arange(20))
    return {"data.data_dir": str(tmp_path / "data"), "model.size": "S", "partition.num_blocks": 1}


@pytest.fixture
def corners(monkeypatch):
    network = Corners()
    monkeypatch.setattr(image_features, "load_proxy", lambda *_: network)
    return network


def test_pixels_are_measured_as_ever(digits):
    request = FeatureRequest()
    network = open_network(request, digits)
    real = real_summary(network, digits, request)
    assert (real.features, real.count) == ("pixels in [0, 1]", SIZE)
    x = digits.dataset.source.read(np.arange(SIZE))["image"].reshape(SIZE, -1) / 16
    np.testing.assert_allclose(real.vectors.mean, x.mean(axis=0))
    np.testing.assert_allclose(real.vectors.covariance, np.cov(x, rowvar=False), atol=1e-12)
    assert request.asked == {}


def test_statistics_of_real_images_are_kept(digits, corners, tmp_path):
    request = FeatureRequest("proxy", cache=tmp_path)
    network = open_network(request, digits)
    first = real_summary(network, digits, request)
    again = real_summary(network, digits, request)
    assert corners.seen == SIZE
    np.testing.assert_array_equal(first.kept, again.kept)
    [file] = tmp_path.iterdir()
    facts = digits.dataset.info.fingerprint, "corners-weights-0123abcd"
    assert file.name.startswith(f"real-digits-all-{facts[0]}-{facts[1]}-")
    assert file.name.endswith(f"-{SIZE}.npz")
    # Another number or another network has a file of its own.
    some = FeatureRequest("proxy", num_real=100, cache=tmp_path)
    assert real_summary(network, digits, some).count == 100
    corners.name = "corners (weights 4567cdef)"
    real_summary(open_network(request, digits), digits, request)
    assert corners.seen == SIZE + 100 + SIZE
    assert len(list(tmp_path.iterdir())) == 3
    # One file under the name of another is found out.
    next(tmp_path.glob("*-100.npz")).replace(file)
    corners.name = "corners (weights 0123abcd)"
    with pytest.raises(SettingError, match="statistics of count 100, and not of 1797"):
        real_summary(open_network(request, digits), digits, request)
    with pytest.raises(SettingError, match="--num_real is 1798; allowed: at most 1797"):
        real_summary(network, digits, FeatureRequest("proxy", num_real=1798, cache=tmp_path))


def test_all_is_measured_from_the_same_features(digits, corners, tmp_path, monkeypatch):
    """The results of a model that draws the real images themselves, in another order."""
    real = digits.dataset.source.read(np.random.default_rng(0).permutation(SIZE))["image"]
    model = types.SimpleNamespace(
        blocks={}, sample=lambda count, **_: real[:count].astype(np.float32)
    )
    monkeypatch.setattr(evaluate_images, "draw_walk", lambda *_, **__: None)
    monkeypatch.setattr(evaluate_images, "CLASSIFIED", 0)  # no time for it
    request = FeatureRequest("proxy", cache=tmp_path / "cache")
    found = evaluate_images.image_results(digits, model, SIZE, tmp_path, request)
    assert found["frechet_features"] == corners.name
    assert found["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert (found["num_samples"], found["num_real"]) == (SIZE, SIZE)
    quality = found["image_quality"]
    assert (quality["precision"], quality["recall"]) == (1, 1)
    assert quality["class_score"] >= 1
    json.dumps(found)
    plain = evaluate_images.image_results(digits, model, 100, tmp_path, FeatureRequest())
    assert "image_quality" not in plain
    assert plain["frechet_features"] == "pixels in [0, 1]"


def test_samples_are_rounded_to_the_levels_first(digits, corners, tmp_path):
    network = open_network(FeatureRequest("proxy", cache=tmp_path), digits)
    exact = np.full((5, 8, 8, 1), 4.0)
    found = [sample_summary(network, quantise(x, 16.0)) for x in (exact, exact + 0.3)]
    assert found[0].kept[0, 0] == found[1].kept[0, 0] == pytest.approx(64 / 255)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kind": "fid"}, "--features is 'fid'; allowed: pixels, proxy, or inception:FILE"),
        ({"kind": "inception:"}, "--features is 'inception:'"),
        ({"num_real": 1}, "--num_real is 1; allowed: 2 or more"),
    ],
)
def test_impossible_requests_are_refused(settings, sentence):
    with pytest.raises(SettingError, match=sentence):
        FeatureRequest(**settings)


def test_what_is_not_for_the_data_is_refused(digits):
    data = DataConfig("spiral")
    spiral = dataclasses.replace(digits, data=data, dataset=load_dataset(data))
    with pytest.raises(
        SettingError, match=r"allowed: pixels for data.name 'spiral', which are poi"
    ):
        open_network(FeatureRequest("inception:weights.pth"), spiral)
    with pytest.raises(SettingError, match=r"--autoencoder is 'vae'; allowed: nothing for.*digits"):
        open_network(FeatureRequest("proxy", autoencoder="vae"), digits)
    with pytest.raises(
        SettingError, match=r"weights is 'gone\.pth'; allowed: a file that is there"
    ):
        open_network(FeatureRequest("inception:gone.pth"), digits)


def test_of_models_that_draw_nothing_no_features_are_asked(tmp_path):
    config = load_config(CONFIGS / "mdm_docs.py")
    with pytest.raises(SettingError, match="--features is 'proxy'; allowed: nothing for run, whic"):
        evaluate._check({Path("run"): config}, None, None, FeatureRequest("proxy"))


def test_what_was_measured_otherwise_is_no_evaluation_of_a_sweep():
    asked = {"num_samples": None, "num_noises": 1}
    assert {**asked, **FeatureRequest(cache=Path("elsewhere")).asked} == DEFAULTS
    assert {**asked, **FeatureRequest("proxy").asked} != DEFAULTS


def test_runs_measured_in_different_features_are_not_reported_side_by_side(tmp_path):
    runs = [write_run(tmp_path / "a", 3), write_run(tmp_path / "b", 1)]
    file = runs[0] / "evaluation.json"
    found = json.loads(file.read_text())
    found |= {"frechet_features": "proxy (digits)", "num_real": 1437}
    found["image_quality"] = {"precision": 0.75, "recall": 0.5}
    file.write_text(json.dumps(found))
    with pytest.raises(SettingError, match=r"frechet_features of the runs is .*'proxy"):
        report.write_report(runs, tmp_path / "report.html")
    report.write_report(runs[:1], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "over proxy (digits); not comparable with published FIDs;" in page
    assert "75.0%" in page


def test_latents_need_what_makes_pictures_of_them(latents, corners, monkeypatch, tmp_path):
    setup = build(load_config(CONFIGS / "dit_imagenet256.py", latents))
    with pytest.raises(SettingError, match="are latents; allowed: to name with --autoencoder"):
        open_network(FeatureRequest("proxy", cache=tmp_path), setup)
    monkeypatch.setattr(image_features, "DiffusersAutoencoder", Doubled)
    request = FeatureRequest("proxy", cache=tmp_path, autoencoder="vae")
    network = open_network(request, setup)
    assert network.name == f"{corners.name}, latents decoded by vae, doubled"
    assert request.asked == {"kind": "proxy", "autoencoder": "vae"}
    with pytest.raises(SettingError, match="allowed: nothing with --features=pixels"):
        open_network(FeatureRequest(autoencoder="vae"), setup)


def test_samples_of_latents_become_pictures(latents, monkeypatch, tmp_path):
    config = CONFIGS / "dit_imagenet256.py"
    drawn = np.random.default_rng(1).normal(size=(4, 32, 32, 4)).astype(np.float32)
    model = types.SimpleNamespace(blocks={}, sample=lambda count, **_: drawn)
    monkeypatch.setattr(sample.session, "load", lambda *_, **__: model)
    monkeypatch.setattr(sample, "draw_walk", lambda *_, **__: None)
    monkeypatch.setattr(image_features, "DiffusersAutoencoder", Doubled)
    overrides = [f"--config.{key}={value}" for key, value in latents.items()]
    sample.main([f"--config={config}", f"--workdir={tmp_path}", "--num_samples=4", *overrides,
                 "--autoencoder=vae"])  # fmt: skip
    with np.load(tmp_path / "samples" / "samples.npz") as found:
        np.testing.assert_array_equal(found["latent"], drawn)
        np.testing.assert_array_equal(found["image"], Doubled("vae").decode(drawn))
    assert (tmp_path / "samples" / "samples.png").is_file()
